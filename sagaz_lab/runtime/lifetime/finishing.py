"""Work that goes on when its caller is cancelled: what the store is about to take is also counted and started."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from sagaz_lab.errors import LabClosed
from sagaz_lab.runtime.lifetime.tasks import Report

CLOSE_S = 3.0
"""How long listeners that are told of a batch may take once the Lab closes."""

NOT_TAKEN = "the Lab is closing; the event was not taken"


class Finishing:
    """Work that goes on when its caller is cancelled, and that a closing Lab waits for."""

    def __init__(self, awaited: bool, report: Report) -> None:
        self._awaited = awaited
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self.asking = 0
        """How many batches are at the store, whose answer comes within the store's own time-outs."""

    async def to_the_end(self, work: Coroutine[Any, Any, None], *, waits: bool = False) -> None:
        """Returns when the work is done. It `waits` for the user's code, if for more than the store.

        Raises `LabClosed` if the Lab has closed and given it up.
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
                raise LabClosed("the Lab was closed while a listener was told of the event, which is stored") from None
            raise

    async def close(self) -> None:
        """Returns when all is done. What waits for the user's code is given up after `CLOSE_S`, and reported."""
        while self._tasks:
            done, left = await asyncio.wait(self._tasks, timeout=CLOSE_S)
            if not (done or self.asking):
                text = f"{len(left)} batch(es) of events were stored, but a listener did not return in time"
                self._report("stop", text)
                for task in left:
                    task.cancel()
                return
