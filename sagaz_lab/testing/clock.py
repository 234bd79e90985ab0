"""A virtual clock, which moves only on request."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from heapq import heappop, heappush
from itertools import count

_SETTLE_TURNS = 20  # loop iterations that let woken tasks reach their next sleep


class VirtualClock:
    """A clock for tests. `advance` wakes sleepers in the order of their times, each at its own time."""

    def __init__(self, start: float | datetime | None = None) -> None:
        begin = datetime(2024, 1, 1, tzinfo=UTC) if start is None else start
        self._now = begin.timestamp() if isinstance(begin, datetime) else float(begin)
        self._passed = 0.0
        self._numbers = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now + self._passed

    def monotonic(self) -> float:
        return self._passed

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (self._passed + seconds, next(self._numbers), woken))
        await woken

    async def advance(self, seconds: float) -> None:
        """Let time pass. A woken task that sleeps again within it is woken again."""
        until = self._passed + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, woken = heappop(self._sleepers)
            if not woken.done():
                self._passed = max(self._passed, due)
                woken.set_result(None)
                await self._settle()
        self._passed = until

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an operator or NTP would; no time passes."""
        self._now += seconds

    @property
    def sleepers(self) -> int:
        """The number of sleepers."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def _settle(self) -> None:
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
