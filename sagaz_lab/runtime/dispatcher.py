"""From deliveries to runs: decide, accept in one transaction, start what may start."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

from sagaz_lab.abc import Acceptance, Clock, Delivery, Ending, Engine, Refusal, Store
from sagaz_lab.errors import DefinitionError, LabClosed, LeaseLost, StoreError, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import OutcomeKind, Run, RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.runtime.admission import Ticket
from sagaz_lab.runtime.attempt import Attempt
from sagaz_lab.runtime.compiled import CompiledTrigger, TriggerState
from sagaz_lab.runtime.context import context_of
from sagaz_lab.runtime.deciding import QUEUE_FULL, TAKEN, Decided, Decider, acceptance, taken_by
from sagaz_lab.runtime.outcomes import Entry, Tally, outcome
from sagaz_lab.runtime.registry import Registry
from sagaz_lab.runtime.tasks import Report, Tasks

_RUNNING = RunStatus.RUNNING
logger = logging.getLogger("sagaz_lab")


def fresh_ids(kind: str) -> Iterator[str]:
    """Short, ordered within a process, unlike those of any other."""
    prefix, n = os.urandom(4).hex(), 0
    while True:
        n += 1
        yield f"{kind}-{prefix}-{n}"


class Dispatcher:
    """Owns the triggers' states and the runs that live in this process."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        default: TriggerConfig,
        registry: Registry,
        tally: Tally,
        report: Report,
    ) -> None:
        self.store = store
        self.engine = engine
        self.clock = clock
        self.report = report
        self.tasks = Tasks(report)
        self.tally = tally
        self.registry = registry
        self.states: dict[str, TriggerState] = {}
        self.live: dict[str, Run] = {}
        self.retrying: dict[str, Ticket] = {}
        self.run_ids = fresh_ids("r")
        self.event_ids = fresh_ids("e")
        self._default = default
        self.decider = Decider(store, self.run_ids, report)
        self._instances: dict[str, tuple[SagaDefinition, Saga]] = {}
        self._idle = asyncio.Event()
        self._timers: set[str] = set()
        self.closing = False

    # --- definitions ---

    def load(self, sagas: Mapping[str, SagaDefinition]) -> None:
        """Take over the current definitions: between two batches, so that each event has one revision."""
        seen = set()
        for definition in sagas.values():
            instance = self.instance(definition)
            for trigger in definition.triggers.values():
                seen.add(trigger.name)
                state = self.states.get(trigger.name)
                if state is not None and state.compiled.definition is definition and not state.removed:
                    continue
                compiled = CompiledTrigger(definition, trigger, instance, self._default)
                if state is None:
                    self.states[trigger.name] = TriggerState(compiled, self.tally.of(trigger.name))
                else:
                    state.use(compiled)
                    self.release(state)
        for name, state in self.states.items():
            if name not in seen:
                state.removed = True

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
            self._instances[definition.name] = known
        return known[1]

    # --- deliveries ---

    async def take(
        self, states: Sequence[TriggerState], deliveries: Sequence[Delivery], *, answered: bool = False
    ) -> list[Decided]:
        """Decide the deliveries for each trigger and accept the result.

        `answered` says that the caller tells somebody of the outcomes, so that a dead one needs no report.

        When it returns, all is in the store and the deliveries may be acked. Raises `StoreUnavailable`: then nothing
        has been taken and nothing is counted.
        """
        if self.closing:
            raise LabClosed("the Lab is closing; the event was not taken")
        n, now = len(deliveries), self.clock.now()
        for state in states:
            state.counters.received += n
            state.counters.deciding += n
        try:
            decisions = [await self.decider.decide(state, deliveries, now) for state in states]
            refused = await self._accept(decisions)
        except BaseException:
            for state in states:
                state.counters.received -= n
                state.counters.deciding -= n
            raise
        for decided in decisions:
            await self._apply(decided, refused, n, now)
            if decided.letters and not answered:
                self._report_dead(decided)
        return decisions

    async def _accept(self, decisions: Sequence[Decided]) -> Mapping[str, Refusal]:
        """One transaction for all. Each run that may start gets its slot; the others wait."""
        moment = self.clock.monotonic()
        for decided in decisions:
            if decided.starts:
                self._admit(decided, moment)
        batch = acceptance(decisions)
        if not (batch.runs or batch.dead or batch.kept):
            return {}
        try:
            return await self.store.accept(batch)
        except BaseException:
            for decided in decisions:
                for ticket in decided.starts:
                    if ticket.status is _RUNNING:
                        decided.state.admission.leave(ticket.key)
            raise

    def _admit(self, decided: Decided, moment: float) -> None:
        admission, strategy = decided.state.admission, decided.state.compiled.config.backpressure_strategy
        roots = decided.state.compiled.definition.plan.roots
        admitted, waiting = [], admission.waiting
        for ticket in decided.starts:
            if admission.enter(ticket.key, moment):
                ticket.status = _RUNNING
                ticket.started = roots
            elif waiting >= admission.size and strategy in ("drop_newest", "reject"):
                decided.overflow(ticket, ticket.at, rejected=strategy == "reject")
                continue
            else:
                waiting += 1
            admitted.append(ticket)
        decided.starts = admitted

    async def _apply(self, decided: Decided, refused: Mapping[str, Refusal], n: int, now: float) -> None:
        """The store has taken the batch: count, remember, start."""
        state = decided.state
        for ticket in decided.starts:
            if refused and (refusal := refused.get(ticket.run_id)) is not None:
                await self._refused(decided, ticket, refusal, now)
            elif ticket.status is _RUNNING:
                decided.entries.append(_entry(OutcomeKind.STARTED, "", ticket, now))
                state.counters.started += 1
                self.launch(ticket, state.compiled.definition, now)
            else:
                await self._hold(decided, ticket, now)
        state.counters.deciding -= n
        for (kind, reason), times in decided.reasons.items():
            setattr(state.counters, kind, getattr(state.counters, kind) + times)
            state.counters.count_reason(kind, reason, times)
        self.tally.ring.extend(decided.entries)
        if decided.letters:
            await self._tell_dead(decided)
        if state.admission.waiting:
            self.release(state)

    async def _tell_dead(self, decided: Decided) -> None:
        hooks = decided.state.compiled.definition.hooks.get("on_trigger_dead", ())
        for letter in decided.letters:
            await tell(hooks, letter.saga, letter.event, letter.error)

    def _report_dead(self, decided: Decided) -> None:
        for letter in decided.letters:
            self.report(
                f"dead:{letter.trigger}:{letter.cause}",
                f"{letter.trigger}: event {letter.event.id} is dead: {letter.error}",
            )

    async def _refused(self, decided: Decided, ticket: Ticket, refusal: Refusal, now: float) -> None:
        """Another process took the claim meanwhile, or the run's context cannot be stored."""
        assert ticket.event is not None
        if ticket.status is _RUNNING:
            decided.state.admission.leave(ticket.key)
        if refusal.error is None:
            reason = taken_by(refusal)
            decided.add(OutcomeKind.DUPLICATE, reason, ticket.event, now, count_as=TAKEN)
            return
        known = len(decided.letters)
        decided.dead(ticket.event, refusal.error, now)
        await self.store.accept(Acceptance(dead=decided.letters[known:]))

    # --- waiting for a turn ---

    async def _hold(self, decided: Decided, ticket: Ticket, now: float) -> None:
        state = decided.state
        strategy = state.compiled.config.backpressure_strategy
        if strategy == "drop_oldest" and state.admission.full() and (oldest := state.admission.drop_oldest()):
            await self.store.withdraw(oldest.run_id)
            state.counters.held -= 1
            state.counters.dropped += 1
            state.counters.count_reason("dropped", QUEUE_FULL)
            self._finally(oldest, OutcomeKind.DROPPED, QUEUE_FULL, now)
            if hooks := state.compiled.definition.hooks.get("on_trigger_dropped"):
                await tell(hooks, oldest.saga, oldest.event, QUEUE_FULL)
        ticket.final = asyncio.get_running_loop().create_future()
        state.admission.wait(ticket)
        state.counters.held += 1
        decided.entries.append(_entry(OutcomeKind.HELD, "waits for its turn", ticket, now))

    def _finally(self, ticket: Ticket, kind: OutcomeKind, reason: str, now: float) -> None:
        """A held event has its outcome."""
        entry = _entry(kind, reason, ticket, now)
        self.tally.ring.append(entry)
        if ticket.final is not None and not ticket.final.done():
            ticket.final.set_result(outcome(entry))

    def release(self, state: TriggerState) -> None:
        """Start what may start now, and come back when the rate lets the next one through."""
        if self.closing:
            return
        moment = self.clock.monotonic()
        while ticket := state.admission.next(moment):
            self.tasks.start(self._leave_queue(state, ticket), f"{ticket.trigger} {ticket.run_id}")
        delay_s = state.admission.opens_in(moment)
        if delay_s is not None and state.name not in self._timers:
            self._timers.add(state.name)
            self.tasks.start(self._release_later(state, delay_s), f"rate of {state.name}")
        state.wake()

    async def _release_later(self, state: TriggerState, delay_s: float) -> None:
        try:
            await self.clock.sleep(delay_s)
        finally:
            self._timers.discard(state.name)
        self.release(state)

    async def _leave_queue(self, state: TriggerState, ticket: Ticket) -> None:
        """It is this run's turn. Its event is decided by the revision that is current now."""
        now = self.clock.now()
        first = ticket.attempt == 1
        definition = self.registry.current.get(ticket.saga)
        try:
            if definition is None:
                state.admission.leave(ticket.key)
                await self.store.end(ticket.run_id, Ending(RunStatus.NEEDS_CODE), attempt=ticket.attempt, at=now)
                self.report(
                    f"needs_code:{ticket.saga}", f"run {ticket.run_id} waits for the code of saga {ticket.saga!r}"
                )
                return
            if (
                first
                and definition.revision != ticket.revision
                and not await self._decide_again(state, ticket, definition, now)
            ):
                return
            ticket.revision = definition.revision
            roots = definition.plan.roots
            if ticket.history is None:
                await self.store.begin(
                    ticket.run_id,
                    revision=ticket.revision,
                    attempt=ticket.attempt,
                    started=roots,
                    at=now,
                    context=ticket.context,
                )
            if first:
                state.counters.held -= 1
                state.counters.started += 1
                self._finally(ticket, OutcomeKind.STARTED, "", now)
            ticket.status = _RUNNING
            self.launch(ticket, definition, now)
        except StoreError as error:
            state.admission.leave(ticket.key)
            self.report("store", f"run {ticket.run_id} could not start: {describe(error)}; it stays stored")
            await self.clock.sleep(1.0)
            if not isinstance(error, LeaseLost):
                state.admission.reenter(ticket)
                self.release(state)

    async def _decide_again(self, state: TriggerState, ticket: Ticket, definition: SagaDefinition, now: float) -> bool:
        """True if the new revision still starts a run from the held event."""
        assert ticket.event is not None
        if state.removed:
            return True
        again = await self.decider.decide(state, [Delivery(ticket.event, None, True)], now)
        if again.starts:
            ticket.context = again.starts[0].context
            return True
        state.admission.leave(ticket.key)
        await self.store.withdraw(ticket.run_id)
        if again.letters:
            await self.store.accept(Acceptance(dead=again.letters))
        kind, reason = OutcomeKind(again.entries[0][0]), again.entries[0][1]
        state.counters.held -= 1
        setattr(state.counters, kind, getattr(state.counters, kind) + 1)
        self._finally(ticket, kind, reason, now)
        self.release(state)
        return False

    # --- runs ---

    def launch(self, ticket: Ticket, definition: SagaDefinition, now: float, instance: Saga | None = None) -> Run:
        """Start an attempt that the store has as running."""
        run = Run(
            ticket.run_id,
            definition,
            instance or self.instance(definition),
            context_of(ticket),
            trigger=ticket.trigger,
            attempt=ticket.attempt,
            started_at=now,
            history=ticket.history,
            compensate_only=ticket.compensate_only,
        )
        self.live[ticket.run_id] = run
        run.task = asyncio.get_running_loop().create_task(self._execute(run, ticket))
        return run

    async def _execute(self, run: Run, ticket: Ticket) -> None:
        """Runs the attempt. It owns its errors: whatever is not the saga's own is reported."""
        hooks = run.definition.hooks
        attempt = Attempt(self, run, ticket)
        try:
            if "on_saga_start" in hooks:
                await tell(hooks["on_saga_start"], run.definition.name, run.run_id, run.ctx)
            await self.engine.execute(run, attempt)
        except asyncio.CancelledError:
            pass  # abandoned: the store says how to go on
        except LeaseLost as error:
            self.report("lease", f"run {run.run_id} goes on in another process: {describe(error)}")
        except BaseException as error:
            logger.exception("run %s", run.run_id)
            self.report("engine", f"run {run.run_id} was abandoned by an error of the engine: {describe(error)}")
        finally:
            self._ended(run, ticket, attempt.retry_in_s)

    def _ended(self, run: Run, ticket: Ticket, retry_in_s: float | None) -> None:
        del self.live[run.run_id]
        state = self.states.get(ticket.trigger or "")
        if state is not None:
            state.admission.leave(ticket.key, keep_turn=retry_in_s is not None)
            if state.admission.waiting:
                self.release(state)
            else:
                state.wake()
        if retry_in_s is not None and not self.closing:
            self.retry_later(ticket, retry_in_s)
        if not self.live:
            self._idle.set()

    def retry_later(self, ticket: Ticket, delay_s: float) -> None:
        self.retrying[ticket.run_id] = ticket
        self.tasks.start(self._retry(ticket, delay_s), f"retry of {ticket.run_id}")

    async def _retry(self, ticket: Ticket, delay_s: float) -> None:
        await self.clock.sleep(delay_s)
        self.retrying.pop(ticket.run_id, None)
        state = self.states[ticket.trigger or ""]
        state.admission.reenter(ticket)
        self.release(state)

    def busy(self) -> bool:
        """Whether a run lives, waits for its turn, or an event is being decided. Retries to come do not count."""
        states = self.states.values()
        return bool(self.live) or any(
            s.admission.waiting or s.admission.in_flight or s.counters.deciding for s in states
        )

    def take_filtered(self) -> dict[tuple[str, str, str], int]:
        """Counts of refused events by (trigger, outcome, reason) since the last call."""
        counts = {}
        for state in self.states.values():
            for (kind, reason), times in state.counters.take_reasons().items():
                counts[state.name, kind, reason] = times
        return counts

    async def close(self) -> None:
        """Abandon what still runs: the store says how to go on."""
        self.closing = True
        tasks = [run.task for run in self.live.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.tasks.close()
        for state in self.states.values():
            # They stay stored, and count anew when they are taken up again.
            state.counters.received -= state.counters.held
            state.counters.held = 0
        self.engine.close()

    async def drain(self) -> None:
        """Returns when nothing is under way."""
        while self.busy():
            self._idle.clear()
            if self.live:
                await self._idle.wait()
            else:
                await asyncio.sleep(0.005)


def _entry(kind: OutcomeKind, reason: str, ticket: Ticket, now: float) -> Entry:
    event_id = ticket.event.id if ticket.event is not None else ""
    return (kind.value, reason, event_id, ticket.trigger or "", ticket.run_id, ticket.revision, now, None)
