"""The order of writes: those of one run never overtake one another, and a slow one holds up no other run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WriteOrder:
    """A queue for each run that has something slow under way; none for the others."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._locks

    @asynccontextmanager
    async def of(self, run_id: str) -> AsyncIterator[None]:
        """The run's turn, in the order of the calls."""
        lock, waiting = self._locks.setdefault(run_id, (asyncio.Lock(), []))
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._locks[run_id]
