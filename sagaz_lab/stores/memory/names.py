"""Named values of the memory store: source positions, and when triggers last ran."""

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
    """The triggers this process has run, in any opening of the store."""

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}
        self._now: Sequence[str] = ()

    def own(self, names: Sequence[str]) -> float | None:
        self.seen()
        self._now, known = names, [self._seen_at[name] for name in names if name in self._seen_at]
        return time.time() - max(known) if known else None

    def seen(self) -> None:
        """Record that the current triggers are still running now."""
        self._seen_at.update(dict.fromkeys(self._now, time.time()))

    def leave(self) -> None:
        self.seen()
        self._now = ()
