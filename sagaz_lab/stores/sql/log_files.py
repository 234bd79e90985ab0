"""The logs of runs, a file each beside what else the run has in files: it goes with the run."""

from __future__ import annotations

from sagaz_lab.stores.values.artifacts import Artifacts

NAME = "log.json"


class LogFiles:
    """Any thread may ask. A file is not synced: after a crash of the machine a log may be an older one, or missing."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def write(self, run_id: str, text: bytes) -> None:
        """In place of what there is. Raises `OSError`."""
        folder = self._artifacts.folder(run_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = folder / f".{NAME}"
        draft.touch(mode=0o600)
        draft.write_bytes(text)
        draft.replace(folder / NAME)

    def read(self, run_id: str) -> bytes | None:
        """None where there is none."""
        try:
            return (self._artifacts.folder(run_id) / NAME).read_bytes()
        except OSError:
            return None
