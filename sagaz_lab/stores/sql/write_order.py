"""Orders the writes of each run, so that none overtakes another and a slow one delays no other run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class WriteOrder:
    """A queue for each run with a slow write under way."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, list[None]]] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._locks

    @asynccontextmanager
    async def of(self, run_id: str) -> AsyncIterator[None]:
        """Enter in the order of the calls for this run."""
        lock, waiting = self._locks.setdefault(run_id, (asyncio.Lock(), []))
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._locks[run_id]
