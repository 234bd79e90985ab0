"""The loop that owns an open Lab: its callers', or an isolated thread's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from threading import Lock
from typing import Any

from sagaz_lab.errors import LabClosed
from sagaz_lab.hosting.isolated import Isolated, Shipped, loop_here
from sagaz_lab.model.step import current_step

Work = Callable[[], Coroutine[Any, Any, None]]

LEAVE_S = 1.0
"""Grace for publications when a Lab moves to another loop; nothing else is under way then."""

LIVES_HERE = "the Lab is running on this event loop: stop it first, then start it isolated"
LIVES_THERE = "the Lab is running isolated: start with isolated=True (--isolated) too, or stop it first"
OTHER_LOOP = "the Lab is open on another event loop; stop it there first"
IN_THREAD = (
    "{0} runs in a worker thread, on another event loop than the Lab's: make it `async def` and await the Lab there, "
    "or return the call's coroutine, which the Lab awaits"
)


class LoopOwner:
    """`loop` is the loop on which the Lab is open; `isolated` the thread of an isolated Lab."""

    def __init__(self) -> None:
        self.isolated = Isolated()
        self.loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._starting: Shipped[None] | None = None
        self._leaving: Shipped[None] | None = None
        self._stopping: Shipped[None] | None = None
        self._lock = Lock()

    @property
    def is_open(self) -> bool:
        """False as soon as a stop has begun; live runs continue on `loop` until it ends."""
        return self._stopping is None and self._has_loop

    @property
    def _has_loop(self) -> bool:
        return self.loop is not None and not self.loop.is_closed()

    def _elsewhere(self) -> LabClosed:
        step = current_step.get(None)
        if step is not None and self.loop is not None and step.run.loop is self.loop:
            return LabClosed(IN_THREAD.format(f"{step.run.definition.name}.{step.name}"))
        return LabClosed(OTHER_LOOP)

    async def open(self, really: Work, forget: Callable[[], None]) -> None:
        """Open the Lab on this loop, after a stop in progress. Idempotent.

        `forget` is called if its former loop is gone.
        """
        loop = asyncio.get_running_loop()
        await self._stop_over()
        if self.loop is loop:
            return
        if self._has_loop:
            raise self._elsewhere()
        if self.loop is not None:
            self.loop = None
            forget()
        if self._opening is None or self._opening.done() or self._opening.get_loop() is not loop:
            self._opening = loop.create_task(self._open(really), name="open Lab")
        try:
            await asyncio.shield(self._opening)
        finally:
            if self._opening is not None and self._opening.done():
                self._opening = None

    async def _open(self, really: Work) -> None:
        await self._left()
        await really()
        self.loop = asyncio.get_running_loop()

    def move(self, isolated: bool, lives: Callable[[], bool], close: Work) -> None:
        """Switch between isolated and the caller's loop; `close` first closes a Lab that is open elsewhere.

        Raises `LabClosed` if the Lab is running there, or if that loop is another caller's.
        """
        if isolated is (self.isolated.loop is not None):
            return
        if isolated and self.is_open and self.loop is not loop_here():
            raise self._elsewhere()
        leave = self.isolated.call_there(partial(self._leave, lives, close))
        if not isolated:
            self._leaving = self.isolated.end_after(leave or _nothing)
            return
        if leave is not None and (loop := loop_here()) is not None:
            self._leaving = Shipped(loop, leave(), "leave the loop")
        self.isolated.begin()

    def start(self, work: Work) -> Shipped[None]:
        """Start the triggers on the Lab's loop."""
        self._starting = self.isolated.ship(work, "start triggers")
        return self._starting

    def _leave(self, lives: Callable[[], bool], close: Work) -> Work | None:
        opening = self._opening
        is_opening = opening is not None and not opening.done() and not opening.get_loop().is_closed()
        if is_opening or lives():
            raise LabClosed(LIVES_HERE if self.isolated.loop is None else LIVES_THERE)
        if not self.is_open:
            return None
        self.loop = None
        return close

    async def _left(self) -> None:
        """Wait until the Lab is closed on its former loop."""
        if (leaving := self._leaving) is not None:
            try:
                await leaving
            finally:
                if leaving.is_over:
                    self._leaving = None

    async def _stop_over(self) -> None:
        """Wait for a stop in progress, whether or not it succeeds."""
        while (stopping := self._stopping) is not None and not stopping.is_over:
            await stopping.ended.wait()

    async def stop(self, close: Work) -> None:
        """Cancel a start in progress, close the Lab on its loop, end the thread. Idempotent.

        It runs as a separate task, so that cancelling the caller does not stop it: the caller may be one of the runs.
        """
        if self.isolated.loop is None and self._has_loop and self.loop is not loop_here():
            raise self._elsewhere()
        if (starting := self._starting) is not None and not starting.is_over:
            starting.cancel()
        await self._left()
        with self._lock:
            begun = self._stopping
            stopping = self._stopping = begun or self.isolated.ship(partial(self._close, close, starting), "stop Lab")
            if begun is None:
                stopping.ended.then(self._stopped)
            wait_for_end = self.isolated.wait_for_end
        if self.isolated.is_here:
            await stopping
            wait_for_end()
            return
        try:
            await stopping.run_to_end()
        finally:
            if self._stopping is stopping:  # abandoned: its caller was cancelled twice
                self._stopped()
            wait_for_end()

    def _stopped(self) -> None:
        self._stopping = None
        self.isolated.end()

    async def _close(self, close: Work, starting: Shipped[None] | None) -> None:
        if starting is not None and not starting.is_over:
            await starting.ended.wait()
        if self._opening is not None and not self._opening.done():
            await asyncio.wait([self._opening])
        if self._has_loop:
            try:
                await close()
            finally:
                self.loop = None


async def _nothing() -> None: ...
