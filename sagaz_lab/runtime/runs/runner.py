"""The live runs of this process."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import Any

from msgspec import Struct

from sagaz_lab.abc import Acceptance, Engine, Event
from sagaz_lab.errors import LeaseLost, RunError, describe
from sagaz_lab.model.apart import apart
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.inside import belongs
from sagaz_lab.model.keys import refuse_long_name
from sagaz_lab.model.run import Run, RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.step import current_step
from sagaz_lab.model.variables import origin
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.runs.attempt import AttemptInMemory, StoredAttempt
from sagaz_lab.runtime.runs.logs import Logs
from sagaz_lab.runtime.triggers.dead_letter_notices import DeadLetterNotices
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers

logger = logging.getLogger("sagaz_lab")

_RUNNING = RunStatus.RUNNING


class _Launch(Struct, eq=False):
    """Runs for the engine to take; some may have been created already."""

    pending_runs: deque[PendingRun]
    definition: SagaDefinition
    instance: Saga
    now: float
    origin: Context


class Runner:
    """Launches attempts and returns their slots; `freed` is called with a trigger whose waiting runs may start."""

    def __init__(
        self, life: Lifetime, engine: Engine, triggers: Triggers, observers: Observers, letters: DeadLetterNotices,
        freed: Callable[[TriggerState], None],
    ) -> None:  # fmt: skip
        self.life = life
        self.engine = engine
        self.triggers = triggers
        self.letters = letters
        self._observers = observers
        self._freed = freed
        self._attempt = StoredAttempt if life.store.traits.awaited else AttemptInMemory
        self._live: dict[str, StoredAttempt] = {}
        self._unmade: deque[_Launch] = deque()
        """What the engine has not taken yet; no launch is empty."""
        self._waiters: dict[str, list[asyncio.Future[None]]] = {}
        self.idle = asyncio.Event()
        self.logs = Logs()
        """Logs of ended runs; the Lab sets its own (`use`), which outlives a stop."""
        self.hold = False
        """Whether failing runs of triggers are held; set by the Service."""
        self.retry_later: Callable[[PendingRun, float], None] = _never
        """Called with a run to retry and the seconds until then; set by the run queue."""

    def use(self, logs: Logs) -> None:
        """Keep logs in `logs` from now on, and in the store if it can."""
        self.logs = logs
        logs.keep_in(getattr(self.life.store, "run_logs", None), self.life.report)

    @property
    def live(self) -> Mapping[str, Run]:
        """The live runs by id."""
        for launch in self._unmade:
            for pending in launch.pending_runs:
                if pending.run_id not in self._live:
                    self._made(pending, launch.definition, launch.instance, launch.now, launch.origin)
        return self._live

    def begun(self, run_id: str) -> Run | None:
        """The run, if it is live and has begun. Thread-safe."""
        return self._live.get(run_id)

    def busy(self) -> bool:
        return bool(self._live or self._unmade)

    def _made(
        self, pending: PendingRun, definition: SagaDefinition, instance: Saga, now: float, origin: Context
    ) -> StoredAttempt:
        run = self._attempt.of(pending, definition, instance, now, self, origin)
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
    ) -> Run:
        """Start or resume an attempt that the store has as running, in a copy of the caller's context.

        It runs in the foreground unless the caller asks otherwise, or is itself an action of a background run.
        """
        context, outer = origin(), current_step.get(None)
        belongs(context, self.life.tasks)
        run = self._made(pending, definition, instance or self.triggers.instance(definition), now, context)
        run.foreground = foreground and (outer is None or outer.run.foreground)
        attached = run.history is not None and self.engine.traits.own_history and self.engine.attach(run)
        if not attached:
            self.engine.launch((run,))
        return run

    def launch_many(
        self, pending_runs: Sequence[PendingRun], definition: SagaDefinition, now: float, origin: Context
    ) -> None:
        """`launch` for runs that a trigger started, in copies of `origin`. Each run is created when the engine takes it
        or a caller asks for it.
        """
        belongs(origin, self.life.tasks)
        launch = _Launch(deque(pending_runs), definition, self.triggers.instance(definition), now, origin)
        self._unmade.append(launch)
        self.engine.launch(self._taken(launch))

    def _taken(self, launch: _Launch) -> Iterator[StoredAttempt]:
        """Each run as the engine takes it, unless a caller asked for it before."""
        while launch.pending_runs:
            pending = launch.pending_runs.popleft()
            if not launch.pending_runs:
                self._unmade.remove(launch)
            try:
                run = self._live.get(pending.run_id) if self._live else None
                if run is None:
                    run = self._made(pending, launch.definition, launch.instance, launch.now, launch.origin)
            except Exception as error:
                logger.exception("run %s could not be begun", pending.run_id)
                self.life.report("engine", f"run {pending.run_id} could not be begun: {describe(error)}")
            else:
                yield run

    def cancel(self, run: Run) -> None:
        """Ask the run to end: its running actions are cancelled, its completed ones compensated."""
        if not run.cancelling:
            run.cancelling = True
            self.engine.cancel(run.run_id)

    async def run_to_its_end(
        self,
        saga: Saga,
        definition: SagaDefinition,
        context: Mapping[str, Any],
        run_id: str | None,
        event: Event | None,
    ) -> SagaContext:
        """Run a saga without a trigger. If the caller is cancelled, so is the run, with compensation.

        Raises the error of the action.
        """
        run = await self._run_alone(saga, definition, context, run_id, event)
        try:
            await self.ended(run)
        except asyncio.CancelledError:
            self.cancel(run)
            await self.ended(run)
            raise
        if run.status is _RUNNING:
            raise RunError(f"run {run.run_id} was abandoned; it resumes with the next start")
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
        life, now = self.life, self.life.clock.now()
        refuse_other_store(definition, life.store)
        refuse_long_name("run_id", run_id or "")
        name, revision = definition.name, definition.revision
        own, event = apart(dict(context)), None if event is None else event.with_payload(apart(event.payload))
        pending = PendingRun(run_id or next(life.run_ids), name, None, revision, event, own, now)
        pending.status = RunStatus.RUNNING
        pending.started = definition.plan.roots
        refused = await life.store.accept(Acceptance(runs=[pending]))
        if refusal := refused.get(pending.run_id):
            raise refusal.error or RunError(f"there is a run {pending.run_id!r} already")
        return self.launch(pending, definition, now, saga)

    def settle(self, run: StoredAttempt, error: BaseException | None) -> None:
        """The engine is done with the run. An error here must not stop other runs."""
        try:
            try:
                if error is not None:
                    self._failed(run, error)
            finally:
                self._ended(run)
        except Exception:
            logger.exception("after run %s", run.run_id)

    def _failed(self, run: StoredAttempt, error: BaseException) -> None:
        """Report errors other than the saga's own; the store knows how to resume."""
        if isinstance(error, LeaseLost):
            self.life.lease.lose(error)
        elif isinstance(error, asyncio.CancelledError):
            if not self.life.closing and self.life.lease.lost is None:
                text = f"run {run.run_id} was abandoned, since its task was cancelled; it resumes with the next start"
                self.life.report("engine", text)
        else:
            logger.error("run %s", run.run_id, exc_info=error)
            self.life.report("engine", f"run {run.run_id} was abandoned by an error of the engine: {describe(error)}")

    def _ended(self, run: StoredAttempt) -> None:
        pending, retry_in_s = run.pending, run.retry_in_s
        del self._live[run.run_id]
        if run.ctx.log_lines is not None:
            self.logs.keep(run.run_id, run.ctx.log_lines)
        state = self.triggers.states.get(pending.trigger or "")
        if state is not None:
            if run.status is not _RUNNING:  # an abandoned run still has this status
                ends = state.counters.ends
                ends[run.status] = ends.get(run.status, 0) + 1
            if state.deciding:
                state.meanwhile.append(partial(state.core.ended, pending, keep_turn=retry_in_s is not None))
            else:
                admission = state.core.admission
                admission.leave(pending, retry_in_s is not None)
                if admission.slots.scarce or admission.waiting:
                    self._freed(state)
                else:
                    state.wake()
        if retry_in_s is not None and not self.life.closing:
            pending.origin = run.origin
            self.retry_later(pending, retry_in_s)
        if self._waiters:
            self._wake(run.run_id)
        if self._observers.all:
            self._observers.ended(run)
        if not (self._live or self._unmade):
            self.idle.set()

    def keep_logs(self) -> None:
        """Have the store keep what live runs have written, in case this process dies."""
        self.logs.keep_live(self._live.values())

    async def ended(self, run: Run) -> None:
        """Returns when the run's attempt has ended or was abandoned."""
        if self._live.get(run.run_id) is run:
            await self.end_of(run)

    def end_of(self, run: Run) -> asyncio.Future[None]:
        """For a live run: done when its attempt has ended or was abandoned."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run.run_id, []).append(waiter)
        return waiter

    def _wake(self, run_id: str) -> None:
        for waiter in self._waiters.pop(run_id, ()):
            if not waiter.done():
                waiter.set_result(None)

    def abandon(self) -> int:
        """Stop the live runs, which resume elsewhere. Returns their number."""
        for run in self._live.values():
            run.abandoned = True
        self.engine.abandon()
        return len(self._live)

    async def close(self) -> None:
        """Abandon the live runs: the store knows how to resume them."""
        for run in self.live.values():
            run.abandoned = True
        await self.engine.close()
        left = sum(run.begun for run in self._live.values())
        if left and not self.engine.traits.own_history:
            self.life.report("stop", f"{left} run(s) did not stop when cancelled")
        for run_id in list(self._waiters):  # including runs that were to start meanwhile
            self._wake(run_id)


def _never(pending: PendingRun, delay_s: float) -> None:
    """Without a run queue."""
