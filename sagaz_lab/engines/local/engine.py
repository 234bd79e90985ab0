"""The built-in engine, which executes runs on this process's loop."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Coroutine, Generator, Iterable, Iterator
from contextvars import Context
from functools import partial
from typing import Any, ClassVar

from sagaz_lab.abc import Attempt, Clock, EngineTraits
from sagaz_lab.engines.local.execution import Execution
from sagaz_lab.engines.local.linear import Stopped, linear
from sagaz_lab.engines.local.threads import THREADS, Report, Threads
from sagaz_lab.errors import DefinitionError
from sagaz_lab.model.inside import outside
from sagaz_lab.model.listener import tell

CLOSE_S = 3.0
"""How long abandoned runs may take to end."""

_ENDED = object()


class LocalEngine:
    """Executes runs on the loop and plain `def` actions in up to `threads` (64) worker threads.

    Runs that never wait share a task; every other run has its own. `report` takes reports on calls that hold up others.
    """

    traits: ClassVar[EngineTraits] = EngineTraits()

    def __init__(self, clock: Clock, threads: int | None = None, report: Report | None = None) -> None:
        threads = THREADS if threads is None else threads
        if type(threads) is not int or threads < 1:
            raise DefinitionError(f"Lab: threads={threads!r} must be a whole number, 1 or more")
        self._clock = clock
        self._new_threads = partial(Threads, threads, report)
        self._threads = self._new_threads()
        # Runs are taken when it is their turn: so there is never more than one of those that do not wait, and the
        # garbage collector is not woken for them.
        self._ready: deque[Iterator[Attempt]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._home: Context | None = None
        self._current: Attempt | None = None
        self._task: asyncio.Task[Any] | None = None
        self._waiting: dict[str, tuple[Attempt, asyncio.Task[Any]]] = {}

    def launch(self, runs: Iterable[Attempt]) -> None:
        self._ready.append(iter(runs))
        if self._worker is None:
            self._work_on()

    def attach(self, run: Attempt) -> bool:
        return False  # its runs end with the process

    def cancel(self, run_id: str) -> None:
        run, task = self._waiting.get(run_id) or (self._current, self._task)
        if run is None or task is None or run.run_id != run_id or not run.begun or run.stopping:
            return
        for step in run.steps.values():
            step.stop()
        task.cancel()

    def abandon(self) -> None:
        own = asyncio.current_task()
        if self._current is not None:
            self._current.abandoned = True
        for run, task in self._waiting.values():
            run.abandoned = True
            if task is not own:
                task.cancel()

    async def close(self) -> None:
        self._ready.clear()
        self.abandon()
        tasks = {task for _, task in self._waiting.values()}
        if self._worker is not None:
            self._worker.cancel()
            tasks.add(self._worker)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        self._worker = self._home = None
        self._waiting.clear()
        self._threads.close()
        self._threads = self._new_threads()

    # --- the task shared by runs ---

    def _work_on(self) -> None:
        """Start a task if there are runs to execute."""
        if not self._ready:
            self._worker = None
            return
        self._home = self._home or outside()
        self._worker = asyncio.get_running_loop().create_task(self._work(), context=self._home.copy())

    async def _work(self) -> None:
        await self._execute_ready()

    @types.coroutine
    def _execute_ready(self) -> Generator[Any, Any, None]:
        """Execute ready runs until one waits: that run keeps this task, and another task takes the rest.

        A task per run costs more than a short run. Each run still has its own copy of its origin, so that none sees
        another's context variables. A run that requests this task's cancellation is also its last.
        """
        task, waits = asyncio.current_task(), None
        assert task is not None
        loop = task.get_loop()
        self._task = task
        try:
            for run in self._turns():
                self._current, run.loop = run, loop
                own = run.origin.copy()
                try:
                    told = "on_saga_start" in run.definition.hooks
                    work = (self._with_listeners(run) if told else self.execute(run)).__await__()
                    awaited = own.run(next, work, _ENDED)
                except BaseException as error:
                    run.close(error)
                else:
                    if awaited is _ENDED:
                        run.close()
                    else:
                        waits = self._rest(run, task, own, work, awaited)
                if waits is not None or _is_cancelled(task):
                    break
        finally:
            self._current = None
            self._work_on()
        if waits is not None:
            yield from waits

    def _turns(self) -> Iterator[Attempt]:
        """Runs in turn; when the iteration stops, the next task takes the rest."""
        ready = self._ready
        while ready:
            for run in ready[0]:  # noqa: UP028  `yield from` would end it where this is left
                yield run
            ready.popleft()

    def _rest(
        self, run: Attempt, task: asyncio.Task[Any], context: Context, work: Generator[Any, Any, None], awaited: Any
    ) -> Generator[Any, Any, None]:
        """The rest of a run that waits."""
        failure: BaseException | None = None
        self._waiting[run.run_id] = (run, task)
        try:
            while awaited is not _ENDED:
                try:
                    yield awaited
                except BaseException as error:  # a cancellation is passed to the run
                    awaited = context.run(_throw, work, error)
                else:
                    awaited = context.run(next, work, _ENDED)
        except BaseException as error:
            if run.gone:
                raise
            failure = error
        self._waiting.pop(run.run_id, None)
        run.close(failure)

    # --- one run ---

    async def _with_listeners(self, run: Attempt) -> None:
        """Call the listeners, then execute the attempt."""
        await tell(run.definition.hooks["on_saga_start"], run.definition.name, run.run_id, run.ctx)
        await self.execute(run)

    def execute(self, run: Attempt) -> Coroutine[Any, Any, None]:
        """Execute one attempt to its end."""
        run.begun = True
        if run.definition.plan.linear and run.history is None and not run.cancelling:
            return linear(run, self._clock, self._go_on)
        return self._go_on(run, {}, None)

    async def _go_on(self, run: Attempt, finished: dict[str, Any], stopped: Stopped | None) -> None:
        await Execution(run, self._clock, self._threads, finished).execute(stopped)


def _is_cancelled(task: asyncio.Task[Any]) -> bool:
    """Whether the task is being cancelled; Python 3.11 and 3.12 cancel it even after `uncancel`."""
    return getattr(task, "_must_cancel", False) or task.cancelling() > 0


def _throw(work: Generator[Any, Any, None], error: BaseException) -> Any:
    """Throw the error into it; returns the next thing it waits for."""
    try:
        return work.throw(error)
    except StopIteration:
        return _ENDED
