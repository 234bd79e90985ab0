"""Things that come back when their time has come, for brokers that cannot wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from sagaz_lab.abc import Clock

T = TypeVar("T")


class Delayed(Generic[T]):
    """Hands each thing to `give_back` once its delay is over, by the clock. Owns one task while something waits."""

    def __init__(self, clock: Clock, give_back: Callable[[T], None]) -> None:
        self._clock = clock
        self._give_back = give_back
        self._heap: list[tuple[float, int, T]] = []
        self._numbers = count()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def put(self, thing: T, delay_s: float) -> None:
        if delay_s <= 0:
            self._give_back(thing)
            return
        entry = (self._clock.monotonic() + delay_s, next(self._numbers), thing)
        heappush(self._heap, entry)
        if self._heap[0] is entry:
            self._stop()
            self._task = asyncio.create_task(self._run(), name="delayed deliveries")

    def clear(self) -> list[T]:
        """What still waits, soonest first; it will not be handed back any more."""
        self._stop()
        waiting = [thing for _, _, thing in sorted(self._heap)]
        self._heap.clear()
        return waiting

    async def _run(self) -> None:
        while self._heap:
            wait_s = self._heap[0][0] - self._clock.monotonic()
            if wait_s > 0:
                await self._clock.sleep(wait_s)
            else:
                self._give_back(heappop(self._heap)[2])

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None


async def sleep_unless(clock: Clock, seconds: float, event: asyncio.Event) -> None:
    """Return after so many seconds of the clock, or as soon as the event is set."""
    waits = [asyncio.create_task(clock.sleep(seconds)), asyncio.create_task(event.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
