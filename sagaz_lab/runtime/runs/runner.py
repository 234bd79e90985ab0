"""The runs that live in this process. Those that never wait share a task; any other has one of its own."""

from __future__ import annotations

import asyncio
import logging
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, NamedTuple

from sagaz_lab.abc import Acceptance, Engine, Event
from sagaz_lab.errors import NO_EXCEPTIONS, DefinitionError, LeaseLost, RunError, describe
from sagaz_lab.model.apart import apart
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.inside import belongs
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Run, RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.step import current_step
from sagaz_lab.model.variables import origin
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.runs.attempt import Attempt, AttemptInMemory
from sagaz_lab.runtime.runs.logs import Logs

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher

logger = logging.getLogger("sagaz_lab")


_RUNNING = RunStatus.RUNNING

_ENDED = object()

CLOSE_S = 3.0
"""How long runs that are abandoned may take to end."""


class _Round(NamedTuple):
    """Runs of a saga that are to be executed, some of which may have been made already."""

    pending_runs: deque[PendingRun]
    definition: SagaDefinition
    instance: Saga
    now: float
    origin: Context


class Runner:
    """Launches attempts and gives their slots back."""

    def __init__(self, dispatcher: Dispatcher, engine: Engine) -> None:
        self._dispatcher = dispatcher
        self._engine = engine
        self._instances: dict[str, tuple[SagaDefinition, Saga]] = {}
        self._attempt = Attempt if dispatcher.store.traits.awaited else AttemptInMemory
        self._live: dict[str, Attempt] = {}
        # What is to be executed, none of it empty. Runs are made when it is their turn, or somebody asks: so there is
        # never more than one of those that do not wait, and the garbage collector is not woken for them.
        self._ready: deque[_Round] = deque()
        self._working: asyncio.Task[None] | None = None
        self.idle = asyncio.Event()
        self.logs = Logs()
        """Of ended runs; the Lab puts its own here (`use`), which outlives a stop."""
        self.hold = False
        """Whether runs of triggers that begin now are held when they fail; the Service says so."""
        self.published: Callable[[], None] = _nobody
        """To be called when the store has something to publish; the Service puts the relay here."""

    def use(self, logs: Logs) -> None:
        """Keep logs there from now on, and in the store if it can."""
        self.logs = logs
        logs.keep_in(getattr(self._dispatcher.store, "run_logs", None), self._dispatcher.report)

    @property
    def live(self) -> Mapping[str, Run]:
        """The runs under way, by id."""
        for ready in self._ready:
            for pending in ready.pending_runs:
                if pending.run_id not in self._live:
                    self._made(pending, ready.definition, ready.instance, ready.now)
        return self._live

    def begun(self, run_id: str) -> Run | None:
        """The run, if it is under way and has begun; any thread may ask."""
        return self._live.get(run_id)

    def busy(self) -> bool:
        return bool(self._live or self._ready)

    def instance(self, definition: SagaDefinition) -> Saga:
        """One object of each revision's class; runs keep no state in it."""
        known = self._instances.get(definition.name)
        if known is None or known[0] is not definition:
            try:
                known = (definition, definition.cls())
            except TypeError as error:
                raise DefinitionError(
                    f"{definition.name}: the class must be made without arguments: {error}"
                ) from error
            except NO_EXCEPTIONS as error:  # would end the process, or whichever task has asked
                raise DefinitionError(f"{definition.name}: its __init__ raises {describe(error)}") from error
            self._instances[definition.name] = known
        return known[1]

    def _made(self, pending: PendingRun, definition: SagaDefinition, instance: Saga, now: float) -> Attempt:
        run = self._attempt.of(pending, definition, instance, now, self._dispatcher)
        if self.hold and pending.trigger is not None:
            run.hold = True
        if pending.history is not None or pending.attempt > 1:
            run.ctx.log_lines = self.logs.take(pending.run_id, stored=True)
        elif self.logs.ended:
            run.ctx.log_lines = self.logs.take(pending.run_id)
        self._live[pending.run_id] = run
        return run

    def launch(
        self,
        pending: PendingRun,
        definition: SagaDefinition,
        now: float,
        instance: Saga | None = None,
        foreground: bool = True,
    ) -> Attempt:
        """Start an attempt that the store has as running, in a task of its own and in the caller's context.

        It is in the foreground unless the caller says otherwise, or is itself an action of a run in the background.
        """
        run = self._made(pending, definition, instance or self.instance(definition), now)
        outer = current_step.get(None)
        run.foreground = foreground and (outer is None or outer.run.foreground)
        context = copy_context()
        belongs(context, self._dispatcher.tasks)
        run.task = asyncio.get_running_loop().create_task(self._execute(run, origin()), context=context)
        return run

    def launch_shared(
        self, pending_runs: Sequence[PendingRun], definition: SagaDefinition, now: float, origin: Context
    ) -> None:
        """The same for one or more runs that a trigger has started: they may share a task with others.

        Each executes in a copy of `origin`.
        """
        belongs(origin, self._dispatcher.tasks)
        self._ready.append(_Round(deque(pending_runs), definition, self.instance(definition), now, origin))
        if self._working is None:
            self._work_on()

    def _work_on(self) -> None:
        """In a task of its own, if there is anything to do."""
        loop, home = asyncio.get_running_loop(), self._dispatcher.tasks.home
        self._working = loop.create_task(self._work(), context=home.copy()) if self._ready else None

    async def _work(self) -> None:
        await self._execute_ready()

    @types.coroutine
    def _execute_ready(self) -> Generator[Any, Any, None]:
        """Execute what is ready until a run of it waits: that one keeps this task, and another takes the others.

        A task for each costs more than a short run does. Each has its own copy of its batch's context all the same, so
        that none sees a variable that another has set; one that has asked for this task's cancelling is its last, too.
        """
        task, waits = asyncio.current_task(), None
        assert task is not None
        try:
            while waits is None and not _is_cancelled(task) and (found := self._next()) is not None:
                run, origin = found
                run.task = task
                own = origin.copy()
                try:
                    work = self._attempt_of(run).__await__()
                    awaited = own.run(next, work, _ENDED)
                except BaseException as error:  # noqa: BLE001
                    self._settle(run, origin, error)
                else:
                    if awaited is _ENDED:
                        self._settle(run, origin)
                    else:
                        waits = self._rest(run, origin, own, work, awaited)
        finally:
            self._work_on()
        if waits is not None:
            yield from waits

    def _next(self) -> tuple[Attempt, Context] | None:
        """The run that is to be executed, and its origin; it has been made already if somebody has asked."""
        ready = self._ready
        while ready:
            first = ready[0]
            pending = first.pending_runs.popleft()
            if not first.pending_runs:
                ready.popleft()
            try:
                run = self._live.get(pending.run_id) if self._live else None
                return run or self._made(pending, first.definition, first.instance, first.now), first.origin
            except Exception as error:
                logger.exception("run %s could not be begun", pending.run_id)
                self._dispatcher.report("engine", f"run {pending.run_id} could not be begun: {describe(error)}")
        return None

    def _rest(
        self, run: Attempt, origin: Context, context: Context, work: Generator[Any, Any, None], awaited: Any
    ) -> Generator[Any, Any, None]:
        """What is left of a run that waits."""
        failure: BaseException | None = None
        try:
            while awaited is not _ENDED:
                try:
                    yield awaited
                except BaseException as error:  # noqa: BLE001  # cancelled: the run is to hear of it
                    awaited = context.run(_thrown, work, error)
                else:
                    awaited = context.run(next, work, _ENDED)
        except BaseException as error:
            if run.gone:
                raise
            failure = error
        self._settle(run, origin, failure)

    async def run_to_its_end(
        self,
        saga: Saga,
        definition: SagaDefinition,
        context: Mapping[str, Any],
        run_id: str | None,
        event: Event | None,
    ) -> SagaContext:
        """Run what no trigger asked for; cancelled and compensated if whoever waits is. Raises the action's error."""
        run = await self._run_alone(saga, definition, context, run_id, event)
        try:
            await self.ended(run)
        except asyncio.CancelledError:
            run.cancel()
            await self.ended(run)
            raise
        if run.status is _RUNNING:
            raise RunError(f"run {run.run_id} was abandoned; it goes on with the next start")
        if run.status is not RunStatus.COMPLETED:
            raise RunError(f"run {run.run_id} ended as {run.status}") if run.error is None else run.error
        return run.ctx

    async def _run_alone(
        self,
        saga: Saga,
        definition: SagaDefinition,
        context: Mapping[str, Any],
        run_id: str | None,
        event: Event | None,
    ) -> Run:
        dispatcher, now = self._dispatcher, self._dispatcher.clock.now()
        refuse_other_store(definition, dispatcher.store)
        name, revision = definition.name, definition.revision
        own, event = apart(dict(context)), None if event is None else event.with_payload(apart(event.payload))
        pending = PendingRun(run_id or next(dispatcher.run_ids), name, None, revision, event, own, now)
        pending.status = RunStatus.RUNNING
        pending.started = definition.plan.roots
        refused = await dispatcher.store.accept(Acceptance(runs=[pending]))
        if refusal := refused.get(pending.run_id):
            raise refusal.error or RunError(f"there is a run {pending.run_id!r} already")
        return self.launch(pending, definition, now, saga)

    async def _execute(self, run: Attempt, origin: Context) -> None:
        failure: BaseException | None = None
        try:
            await self._attempt_of(run)
        except BaseException as error:
            if run.gone:
                raise
            failure = error
        current_step.set(None)  # what follows is no part of the run
        self._settle(run, origin, failure)

    def _attempt_of(self, run: Attempt) -> Coroutine[Any, Any, None]:
        return self._told(run) if "on_saga_start" in run.definition.hooks else self._engine.execute(run, run)

    async def _told(self, run: Attempt) -> None:
        """The attempt, of which listeners are told first."""
        await tell(run.definition.hooks["on_saga_start"], run.definition.name, run.run_id, run.ctx)
        await self._engine.execute(run, run)

    def _settle(self, run: Attempt, origin: Context, error: BaseException | None = None) -> None:
        """Its attempt is over. Whatever goes wrong here is not to stop any other run."""
        try:
            try:
                if error is not None:
                    self._failed(run, error)
            finally:
                self._ended(run, origin)
        except Exception:
            logger.exception("after run %s", run.run_id)

    def _failed(self, run: Attempt, error: BaseException) -> None:
        """Whatever is not the saga's own is reported; the store says how to go on."""
        if isinstance(error, LeaseLost):
            self._dispatcher.lease.lose(error)
        elif isinstance(error, asyncio.CancelledError):
            if not self._dispatcher.closing and self._dispatcher.lease.lost is None:
                text = f"run {run.run_id} was abandoned, since its task was cancelled; it goes on with the next start"
                self._dispatcher.report("engine", text)
        else:
            logger.error("run %s", run.run_id, exc_info=error)
            self._dispatcher.report(
                "engine", f"run {run.run_id} was abandoned by an error of the engine: {describe(error)}"
            )

    def _ended(self, run: Attempt, origin: Context) -> None:
        dispatcher, pending, retry_in_s = self._dispatcher, run.pending, run.retry_in_s
        del self._live[run.run_id]
        if run.ctx.log_lines is not None:
            self.logs.keep(run.run_id, run.ctx.log_lines)
        state = dispatcher.states.get(pending.trigger or "")
        if state is not None:
            if run.status is not _RUNNING:  # which it still is if it was abandoned
                ends = state.counters.ends
                ends[run.status] = ends.get(run.status, 0) + 1
            admission = state.admission
            admission.leave(pending, retry_in_s is not None)
            if admission.slots.scarce:
                admission.slots.scarce = False
                dispatcher.run_queue.release_all()
            elif admission.waiting:
                dispatcher.run_queue.release(state)
            else:
                state.wake()
        if retry_in_s is not None and not dispatcher.closing:
            pending.origin = origin
            dispatcher.run_queue.retry_later(pending, retry_in_s)
        run.task = None  # which may be another run's by now
        if run.waiters:
            _wake(run)
        if not (self._live or self._ready):
            self.idle.set()

    def keep_logs(self) -> None:
        """Have the store keep what live runs have written, in case this process dies."""
        self.logs.keep_live(self._live.values())

    async def ended(self, run: Run) -> None:
        """Returns when the run's attempt has ended or was abandoned."""
        if self._live.get(run.run_id) is run:
            waiter = asyncio.get_running_loop().create_future()
            run.waiters = [*run.waiters, waiter]
            await waiter

    def abandon(self) -> int:
        """Stop the runs that have begun: they go on elsewhere. Returns how many."""
        own = asyncio.current_task()
        for run in self._live.values():
            run.abandoned = True
            if run.task is not None and run.task is not own:
                run.task.cancel()
        return len(self._live)

    async def close(self) -> None:
        """Abandon what still runs: the store says how to go on."""
        for run in self.live.values():
            run.abandoned = True
        tasks = {run.task for run in self.live.values() if run.task is not None}
        if self._working is not None:
            tasks.add(self._working)
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
            if left:
                self._dispatcher.report("stop", f"{len(left)} run(s) did not let themselves be stopped")
        live = self.live  # with those that were to be started meanwhile
        for ready in self._ready:
            for pending in ready.pending_runs:
                _wake(live[pending.run_id])
        self._engine.close()


def _nobody() -> None:
    """There is no relay."""


def _is_cancelled(task: asyncio.Task[Any]) -> bool:
    """Whether the task is to be cancelled; Python 3.11 and 3.12 cancel it even where that was taken back."""
    return getattr(task, "_must_cancel", False) or task.cancelling() > 0


def _thrown(work: Generator[Any, Any, None], error: BaseException) -> Any:
    """What it waits for when it has heard of the error."""
    try:
        return work.throw(error)
    except StopIteration:
        return _ENDED


def _wake(run: Run) -> None:
    for waiter in run.waiters:
        if not waiter.done():
            waiter.set_result(None)
