"""What the memory store keeps by name: positions of sources, and when triggers were run last."""

from __future__ import annotations

import time
from collections.abc import Sequence


class KeptPositions:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, name: str) -> str | None:
        return self._values.get(name)

    async def put(self, name: str, value: str) -> None:
        self._values[name] = value


class Owned:
    """The triggers that this process has run, in this opening of the store or an earlier one."""

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}
        self._now: Sequence[str] = ()

    def own(self, names: Sequence[str]) -> float | None:
        self.seen()
        self._now, known = names, [self._seen_at[name] for name in names if name in self._seen_at]
        return time.time() - max(known) if known else None

    def seen(self) -> None:
        """Those that are run now are run at this moment still."""
        self._seen_at.update(dict.fromkeys(self._now, time.time()))

    def leave(self) -> None:
        self.seen()
        self._now = ()
