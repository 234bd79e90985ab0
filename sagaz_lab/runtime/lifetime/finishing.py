"""Work that survives the cancellation of its caller: an event that reaches the store is also counted and started."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sagaz_lab.errors import LabClosed
from sagaz_lab.runtime.lifetime.tasks import Report

CLOSE_S = 3.0
"""How long listeners of a batch may take once the Lab closes."""

NOT_TAKEN = "the Lab is closing; the event was not taken"


class Finishing:
    """Runs work to its end although its caller is cancelled; a closing Lab waits for it."""

    def __init__(self, awaited: bool, report: Report) -> None:
        self._awaited = awaited
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self.asking = 0
        """Batches at the store, whose answer is bounded by the store's own time-outs."""

    async def to_the_end(self, work: Coroutine[Any, Any, None], *, waits: bool = False) -> None:
        """Returns when the work is done. `waits`: it also waits for user code.

        Raises `LabClosed` if the Lab closed and abandoned it.
        """
        if self._awaited or waits:
            await self._in_a_task(work)
        else:
            await work

    async def _in_a_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            own = asyncio.current_task()
            if task.cancelled() and own is not None and not own.cancelling():
                raise LabClosed("the Lab was closed while a listener was running; the event is stored") from None
            raise

    async def close(self) -> None:
        """Returns when all work is done. Work that waits for user code is abandoned after `CLOSE_S` and reported."""
        while self._tasks:
            done, left = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            if not (done or self.asking):
                text = f"{len(left)} batch(es) of events were stored, but a listener did not return in time"
                self._report("stop", text)
                for task in left:
                    task.cancel()
                return
