"""Timers: one heap and one sleeping task for a whole Lab."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

from sagaz_lab.errors import describe
from sagaz_lab.runtime.gates.moments import ROUNDING_S, Moments
from sagaz_lab.runtime.lifetime.tasks import Report, Tasks

logger = logging.getLogger("sagaz_lab")

NAP_S = 60.0
"""A sleep of the machine, which no timer counts, and a clock that was put forward are noticed this soon."""


class Timer:
    """A scheduled call."""

    __slots__ = ("at", "callback")

    def __init__(self, at: float, callback: Callable[[], object]) -> None:
        self.at = at
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Timers:
    """Scheduled calls, earliest first; calls for the same moment keep the order of scheduling."""

    def __init__(self, clock: Moments, tasks: Tasks, report: Report) -> None:
        self._clock = clock
        self._tasks = tasks
        self._report = report
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._task: asyncio.Task[Any] | None = None
        self._wakes_at = 0.0

    def call_at(self, at: float, callback: Callable[[], object]) -> Timer:
        """Schedule a call."""
        timer = Timer(at, callback)
        heappush(self._heap, (at, next(self._numbers), timer))
        if self._task is None or self._task.done():
            self._start()
        elif at < self._wakes_at:
            self._tasks.cancel(self._task)
            self._start()
        return timer

    def _start(self) -> None:
        self._wakes_at = self._heap[0][0]
        self._task = self._tasks.start(self._run(), "timers", self._tasks.home)

    async def _run(self) -> None:
        heap = self._heap
        while heap:
            at, _, timer = heap[0]
            if timer.callback is not None and (delay_s := at - self._clock.now()) > ROUNDING_S:
                self._wakes_at = at
                # Differences of moments are exact to a microsecond only.
                await self._clock.sleep(min(round(delay_s, 6), NAP_S))
                continue
            heappop(heap)
            if timer.callback is not None:
                self._clock.reach(at)
                self._call(timer.callback)
        self._task = None

    def _call(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except Exception as error:
            logger.exception("a timer")
            self._report("task", f"a timer failed: {describe(error)}")
