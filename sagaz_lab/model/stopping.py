"""Tells errors that end the current task from errors of the user code it called."""

from __future__ import annotations

import asyncio
from contextlib import suppress


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


def loop_ends(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether all tasks left on the loop (default: this one) are being cancelled, as at the end of `asyncio.run`."""
    return all(task.cancelling() for task in asyncio.all_tasks(loop))


async def uncancel() -> None:
    """Withdraw all requests to cancel this task."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
    if getattr(task, "_must_cancel", False):
        # The task has not awaited since it was cancelled: the error would be raised at its next await.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)


def _running() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop is closed
        return None
