"""From deliveries to runs: decide, accept in one transaction, start what may start."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import count

from sagaz_lab.abc import Clock, DecisionStore, Delivery, Ending, Engine, Event, Redriven, Refusal
from sagaz_lab.errors import LabClosed, StoreUnavailable, describe
from sagaz_lab.model.inside import inside
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.decisions.acceptance import acceptance
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.decider import Decider
from sagaz_lab.runtime.decisions.hints import tell_ticks_again
from sagaz_lab.runtime.decisions.preview import Preview, preview
from sagaz_lab.runtime.dispatch.effects import Effects, Follow
from sagaz_lab.runtime.dispatch.exclusive import Decision, Exclusive
from sagaz_lab.runtime.dispatch.finishing import NOT_TAKEN, Finishing
from sagaz_lab.runtime.dispatch.insisting import insist
from sagaz_lab.runtime.dispatch.lease import Lease
from sagaz_lab.runtime.dispatch.observers import Observers
from sagaz_lab.runtime.dispatch.run_queue import RunQueue
from sagaz_lab.runtime.dispatch.window_timers import WindowTimers
from sagaz_lab.runtime.gates.admission import Slots
from sagaz_lab.runtime.gates.moments import Moments
from sagaz_lab.runtime.gates.pending_run import NOTHING
from sagaz_lab.runtime.registry.confirming import Confirming
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.tasks import Report, Tasks
from sagaz_lab.runtime.timers import Timers
from sagaz_lab.runtime.triggers.compiled import TriggerState, made_anew
from sagaz_lab.runtime.triggers.dead_letters import DeadLetterWatch
from sagaz_lab.runtime.triggers.outcomes import Tally

Decide = Callable[[Sequence[Decided], float], Awaitable[None]]

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
        self.observers = Observers(report)
        self.fired: Counter[str] = Counter()
        """Events that were given by hand, by the identity of the source in the process that they stand for."""
        self.closing = False
        self.confirming = Confirming()
        self.finishing = Finishing(store.traits.awaited, report)
        self.slots = Slots(live_runs)
        self.lease = Lease(store)
        self.decider = Decider(store, self.run_ids, report)
        self.exclusive = Exclusive(self.freed)
        self.timers = Timers(self.clock, self.tasks, report)
        self.runner = Runner(self, engine)
        self.letters = DeadLetterWatch(report)
        self.effects = Effects(self)
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
                self.freed(state)
        for name, state in self.states.items():
            if name not in seen and not state.removed:
                state.removed = True
                self.window_timers.removed(state)

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
        then those of events that hung on others of the batch. Raises `StoreUnavailable`: then nothing
        has been taken and nothing is counted.
        """

        async def decide(decisions: Sequence[Decided], now: float) -> None:
            for decided, (_, part) in zip(decisions, readers, strict=True):
                await self._decide_due(decided, now)
                await self.decider.decide(decided, deliveries, now, part=part)

        decisions = [Decided(state, redriven) for state, _ in readers]
        for decided in decisions:
            decided.answered = answered
        await self.decide(decisions, decide, len(deliveries))
        if self.observers.all:
            self.observers.received(readers, deliveries)
        told = {delivery.event.id for delivery in deliveries} if answered else ()
        for decided in decisions:  # those of windows that came before, nobody else hears of
            self.effects.report_dead([letter for letter in decided.letters if letter.event.id not in told])
        return decisions

    async def take_whole(
        self, state: TriggerState, events: Sequence[Event], redriven: Mapping[str, Redriven]
    ) -> list[Decided]:
        """The same for events that have been through their window before; the caller tells of the outcomes."""

        async def decide(decisions: Sequence[Decided], now: float) -> None:
            await self._decide_due(decisions[0], now)
            await self.decider.decide_whole(decisions[0], events, now)

        decisions = [Decided(state, redriven)]
        await self.decide(decisions, decide, len(events))
        return decisions

    async def decide_windows(self, state: TriggerState) -> None:
        """Decide the windows of the trigger whose time has come."""

        async def decide(decisions: Sequence[Decided], now: float) -> None:
            with inside(self.tasks, f"the decision of a window of {state.name}", state.name):
                await self._decide_due(decisions[0], now)

        decisions = [Decided(state)]
        await self.decide(decisions, decide, 0)
        self.effects.report_dead([letter for decided in decisions for letter in decided.letters])

    async def preview(self, state: TriggerState, delivery: Delivery) -> Preview:
        """What would become of the event now."""
        decision = await self.exclusive.begin([state])
        try:
            return await preview(self.decider, state, delivery, self.clock.now())
        finally:
            self.exclusive.leave(decision)
            self.exclusive.end(decision)

    async def _decide_due(self, decided: Decided, now: float) -> None:
        """What is due comes before what arrives."""
        if self.closing or decided.state.removed:
            return
        self.run_queue.release_now(decided.state, now)
        if decided.state.core.windows is not None:
            await self.decider.decide_due(decided, now)

    async def decide(self, decisions: list[Decided], decide: Decide, events: int) -> None:
        """One decision of these triggers, at one moment, and what the store makes of it."""
        states = [decided.state for decided in decisions]
        if self.confirming.pending:
            await self.confirming.confirmed(state.compiled.definition.name for state in states)
        self.refuse_closing()
        if not self.lease.held():
            await self.lease.seen()  # what is only filtered would be decided without the store
        self._count(states, events)
        decision: Decision | None = None
        try:
            try:
                decision = await self.exclusive.begin(states)
                self.refuse_closing()
                now = self.clock.now()
                await decide(decisions, now)
                self.refuse_closing()
            except BaseException as error:
                self._take_back(decision, decisions, events)
                if self.closing and isinstance(error, StoreUnavailable):
                    raise LabClosed(NOT_TAKEN) from error
                raise
            await self.finishing.to_the_end(states, self._take_in(decision, decisions, events, now))
        finally:
            if decision is not None:
                self.exclusive.leave(decision)

    async def _take_in(self, decision: Decision, decisions: list[Decided], events: int, now: float) -> None:
        try:
            for decided in decisions:
                if decided.withdrawn:
                    await self.run_queue.fetch_withdrawn(decided, now)
            refused = await self.accept(decisions, now)
        except BaseException:
            self._take_back(decision, decisions, events)
            raise
        try:
            follows = [await self.effects.apply(decided, refused, now) for decided in decisions]
            for before in list(decisions):
                decisions += await self._settle_again(before, refused, follows, now)
        finally:
            self.exclusive.end(decision)
        for follow in follows:
            await follow()
        for decided in decisions:
            tell_ticks_again(self.report, decided)

    async def _settle_again(
        self, before: Decided, refused: Mapping[str, Refusal], follows: list[Follow], now: float
    ) -> Sequence[Decided]:
        """What hung on others of its batch. The batch has been taken, so that this is too, however long the store is
        away."""
        found: list[Decided] = []
        while before.again:
            taken: list[tuple[Decided, Mapping[str, Refusal]]] = []
            write = partial(self._accept_again, before, refused, taken, now)
            try:
                await insist(self, write, f"an event of {before.state.name}")
            except BaseException:
                self._count([before.state], -sum(it.size for it in before.again))
                raise
            [(before, refused)] = taken
            follows.append(await self.effects.apply(before, refused, now))
            found.append(before)
        return found

    async def _accept_again(
        self,
        before: Decided,
        refused: Mapping[str, Refusal],
        taken: list[tuple[Decided, Mapping[str, Refusal]]],
        now: float,
    ) -> None:
        decided = Decided(before.state, before.left_open)
        decided.of_runs, decided.answered, decided.origin = before.of_runs, before.answered, before.origin
        try:
            await self.decider.settle_again(decided, before.again, refused, now)
            taken.append((decided, await self.accept([decided], now)))
        except BaseException:
            decided.batch.rollback()
            raise

    def refuse_closing(self) -> None:
        """Raises `LabClosed` if nothing is taken any more."""
        if self.closing:
            raise LabClosed(NOT_TAKEN)

    def _count(self, states: Sequence[TriggerState], events: int) -> None:
        for state in states:
            state.counters.received += events
            state.counters.deciding += events

    def _take_back(self, decision: Decision | None, decisions: Sequence[Decided], events: int) -> None:
        """Nothing has been taken."""
        for decided in reversed(decisions):
            decided.batch.rollback()
        self._count([decided.state for decided in decisions], -events)
        if decision is not None:
            self.exclusive.end(decision)

    async def accept(self, decisions: Sequence[Decided], now: float) -> Mapping[str, Refusal]:
        """One transaction for all."""
        batch = acceptance(decisions, now)
        if not batch:
            return {}
        self.finishing.asking += 1
        try:
            self.refuse_closing()  # as where a trigger method has stopped the Lab
            return await self.store.accept(batch)
        finally:
            self.finishing.asking -= 1

    def freed(self, state: TriggerState) -> None:
        """No decision of the trigger is under way: what came meanwhile is seen to, ends of runs first."""
        meanwhile, state.meanwhile = state.meanwhile, []
        for take in meanwhile:
            take()
        if self.slots.scarce and self.slots.used < self.slots.limit:
            self.slots.scarce = False
            self.run_queue.release_all()
        if state.core.admission.waiting:
            self.run_queue.release(state)
        else:
            state.wake()
        self.window_timers.time(state)

    def when_free(self, state: TriggerState, take: Callable[[], object]) -> None:
        """Take what has happened to runs into the gates: now, or when the decision that is under way is made, as no run
        ends inside one."""
        state.meanwhile.append(take)
        if not state.deciding:
            self.freed(state)

    async def wait_for_code(self, run_id: str, saga: str, attempt: int) -> None:
        """The run's saga is not registered: it goes on when it is."""
        await self.store.end(run_id, Ending(RunStatus.NEEDS_CODE), attempt=attempt, at=self.clock.now())
        self.without_code.setdefault(saga, []).append(run_id)
        self.report(f"needs_code:{saga}", f"run {run_id} waits for the code of saga {saga!r}: define it")

    def busy(self) -> bool:
        """Whether a run lives, waits for its turn, or an event is being decided. Retries to come do not count."""
        states = self.states.values()
        return self.runner.busy() or any(
            s.core.admission.waiting
            or s.core.admission.in_flight
            or s.counters.deciding
            or self.window_timers.closing(s.name)
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
        await self.observers.close()
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
