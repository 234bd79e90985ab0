"""The logs of runs, one file each in the run's folder, removed with the run."""

from __future__ import annotations

from sagaz_lab.stores.values.artifacts import Artifacts

NAME = "log.json"


class LogFiles:
    """Callable from any thread. Files are not synced: after a machine crash a log may be outdated or missing."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def write(self, run_id: str, text: bytes) -> None:
        """Replace the log. Raises `OSError`."""
        folder = self._artifacts.folder(run_id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = folder / f".{NAME}"
        draft.touch(mode=0o600)
        draft.write_bytes(text)
        draft.replace(folder / NAME)

    def read(self, run_id: str) -> bytes | None:
        """None without a log."""
        try:
            return (self._artifacts.folder(run_id) / NAME).read_bytes()
        except OSError:
            return None
