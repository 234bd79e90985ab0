"""Tells errors that end the current task from errors of the user code it called."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextlib import suppress
from typing import Any

from sagaz_lab.model.awaiting import awaited
from sagaz_lab.model.inside import may_go_on


class OwnTask:
    """The current task, captured before it calls user code.

    User code raises `CancelledError` when it awaits a cancelled task, and may raise `GeneratorExit` or `SystemExit`.
    These are ordinary errors: only a cancellation of our own task ends it.
    """

    __slots__ = ("_asked", "_task")

    def __init__(self) -> None:
        self._task = _running()
        self._asked = 0 if self._task is None else self._task.cancelling()

    def ends_by(self, error: BaseException) -> bool:
        """Whether this task has been cancelled since, or discarded by its loop."""
        if isinstance(error, asyncio.CancelledError):
            return self._task is None or self._task.cancelling() > self._asked
        return isinstance(error, GeneratorExit) and _running() is not self._task


class UserCode:
    """User code that the current task calls, and awaits by this.

    A request to cancel the task is the code's own if it comes while the code runs; in a task of the Lab also if it
    comes while the code waits, unless the Lab makes it. The error that follows is an ordinary one, and the request is
    to be withdrawn before anything else is awaited.
    """

    __slots__ = ("_asked", "_outside", "_task")

    def __init__(self) -> None:
        self._task = _running()
        self._asked = 0 if self._task is None else self._task.cancelling()
        self._outside = 0

    async def awaited(self, value: Any) -> Any:
        """The value, awaited until the result is no longer awaitable."""
        await self.withdraw()
        return await self._watched(awaited(value))

    @types.coroutine
    def _watched(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step, given, error = None, None, None
        try:
            while True:
                step = work.send(given) if error is None else work.throw(error)
                given, error, requests = None, None, self.requests
                try:
                    given = yield step
                except BaseException as raised:  # noqa: BLE001  # passed to the code
                    error = raised
                self.waited(requests)
        except StopIteration as returned:
            return returned.value

    @property
    def requests(self) -> int:
        """How often the task has been asked to end."""
        return 0 if self._task is None else self._task.cancelling()

    def waited(self, before: int) -> None:
        """The code goes on: what came since there were so many requests is not its own. It may have withdrawn some of
        those that came earlier, as `asyncio.timeout` does."""
        self._outside = max(0, min(self._outside, before - self._asked)) + max(0, self.requests - before)

    @property
    def pending(self) -> bool:
        """Whether there is something to be withdrawn."""
        return self.requests > self._asked + self._outside

    def ends_by(self, error: BaseException) -> bool:
        """Whether another has cancelled this task since, or its loop has discarded it."""
        if isinstance(error, asyncio.CancelledError):
            if self._task is None:
                return True
            if may_go_on(self._task) and not loop_ends():
                self._outside = 0
            return min(self._outside, self.requests - self._asked) > 0
        return isinstance(error, GeneratorExit) and _running() is not self._task

    async def withdraw(self) -> None:
        """The task goes on, whatever the code has asked for."""
        task = self._task
        if task is not None and self.pending:
            while self.pending:
                task.uncancel()
            await _heard_of(task)


def loop_ends(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether all tasks left on the loop (default: this one) are being cancelled, as at the end of `asyncio.run`."""
    return all(task.cancelling() for task in asyncio.all_tasks(loop))


async def uncancel() -> None:
    """Withdraw all requests to cancel this task."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
    await _heard_of(task)


async def _heard_of(task: asyncio.Task[Any] | None) -> None:
    """A request that was withdrawn raises no error any more."""
    if getattr(task, "_must_cancel", False):
        # The task has not awaited since it was cancelled: the error would be raised at its next await.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _running() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop is closed
        return None
