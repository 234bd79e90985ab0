"""Whether an error ends the task that runs, or only the user's code that the task has called."""

from __future__ import annotations

import asyncio
from contextlib import suppress


class OwnTask:
    """The task that runs now, as it stood before it called the user's code.

    User code raises `CancelledError` when it awaits a task that somebody else has cancelled, and it may raise
    `GeneratorExit` or `SystemExit`. These are errors like any other: only a cancellation of our own task ends it.
    """

    __slots__ = ("_asked", "_task")

    def __init__(self) -> None:
        self._task = _running()
        self._asked = 0 if self._task is None else self._task.cancelling()

    def ends_by(self, error: BaseException) -> bool:
        """Whether somebody has cancelled this task since, or its loop has thrown it away."""
        if isinstance(error, asyncio.CancelledError):
            return self._task is None or self._task.cancelling() > self._asked
        return isinstance(error, GeneratorExit) and _running() is not self._task


def loop_ends(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether all that is left on the loop, else this one, is being cancelled, as `asyncio.run` does at its end."""
    return all(task.cancelling() for task in asyncio.all_tasks(loop))


async def uncancel() -> None:
    """Take back what has asked for the cancelling of this task."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
    if getattr(task, "_must_cancel", False):
        # Who cancelled it has not waited since: that would come with what is waited for next.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _running() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop is gone
        return None
