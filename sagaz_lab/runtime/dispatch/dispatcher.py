"""From deliveries to runs: decide, accept in one transaction, start what may start."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import count

from sagaz_lab.abc import (
    Clock,
    DeadLetter,
    DecisionStore,
    Delivery,
    Ending,
    Engine,
    Event,
    HeldEvent,
    Redriven,
    Refusal,
)  # fmt: skip
from sagaz_lab.errors import LabClosed, StoreUnavailable, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.decisions.admit import admit
from sagaz_lab.runtime.decisions.decided import CAME, QUEUE_FULL, TAKEN, Decided, acceptance, letters_only
from sagaz_lab.runtime.decisions.decider import Decider
from sagaz_lab.runtime.decisions.hints import tell_claimed, tell_ticks_again
from sagaz_lab.runtime.dispatch.behind import decide_behind
from sagaz_lab.runtime.dispatch.finishing import NOT_TAKEN, Finishing
from sagaz_lab.runtime.dispatch.insisting import insist
from sagaz_lab.runtime.dispatch.lease import Lease
from sagaz_lab.runtime.dispatch.observers import Tee
from sagaz_lab.runtime.dispatch.run_queue import RunQueue
from sagaz_lab.runtime.dispatch.window_timers import WindowTimers
from sagaz_lab.runtime.gates.admission import Slots
from sagaz_lab.runtime.gates.moments import Moments
from sagaz_lab.runtime.gates.pending_run import NOTHING, PendingRun
from sagaz_lab.runtime.registry.confirming import Confirming
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.tasks import Report, Tasks
from sagaz_lab.runtime.triggers.compiled import TriggerState, made_anew
from sagaz_lab.runtime.triggers.dead_letters import DeadLetterWatch
from sagaz_lab.runtime.triggers.outcomes import Tally, started_entries

_RUNNING = RunStatus.RUNNING
_TAKEN = frozenset((OutcomeKind.DUPLICATE.value, reason) for reason in (TAKEN, CAME))

Reader = tuple[TriggerState, int]
"""A trigger that reads a source, and the number of the part that this is of its composite (else 0)."""


def fresh_prefix(kind: str) -> str:
    return f"{kind}-{os.urandom(4).hex()}-"


def fresh_ids(prefix: str) -> Iterator[str]:
    """Short, ordered within a process, unlike those of any other."""
    return map(prefix.__add__, map(str, count(1)))


class Dispatcher:
    """Owns the triggers' states and the runs that live in this process."""

    def __init__(
        self,
        store: DecisionStore,
        engine: Engine,
        clock: Clock,
        default: TriggerConfig,
        registry: Registry,
        tally: Tally,
        report: Report,
        live_runs: int,
    ) -> None:
        self.store = store
        self.clock = Moments.of(clock)
        self.report = report
        self.tasks = Tasks(report)
        self.tally = tally
        self.registry = registry
        self.states: dict[str, TriggerState] = {}
        self.left_out: dict[str, SagaDefinition] = {}
        self.without_code: dict[str, list[str]] = {}
        self.run_prefix = fresh_prefix("r")
        self.run_ids = fresh_ids(self.run_prefix)
        self.event_ids = fresh_ids(fresh_prefix("e"))
        self.default = default
        self.tee: Tee | None = None
        self.fired: Counter[str] = Counter()
        """Events that were given by hand, by the identity of the memory source that they stand for."""
        self.closing = False
        self.confirming = Confirming()
        self.finishing = Finishing(store.traits.awaited, report)
        self.slots = Slots(live_runs)
        self.lease = Lease(store)
        self.decider = Decider(store, self.run_ids, report, self.clock.now)
        self.letters = DeadLetterWatch(report)
        self.runner = Runner(self, engine)
        self.run_queue = RunQueue(self)
        self.window_timers = WindowTimers(self)

    # --- definitions ---

    def load(self, sagas: Mapping[str, SagaDefinition], news: Collection[str] = ()) -> None:
        """Take over the current definitions: between two batches, so that each event has one revision.

        A saga that cannot be made is left out and reported, once; if it is one of the `news`, that is raised instead.
        """
        known = {name for name, it in self.left_out.items() if sagas.get(name) is it and name not in news}
        changed, failed = made_anew(sagas, known, self.runner.instance, self.states, self.default)
        for name, error in failed.items():
            if name in news:
                raise error
            self.report(f"left out:{name}", f"saga {name!r} is left out: {describe(error)}; mend it, then start again")
        self.left_out = {name: sagas[name] for name in known | failed.keys()}
        seen = {it.name for name in sagas.keys() - self.left_out.keys() for it in sagas[name].triggers.values()}
        for compiled in changed:
            name = compiled.trigger.name
            if (state := self.states.get(name)) is None:
                self.states[name] = TriggerState(compiled, self.tally.of(name), self.slots)
            else:
                state.use(compiled)
                self.run_queue.release(state)
                self.window_timers.changed(state)
        for name, state in self.states.items():
            if name not in seen and not state.removed:
                state.removed = True
                self.window_timers.time(state)

    def code_of(self, saga: str) -> SagaDefinition | None:
        """Its current definition, if there is one of which runs can be made."""
        return None if saga in self.left_out else self.registry.current.get(saga)

    # --- deliveries ---

    async def take(
        self,
        readers: Sequence[Reader],
        deliveries: Sequence[Delivery],
        *,
        answered: bool = False,
        redriven: Mapping[str, Redriven] = NOTHING,
    ) -> list[Decided]:
        """Decide the deliveries for each reader's trigger and accept the result.

        `answered` says that the caller tells somebody of the outcomes, so that a dead one needs no report. `redriven`
        are the dead letters that the events come from, by their ids.

        When it returns, all is in the store and the deliveries may be acked: first the decisions of each reader, and
        then those of events that came behind others of the batch. Raises `StoreUnavailable`: then nothing
        has been taken and nothing is counted.
        """
        if self.confirming.pending:
            await self.confirming.confirmed(state.compiled.definition.name for state, _ in readers)
        self.refuse_closing()
        if not self.lease.held():
            await self.lease.seen()  # what is only filtered would be decided without the store
        now, states = self.clock.now(), [state for state, _ in readers]
        self._count(states, len(deliveries))
        decisions: list[Decided] = []
        try:
            for state, part in readers:
                decisions.append(await self.decider.decide(state, deliveries, now, part=part, redriven=redriven))
            self.refuse_closing()
        except BaseException as error:
            self._take_back(states, decisions, len(deliveries))
            self._raise_closed(error)
            raise
        for decided in decisions:
            decided.answered = answered
        await self.finishing.to_the_end(states, self._take_in(states, decisions, len(deliveries), now))
        if self.tee is not None:
            self.tee.taken(readers, deliveries)
        if not answered:
            for decided in decisions:
                self.report_dead(decided.letters)
        return decisions

    async def _take_in(self, states: Sequence[TriggerState], decisions: list[Decided], n: int, now: float) -> None:
        try:
            refused = await self.accept(decisions, now)
        except BaseException:
            self._take_back(states, decisions, n)
            raise
        for decided in decisions:
            await self.apply(decided, refused, now)
        decisions += await decide_behind(self, decisions, refused, now)
        for decided in decisions:
            tell_ticks_again(self.report, decided)

    def refuse_closing(self) -> None:
        """Raises `LabClosed` if nothing is taken any more."""
        if self.closing:
            raise LabClosed(NOT_TAKEN)

    def _raise_closed(self, error: BaseException) -> None:
        """Raise `LabClosed` if the Lab has closed its store while this was decided."""
        if self.closing and isinstance(error, StoreUnavailable):
            raise LabClosed(NOT_TAKEN) from error

    def _count(self, states: Sequence[TriggerState], events: int) -> None:
        for state in states:
            state.counters.received += events
            state.counters.deciding += events

    def _take_back(self, states: Sequence[TriggerState], decisions: Sequence[Decided], events: int) -> None:
        """Nothing has been taken."""
        for decided in decisions:
            decided.state.leading.take_back(decided.periods)
        self._count(states, -events)

    async def take_whole(
        self, state: TriggerState, events: Sequence[Event], redriven: Mapping[str, Redriven]
    ) -> list[Decided]:
        """The same for events that have been through their window before; the caller tells of the outcomes."""
        await self.confirming.confirmed([state.compiled.definition.name])
        self.refuse_closing()
        now = self.clock.now()
        self._count([state], len(events))
        try:
            decided = await self.decider.decide_whole(state, events, now, redriven)
            self.refuse_closing()
        except BaseException as error:
            self._count([state], -len(events))
            self._raise_closed(error)
            raise
        decisions = [decided]
        await self.finishing.to_the_end([state], self._take_in([state], decisions, len(events), now))
        return decisions

    async def accept(self, decisions: Sequence[Decided], now: float) -> Mapping[str, Refusal]:
        """One transaction for all. Each run that may start gets its slot; the others wait."""
        moment = self.clock.monotonic()
        for decided in decisions:
            if decided.held:
                self.window_timers.take_in(decided, now)
            if decided.starts:
                admit(decided, moment)
        batch = acceptance(decisions)
        if not (
            batch.runs or batch.dead or batch.kept or batch.held or batch.released or batch.spent or batch.redriven
        ):
            return {}
        self.finishing.asking += 1
        try:
            self.refuse_closing()  # as where a trigger method has stopped the Lab
            return await self.store.accept(batch)
        except BaseException:
            for decided in decisions:
                if decided.held or decided.superseded:
                    self.window_timers.take_back(decided)
                for pending in decided.starts:
                    if pending.status is _RUNNING:
                        decided.state.admission.refund(pending)
                        decided.state.admission.leave(pending)
                    else:
                        decided.state.admission.came(pending)
            raise
        finally:
            self.finishing.asking -= 1

    async def apply(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> None:
        """The store has taken the batch: count, remember, start."""
        state = decided.state
        if refused and decided.letters:
            decided.not_dead(refused, now)
        self.tally.keep(decided.entries)
        letters = len(decided.letters)
        if decided.held or decided.released or decided.superseded:
            self.window_timers.taken_in(decided, refused, now)
            await self._keep_letters(decided, letters)
        launched = [it for it in decided.starts if it.status is _RUNNING and it.run_id not in refused]
        if launched:
            self._launch(decided, launched, now)
        for pending in decided.starts if len(launched) < len(decided.starts) else ():
            waits = pending.status is not _RUNNING
            if waits:
                state.admission.came(pending)
            if (refusal := refused.get(pending.run_id)) is not None:
                await self._refused(decided, pending, refusal, now)
            elif waits:
                await self.run_queue.hold(decided, pending, now)
        for (kind, reason), times in decided.reasons.items():
            state.counters.deciding -= times
            setattr(state.counters, kind, getattr(state.counters, kind) + times)
            state.counters.count_reason(kind, reason, times)
        if not (state.told_claimed or _TAKEN.isdisjoint(decided.reasons)):
            tell_claimed(self.report, decided, self.run_prefix)
        if self.tee is not None:
            self.tee.applied(decided)
        if decided.letters or decided.dropped or decided.filtered:
            await self._tell_refused(decided)
        if decided.released:
            self.window_timers.settle(decided)
        for by, run_id in decided.replaced:
            if by not in refused:  # who did not get in takes nobody's place
                await insist(
                    self, partial(self.run_queue.replace, state, run_id, now), f"the cancelling of run {run_id}"
                )
        if state.admission.waiting:
            self.run_queue.release(state)
        else:
            state.wake()

    def _launch(self, decided: Decided, pending_runs: Sequence[PendingRun], now: float) -> None:
        state = decided.state
        self.runner.launch_shared(pending_runs, state.compiled.definition, now, decided.origin)
        entries = started_entries(pending_runs, now)
        decided.entries += entries
        self.tally.keep(entries)
        events = len(pending_runs) + sum([len(pending.members) for pending in pending_runs])
        state.counters.deciding -= events
        state.counters.started += events

    async def _tell_refused(self, decided: Decided) -> None:
        definition = decided.state.compiled.definition
        await self.tell_dead(decided.state, decided.letters)
        for event in decided.dropped:
            await tell(definition.hooks.get("on_trigger_dropped", ()), definition.name, event, QUEUE_FULL)
        for event, reason in decided.filtered:
            await tell(definition.hooks["on_trigger_filtered"], definition.name, event, reason)

    async def tell_dead(self, state: TriggerState, letters: Sequence[DeadLetter]) -> None:
        """These have been stored: tell those who watch and listen."""
        if letters and state.compiled.config.dead_letter_topic is not None:
            self.runner.published()
        for letter in letters:
            self.letters.note(letter, letter.at)
            hooks = state.compiled.definition.hooks.get("on_trigger_dead", ())
            await tell(hooks, letter.saga, letter.event, letter.error)

    def report_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Of events whose outcome nobody waits for."""
        for letter in letters:
            self.report(
                f"dead:{letter.trigger}:{letter.cause}",
                f"{letter.trigger}: event {letter.event.id} is dead: {letter.error}",
            )

    async def _refused(self, decided: Decided, pending: PendingRun, refusal: Refusal, now: float) -> None:
        """Another process took the claim meanwhile, or the run's context cannot be stored."""
        if pending.status is _RUNNING:
            decided.state.admission.refund(pending)
            decided.state.admission.leave(pending)
        entries, letters = len(decided.entries), len(decided.letters)
        for event, claim in pending.claimed():
            decided.refused(refusal, event, pending.key, now, claim)
        self.tally.keep(decided.entries[entries:])
        await self._keep_letters(decided, letters, () if refusal.error is None else decided.with_run)

    async def _keep_letters(self, decided: Decided, known: int, leaving: Sequence[HeldEvent] = ()) -> None:
        """Of events that the store could not keep, which is known only now; until now the leaving ones are held."""
        if new := decided.letters[known:]:
            batch = letters_only(decided.state, new)
            mine = (decided.redriven.get(letter.event.id) for letter in new)
            batch.redriven = [redriven for redriven in mine if redriven is not None]
            batch.released = [held.id for held in leaving]
            await insist(self, partial(self.store.accept, batch), f"a dead letter of {decided.state.name}")

    async def wait_for_code(self, run_id: str, saga: str, attempt: int) -> None:
        """The run's saga is not registered: it goes on when it is."""
        await self.store.end(run_id, Ending(RunStatus.NEEDS_CODE), attempt=attempt, at=self.clock.now())
        self.without_code.setdefault(saga, []).append(run_id)
        self.report(f"needs_code:{saga}", f"run {run_id} waits for the code of saga {saga!r}: define it")

    def busy(self) -> bool:
        """Whether a run lives, waits for its turn, or an event is being decided. Retries to come do not count."""
        states = self.states.values()
        return self.runner.busy() or any(
            s.admission.waiting or s.admission.in_flight or s.counters.deciding or self.window_timers.closing(s.name)
            for s in states
        )

    def take_filtered(self) -> dict[tuple[str, str, str], int]:
        """Counts of refused events by (trigger, outcome, reason) since the last call."""
        counts = {}
        for state in self.states.values():
            for (kind, reason), times in state.counters.take_reasons().items():
                counts[state.name, kind, reason] = times
        return counts

    async def take_no_more(self) -> None:
        """Returns when what is being accepted is in the store, counted and started."""
        self.closing = True
        await self.finishing.close()

    async def close(self) -> None:
        """Abandon what still runs: the store says how to go on."""
        await self.take_no_more()
        if self.tee is not None:
            await self.tee.close()
        await self.runner.close()
        await self.tasks.close()
        self.run_queue.close()
        self.window_timers.close()
        for state in self.states.values():
            state.wake()

    async def drain(self) -> None:
        """Returns when nothing is under way."""
        while self.busy():
            self.runner.idle.clear()
            if self.runner.busy():
                await self.runner.idle.wait()
            else:
                await asyncio.sleep(0.005)
