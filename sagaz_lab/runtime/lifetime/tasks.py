"""Tasks with an owner, which reports their failures."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any

from sagaz_lab.errors import describe
from sagaz_lab.model.inside import belongs
from sagaz_lab.model.stopping import loop_ends
from sagaz_lab.model.variables import origin

logger = logging.getLogger("sagaz_lab")
Report = Callable[[str, str], None]
"""Called with the kind of problem and its text."""

CLOSE_S = 3.0
"""How long cancelled tasks may take to end."""


class Tasks:
    """Starts tasks, keeps references to them, reports failures, and ends them all."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tasks: set[asyncio.Task[Any]] = set()
        self._cancelled: set[asyncio.Task[Any]] = set()
        self._closing = False
        self.home = origin()
        """The context of work that belongs to no caller."""

    def start(self, work: Coroutine[Any, Any, Any], name: str, context: Context | None = None) -> asyncio.Task[Any]:
        """The task runs in a copy of `context`, by default the caller's."""
        context = copy_context() if context is None else context.copy()
        belongs(context, self)
        task = asyncio.get_running_loop().create_task(work, name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self, task: asyncio.Task[Any]) -> None:
        """End the task without a report."""
        if not task.done():
            self._cancelled.add(task)
            task.cancel()

    def may_go_on(self, task: asyncio.Task[Any]) -> bool:
        """Whether it is one of these, and was not cancelled here."""
        return task in self._tasks and not (self._closing or task in self._cancelled)

    async def close(self) -> None:
        """Cancel the remaining tasks and wait a limited time: user code may swallow the cancellation."""
        self._closing = True
        while tasks := [task for task in self._tasks if task is not asyncio.current_task()]:
            for task in tasks:
                task.cancel()
            _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
            if left:
                names = ", ".join(sorted(task.get_name() for task in left))
                self._report("stop", f"did not stop when cancelled: {names}")
                self._tasks -= left

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not (self._closing or task in self._cancelled or loop_ends(task.get_loop())):
                self._report("task", f"{task.get_name()} ended because its task was cancelled from outside")
            self._cancelled.discard(task)
        elif (error := task.exception()) is not None:
            logger.error("%s failed", task.get_name(), exc_info=error)
            self._report("task", f"{task.get_name()} failed: {describe(error)}")
