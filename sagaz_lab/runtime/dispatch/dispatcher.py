"""From deliveries to runs: decide, accept in one transaction, start what may start."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import Context
from functools import partial

from sagaz_lab.abc import Delivery, Engine, Event, Redriven, Refusal
from sagaz_lab.errors import LabClosed, StoreUnavailable
from sagaz_lab.model.inside import inside
from sagaz_lab.model.variables import Caller, origin, origin_of
from sagaz_lab.runtime.decisions.acceptance import acceptance
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.decider import Decider
from sagaz_lab.runtime.decisions.hints import report_repeated_ticks
from sagaz_lab.runtime.decisions.preview import Preview, preview
from sagaz_lab.runtime.dispatch.departures import Departures
from sagaz_lab.runtime.dispatch.effects import Effects, Follow
from sagaz_lab.runtime.dispatch.exclusive import Decision, Exclusive, one_at_a_time, open_decision_of, within
from sagaz_lab.runtime.dispatch.run_queue import RunQueue
from sagaz_lab.runtime.dispatch.window_timers import Decide, WindowTimers
from sagaz_lab.runtime.gates.pending_run import NOTHING
from sagaz_lab.runtime.lifetime.finishing import NOT_TAKEN
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.triggers.dead_letter_notices import DeadLetterNotices
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.state import Reader, TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers


class Dispatcher:
    """Makes decisions, has the store accept them, and starts their runs. Builds the parts for that."""

    def __init__(self, life: Lifetime, triggers: Triggers, observers: Observers, engine: Engine) -> None:
        self._life = life
        self._triggers = triggers
        self.observers = observers
        self.letters = DeadLetterNotices(life)
        self._exclusive = Exclusive()
        self._decider = Decider(life.store, life.run_ids, life.report)
        self._departures = departures = Departures(life, observers, self.letters)
        self.runner = Runner(life, engine, triggers, observers, self.letters, self._exclusive.freed)
        self.run_queue = RunQueue(life, triggers, self._exclusive, self.runner, self._decider, departures)
        self.window_timers = WindowTimers(life, triggers, self._exclusive, self)
        self._effects = Effects(life, self.runner, self.run_queue, self.window_timers, departures, observers)
        self._exclusive.on_freed = [self.run_queue.freed, self.window_timers.time]
        self.runner.retry_later = self.run_queue.retry_later
        triggers.on_changed = self._exclusive.freed
        triggers.barrier.on_lifted = self.run_queue.resume
        triggers.on_removed = self.window_timers.removed

    async def take(
        self,
        readers: Sequence[Reader],
        deliveries: Sequence[Delivery],
        *,
        answered: bool = False,
        redriven: Mapping[str, Redriven] = NOTHING,
        contexts: Sequence[Context] = (),
    ) -> list[Decided]:
        """Decide the deliveries for each reader's trigger and store the result.

        `answered`: the caller reports the outcomes, so dead letters need no report. `redriven` are the dead letters
        that the events come from, by event id. With `contexts` each delivery is decided, and its run executed, in a
        copy of its own.

        On return everything is stored and the deliveries may be acked: first the decisions of each reader, then those
        of events that depended on others of the batch. Raises `StoreUnavailable`; then nothing is stored or counted.
        """

        async def decide(decisions: Sequence[Decided], now: float) -> None:
            for decided in decisions:
                await self._decide_due(decided, now)
                callers = [Caller(within(context), origin_of(context)) for context in contexts]
                await self._decider.decide(decided, deliveries, now, part=parts[decided], callers=callers)

        await self._may_decide([state for state, _ in readers])
        parts = {Decided(state, redriven): part for state, part in readers}
        decisions = [*parts]
        for decided in decisions:
            decided.answered = answered
        await self.decide(decisions, decide, len(deliveries))
        if self.observers.all:
            self.observers.received(readers, deliveries)
        answered_ids = {delivery.event.id for delivery in deliveries} if answered else ()
        for decided in decisions:  # no caller learns of those from earlier windows
            self.letters.report([letter for letter in decided.letters if letter.event.id not in answered_ids])
        return decisions

    async def take_with(self, decision: Decision, reader: Reader, delivery: Delivery) -> Decided:
        """Decide an event that user code fired to one of the triggers whose decision waits for that code.

        It joins the current batch: the store accepts both or neither. The entries of the result are preliminary.
        """
        state, part = reader
        batch = decision.batches[state]
        async with one_at_a_time():
            own, before, seen = batch.beside(), batch.batch.savepoint(), dict(batch.seen)
            own.redriven, own.origin, own.mixed, batch.mixed = NOTHING, origin(), True, True
            self._count([state], 1)
            batch.batch.undo_by(self._count, [state], -1)
            try:
                await self._decider.decide(own, [delivery], decision.now, part=part)
            except BaseException:
                batch.batch.rollback(before)
                batch.seen.clear()
                batch.seen.update(seen)
                raise
        batch.absorb(own)
        decision.fired.append((reader, delivery))
        return own

    async def take_whole(
        self, state: TriggerState, events: Sequence[Event], redriven: Mapping[str, Redriven]
    ) -> list[Decided]:
        """`take` for events that have passed their window before; the caller reports the outcomes."""

        async def decide(decisions: Sequence[Decided], now: float) -> None:
            await self._decide_due(decisions[0], now)
            await self._decider.decide_whole(decisions[0], events, now)

        await self._may_decide([state])
        decisions = [Decided(state, redriven)]
        await self.decide(decisions, decide, len(events))
        return decisions

    async def decide_windows(self, state: TriggerState) -> None:
        """Decide the trigger's windows that are due."""

        async def decide(decisions: Sequence[Decided], now: float) -> None:
            with inside(self._life.tasks, f"the decision of a window of {state.name}", state.name):
                await self._decide_due(decisions[0], now)

        await self._may_decide([state])
        decisions = [Decided(state)]
        await self.decide(decisions, decide)
        self.letters.report([letter for decided in decisions for letter in decided.letters])

    async def preview(self, state: TriggerState, delivery: Delivery) -> Preview:
        """The outcome that the event would have now."""
        if open_decision_of(state) is not None:
            return await preview(self._decider, state, delivery, self._life.clock.now())
        decision = await self._exclusive.begin([state])
        try:
            return await preview(self._decider, state, delivery, self._life.clock.now())
        finally:
            self._exclusive.leave(decision)
            self._exclusive.end(decision)

    async def _may_decide(self, states: Sequence[TriggerState]) -> None:
        """Returns when no saga of these triggers is blocked."""
        if self._triggers.barrier.raised:
            await self._triggers.barrier.lifted([state.compiled.definition.name for state in states])

    async def _decide_due(self, decided: Decided, now: float) -> None:
        """What is due precedes what arrives."""
        if self._life.closing or decided.state.removed:
            return
        self.run_queue.release_now(decided.state, now)
        if decided.state.core.windows is not None:
            await self._decider.decide_due(decided, now)

    async def decide(self, decisions: list[Decided], decide: Decide, events: int = 0) -> None:
        """One decision of these triggers, and its acceptance by the store.

        Triggers whose methods wait come first, so that they do not delay the others.
        """
        states = [decided.state for decided in decisions]
        self._life.refuse_closing()
        if not self._life.lease.held():
            await self._life.lease.seen()  # events that are only filtered would be decided without the store
        self._count(states, events)
        decision: Decision | None = None
        try:
            try:
                for batches in _patient_first(decisions):
                    decision = await self._begin(decision, batches)
                    await decide(batches, decision.now)
                assert decision is not None
                decision.open, now = False, decision.now
                self._life.refuse_closing()
            except BaseException as error:
                self._take_back(decision, decisions, events)
                if self._life.closing and isinstance(error, StoreUnavailable):
                    raise LabClosed(NOT_TAKEN) from error
                raise
            waits = any(state.waits_after_accept for state in states)
            await self._life.finishing.to_the_end(self._take_in(decision, decisions, events, now), waits=waits)
        finally:
            if decision is not None:
                self._exclusive.leave(decision)

    async def _begin(self, decision: Decision | None, batches: Sequence[Decided]) -> Decision:
        states = [decided.state for decided in batches]
        if decision is None:
            decision = await self._exclusive.begin(states)
        else:
            await self._exclusive.extend(decision, states)
        self._life.refuse_closing()
        decision.now = self._life.clock.now()
        decision.batches.update({decided.state: decided for decided in batches})
        return decision

    async def _take_in(self, decision: Decision, decisions: list[Decided], events: int, now: float) -> None:
        try:
            for decided in decisions:
                if decided.withdrawn:
                    await self._departures.fetch_withdrawn(decided, now)
            refused = await self._accept(decisions, now)
        except BaseException:
            self._take_back(decision, decisions, events)
            raise
        try:
            follows = [await self._effects.apply(decided, refused, now) for decided in decisions]
            for before in list(decisions):
                decisions += await self._settle_again(before, refused, follows, now)
        finally:
            self._exclusive.end(decision)
        for reader, delivery in decision.fired if self.observers.all else ():
            self.observers.received([reader], [delivery])
        for follow in follows:
            await follow()
        for decided in decisions:
            report_repeated_ticks(self._life.report, decided)

    async def _settle_again(
        self, before: Decided, refused: Mapping[str, Refusal], follows: list[Follow], now: float
    ) -> Sequence[Decided]:
        """Settle what depended on others of its batch. The batch is stored, so this is retried during outages."""
        found: list[Decided] = []
        while before.again:
            taken: list[tuple[Decided, Mapping[str, Refusal]]] = []
            write = partial(self._accept_again, before, refused, taken, now)
            try:
                await self._life.insist(write, f"an event of {before.state.name}")
            except BaseException:
                self._count([before.state], -sum(it.size for it in before.again))
                raise
            [(before, refused)] = taken
            follows.append(await self._effects.apply(before, refused, now))
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
        decided.of_runs, decided.answered = before.of_runs, before.answered
        decided.origin, decided.mixed = before.origin, before.mixed
        try:
            await self._decider.settle_again(decided, before.again, refused, now)
            taken.append((decided, await self._accept([decided], now)))
        except BaseException:
            decided.batch.rollback()
            raise

    def _count(self, states: Sequence[TriggerState], events: int) -> None:
        for state in states:
            state.counters.received += events
            state.counters.deciding += events

    def _take_back(self, decision: Decision | None, decisions: Sequence[Decided], events: int) -> None:
        """Nothing was stored: undo the counts."""
        for decided in reversed(decisions):
            decided.batch.rollback()
        self._count([decided.state for decided in decisions], -events)
        if decision is not None:
            self._exclusive.end(decision)

    async def _accept(self, decisions: Sequence[Decided], now: float) -> Mapping[str, Refusal]:
        """Store all decisions in one transaction."""
        batch = acceptance(decisions, now)
        if not batch:
            return {}
        self._life.finishing.asking += 1
        try:
            self._life.refuse_closing()  # a trigger method may have stopped the Lab
            return await self._life.store.accept(batch)
        finally:
            self._life.finishing.asking -= 1

    def busy(self) -> bool:
        """Whether a run is live or queued, or an event is being decided. Pending retries do not count."""
        states = self._triggers.states.values()
        return self.runner.busy() or any(
            s.core.admission.waiting
            or s.core.admission.in_flight
            or s.counters.deciding
            or self.window_timers.closing(s.name)
            for s in states
        )

    async def close(self) -> None:
        """Abandon the live runs: the store knows how to resume them."""
        await self._life.take_no_more()
        await self.observers.close()
        await self.runner.close()
        await self._life.tasks.close()
        self.run_queue.close()
        self.window_timers.close()
        for state in self._triggers.states.values():
            state.wake()

    async def drain(self) -> None:
        """Returns when nothing is live or being decided."""
        while self.busy():
            self.runner.idle.clear()
            if self.runner.busy():
                await self.runner.idle.wait()
            else:
                await asyncio.sleep(0.005)


def _patient_first(decisions: Sequence[Decided]) -> list[list[Decided]]:
    """The triggers whose methods may wait, then the others. Divided once, as a cell may change a method meanwhile."""
    groups: tuple[list[Decided], list[Decided]] = ([], [])
    for decided in decisions:
        groups[not decided.state.compiled.is_async].append(decided)
    return [group for group in groups if group]
