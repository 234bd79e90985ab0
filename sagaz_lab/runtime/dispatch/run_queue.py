"""The run queue: runs that wait, each started when it is its turn, and the retries to come."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sagaz_lab.abc import Acceptance, DeadLetter, Ending, KeptEvent
from sagaz_lab.errors import LeaseLost, RunError, StoreError, describe
from sagaz_lab.model.inside import inside
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.decisions.decided import COOLING, QUEUE_FULL, Decided, cooling_facts, letters_only
from sagaz_lab.runtime.dispatch.insisting import insist
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.window_policies import SUPERSEDED
from sagaz_lab.runtime.triggers.compiled import TriggerState
from sagaz_lab.runtime.triggers.outcomes import entries_of, outcome

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher

WAITS = "waits for its turn"

IN_MEMORY = 10_000
"""Runs of a trigger that wait with their event and context; further ones leave those to a store that survives."""

STORE_RETRY_S = 1.0
"""What the store has not taken is tried again after so long."""

FINE_S = 0.001
"""A timer is not set anew for less."""


class RunQueue:
    """Holds what may not start yet, and starts it when it may."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._clock = dispatcher.clock
        self._store = dispatcher.store
        self._timers: dict[str, float] = {}
        self._starts = 0
        self._served: dict[str, int] = {}
        self._held: dict[str, PendingRun] = {}
        # Runs whose place was taken while the store was about to take them in. Bounded, as some may be refused.
        self._unwanted: deque[str] = deque(maxlen=1000)
        self._retries: dict[str, tuple[PendingRun, asyncio.Task[Any]]] = {}
        self._leaving: dict[str, asyncio.Task[Any]] = {}

    async def hold(self, decided: Decided, pending: PendingRun, now: float) -> None:
        state = decided.state
        strategy = state.compiled.config.backpressure_strategy
        oldest = self._oldest(state) if strategy == "drop_oldest" and state.admission.full() else None
        pending.origin = decided.origin
        self._queue(state, pending)
        if decided.answered or decided.released:
            decided.finals.append(self.final(pending))
        entries = entries_of("held", WAITS, pending, now)
        state.counters.deciding -= len(entries)
        state.counters.held += len(entries)
        decided.entries += entries
        self._dispatcher.tally.keep(entries)
        if pending.run_id in self._unwanted:
            await self._turn_away(state, pending, OutcomeKind.FILTERED, SUPERSEDED, now, {"key": pending.key})
        if oldest is not None:
            decided.outrun(oldest.run_id, pending.run_id)
            await self._turn_away(state, oldest, OutcomeKind.DROPPED, QUEUE_FULL, now)

    def _queue(self, state: TriggerState, pending: PendingRun) -> None:
        state.admission.wait(pending)
        self._held[pending.run_id] = pending
        if self._store.traits.survives and state.admission.waiting > IN_MEMORY:
            pending.leave_to_store()

    async def _fetch(self, pending: PendingRun) -> None:
        """Have its event and context in memory again."""
        if pending.left:
            stored = await self._store.load(pending.run_id)
            if stored is None or stored.event is None:
                raise StoreError(f"run {pending.run_id} is not in the store any more")
            pending.event, pending.context, pending.flat = stored.event, stored.context, False

    async def _fetch_if_there(self, pending: PendingRun) -> None:
        """The same, however long the store is away. What it does not have, nobody is told of."""
        try:
            await insist(self._dispatcher, partial(self._fetch, pending), f"run {pending.run_id}")
        except StoreError as error:
            self._dispatcher.report("store", f"the event of run {pending.run_id} cannot be read: {describe(error)}")

    def final(self, pending: PendingRun) -> asyncio.Future[Outcome]:
        """The outcome that a held event will have. To be asked for before it can have it."""
        if pending.final is None:
            pending.final = asyncio.get_running_loop().create_future()
        return pending.final

    def _oldest(self, state: TriggerState) -> PendingRun | None:
        """The one of this trigger that has waited longest for its first start."""
        return next((it for it in self._held.values() if it.trigger == state.name and it.queued), None)

    async def _turn_away(
        self, state: TriggerState, pending: PendingRun, kind: OutcomeKind, reason: str, now: float,
        facts: Mapping[str, Any] | None = None, *, queued: bool = True, letters: Sequence[DeadLetter] = (),
    ) -> None:  # fmt: skip
        """A held event starts nothing after all; `letters` are what it leaves."""
        hooks = state.compiled.definition.hooks.get(f"on_trigger_{kind.value}", ())
        if queued:
            state.admission.remove(pending)
        if hooks or state.compiled.config.persist_events:
            await self._fetch_if_there(pending)
        self._finally(state, pending, kind, reason, now, facts)
        state.counters.count_reason(kind.value, reason, pending.size)
        batch = letters_only(state, letters)
        batch.kept = self._kept(state, pending, kind, reason, now)
        try:
            if letters and letters[-1].run_id is not None:
                await self._end_with(letters[-1], batch, now)
            else:
                # All in one transaction, so that a letter takes over the claim of the run, and none is lost between.
                spent_until = state.compiled.spent_until(now) if reason in (SUPERSEDED, QUEUE_FULL) else None
                batch.withdrawn = {pending.run_id: spent_until}
                await self._store.accept(batch)
        except StoreError as error:
            text = f"run {pending.run_id} was {kind.value}, but the store does not know it: {describe(error)}"
            self._dispatcher.report("store", text)
        if kind is not OutcomeKind.DEAD:  # of which it is told with its letter
            for event in pending.events():
                await tell(hooks, pending.saga, event, reason)

    async def _end_with(self, letter: DeadLetter, batch: Acceptance, now: float) -> None:
        """The run's own letter: it is not withdrawn, since only the store knows the claims of the other events."""
        error = RunError(f"it never began, and left dead letter {letter.id}: {letter.error}")
        ending = Ending(RunStatus.COMPENSATED, error, publications=batch.publications)
        letter.claim = None
        await self._store.end(letter.run_id or "", ending, attempt=1, at=now, dead=letter)
        if batch.kept:
            await self._store.accept(Acceptance(kept=batch.kept))

    def _kept(
        self, state: TriggerState, pending: PendingRun, kind: OutcomeKind, reason: str, now: float
    ) -> Sequence[KeptEvent]:
        """The events with their outcome, if the trigger is to keep them."""
        decided = Decided(state)
        for event in pending.events():
            decided.note(event, kind, reason, now)
        return decided.kept

    def _finally(
        self, state: TriggerState, pending: PendingRun, kind: OutcomeKind, reason: str, now: float,
        facts: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A held event has its outcome."""
        entries = entries_of(kind.value, reason, pending, now, facts)
        state.counters.held -= len(entries)
        setattr(state.counters, kind, getattr(state.counters, kind) + len(entries))
        self._dispatcher.tally.keep(entries)
        if self._dispatcher.tee is not None:
            self._dispatcher.tee.left_queue(pending, entries)
        self._held.pop(pending.run_id, None)
        if pending.final is not None and not pending.final.done():
            pending.final.set_result(outcome(entries[-1]))

    async def replace(self, state: TriggerState, run_id: str, now: float) -> None:
        """A later run takes the place of this one: it is cancelled and undone, or never starts."""
        dispatcher = self._dispatcher
        if (live := dispatcher.runner.live.get(run_id)) is not None:
            live.cancel()
        elif run_id in self._retries:
            await self._cancel_retry(state, run_id, now)
        elif (held := self._held.get(run_id)) is not None and held.queued:
            await self._turn_away(state, held, OutcomeKind.FILTERED, SUPERSEDED, now, {"key": held.key})
        else:
            self._unwanted.append(run_id)

    async def cancel(self, run_id: str, now: float) -> bool:
        """End a run that waits here for its retry or its turn. False if there is none; it may have begun just now."""
        while (leaving := self._leaving.get(run_id)) is not None:
            await asyncio.wait([leaving])
        if run_id in self._retries:
            state = self._dispatcher.states[self._retries[run_id][0].trigger or ""]
            await self._cancel_retry(state, run_id, now)
            self.release(state)
            return True
        for state in self._dispatcher.states.values():
            if (pending := state.admission.find(run_id)) is not None:
                await self._cancel_queued(state, pending, now)
                self.release(state)
                return True
        return False

    async def _cancel_retry(self, state: TriggerState, run_id: str, now: float) -> None:
        pending, task = self._retries.pop(run_id)
        self._dispatcher.tasks.cancel(task)
        state.retrying -= 1
        try:
            await self._store.end(run_id, Ending(RunStatus.CANCELLED), attempt=pending.attempt - 1, at=now)
        except StoreError:
            self.retry_later(pending, STORE_RETRY_S)
            raise
        state.admission.give_up_turn(pending)

    async def _cancel_queued(self, state: TriggerState, pending: PendingRun, now: float) -> None:
        """Its event has its outcome: it started a run, which was cancelled before any action began."""
        first = pending.attempt == 1
        state.admission.remove(pending)
        try:
            attempt = 1 if first else pending.attempt - 1
            await self._store.end(pending.run_id, Ending(RunStatus.CANCELLED), attempt=attempt, at=now)
        except StoreError:
            state.admission.wait(pending, first=True)
            raise
        if first:
            self._finally(state, pending, OutcomeKind.STARTED, "", now)

    def close(self) -> None:
        """What is held goes on with the next opening."""
        for pending in list(self._held.values()):
            self._put_off(self._dispatcher.states[pending.trigger or ""], pending, WAITS)

    def _put_off(self, state: TriggerState, pending: PendingRun, reason: str) -> None:
        """A held event stays stored, and counts anew when it is taken up again; who waits for its outcome is told."""
        entries = entries_of("held", reason, pending, self._clock.now())
        state.counters.received -= len(entries)
        state.counters.held -= len(entries)
        self._held.pop(pending.run_id, None)
        if pending.final is not None and not pending.final.done():
            pending.final.set_result(outcome(entries[-1]))

    def hold_again(self, state: TriggerState, pending: PendingRun) -> None:
        """An event that was held before, here or in another process, waits for its turn."""
        self._queue(state, pending)
        state.counters.received += pending.size
        state.counters.held += pending.size
        self.release(state)

    def release(self, state: TriggerState) -> None:
        """Start what may start now, and come back when the pace lets the next one through."""
        if self._dispatcher.closing:
            return
        moment = self._clock.monotonic()
        while pending := state.admission.next(moment):
            self._starts += 1
            self._served[state.name] = self._starts
            tasks, name = self._dispatcher.tasks, f"{pending.trigger} {pending.run_id}"
            leaving = tasks.start(self._leave_queue(state, pending), name, pending.origin or tasks.home)
            self._leaving[pending.run_id] = leaving
        delay_s = state.admission.opens_in(moment)
        # A timer that is set already may be later than what a new pace lets through.
        if delay_s is not None and (due := moment + delay_s) < self._timers.get(state.name, float("inf")) - FINE_S:
            self._timers[state.name] = due
            self._dispatcher.tasks.start(self._release_later(state, due), f"pace of {state.name}")
        state.wake()

    def release_all(self) -> None:
        """The Lab's slots were scarce and one is free: the trigger with the highest priority is first."""
        waiting = [state for state in self._dispatcher.states.values() if state.admission.waiting]
        # Of equal priority the one that has been served longest ago.
        served = {state.name: self._served.pop(state.name, 0) for state in waiting}
        self._served = served
        for state in sorted(waiting, key=lambda it: (-it.compiled.trigger.gates.priority, served[it.name])):
            self.release(state)
        for state in self._dispatcher.states.values():
            state.wake()

    async def _release_later(self, state: TriggerState, due: float) -> None:
        try:
            await self._clock.sleep(max(0.0, due - self._clock.monotonic()))
        finally:
            if self._timers.get(state.name) == due:
                del self._timers[state.name]
        self.release(state)

    async def _leave_queue(self, state: TriggerState, pending: PendingRun) -> None:
        try:
            await self._begin(state, pending)
        except StoreError as error:
            state.admission.leave(pending, keep_turn=True)
            if isinstance(error, LeaseLost):
                self._dispatcher.lease.lose(error)
                return
            self._dispatcher.report(
                "store", f"run {pending.run_id} could not start: {describe(error)}; it stays stored"
            )
            await self._clock.sleep(STORE_RETRY_S)
            state.admission.reenter(pending)
            self._leaving.pop(pending.run_id, None)
            self.release(state)
        finally:
            if self._leaving.get(pending.run_id) is asyncio.current_task():
                del self._leaving[pending.run_id]

    async def _begin(self, state: TriggerState, pending: PendingRun) -> None:
        """It is this run's turn. Its event is decided by the revision that is current now. Raises `StoreError`."""
        await self._dispatcher.confirming.confirmed([pending.saga])
        now = self._clock.now()
        definition = self._dispatcher.code_of(pending.saga)
        if definition is None and pending.attempt > 1:  # it has begun, so it goes on to its end
            definition = state.compiled.definition
        if definition is None:
            await self._wait_for_code(state, pending)
            return
        await self._fetch(pending)
        if pending.attempt == 1 and not await self._still_wanted(state, pending, definition, now):
            state.admission.refund(pending)
            state.admission.leave(pending)
            self.release(state)
            return
        pending.revision = definition.revision
        await self._dispatcher.finishing.to_the_end([state], self._start(state, pending, definition, now))

    async def _start(self, state: TriggerState, pending: PendingRun, definition: SagaDefinition, now: float) -> None:
        if pending.history is None:
            await self._store.begin(
                pending.run_id,
                revision=pending.revision,
                attempt=pending.attempt,
                started=definition.plan.roots,
                at=now,
                context=pending.context,
                cooldown=pending.cooldown if pending.attempt == 1 else None,
            )
        if pending.attempt == 1:
            self._finally(state, pending, OutcomeKind.STARTED, "", now)
        pending.status = RunStatus.RUNNING
        origin = pending.origin or self._dispatcher.tasks.home
        self._dispatcher.runner.launch_shared([pending], definition, now, origin)
        if pending.run_id in self._unwanted:
            self._dispatcher.runner.live[pending.run_id].cancel()

    async def _wait_for_code(self, state: TriggerState, pending: PendingRun) -> None:
        """Of a first attempt: its event has been taken, and starts its run when the saga is defined again."""
        await self._dispatcher.wait_for_code(pending.run_id, pending.saga, 0)
        state.admission.leave(pending)
        self._put_off(state, pending, f"waits for the code of saga {pending.saga!r}")
        self.release(state)

    async def _still_wanted(
        self, state: TriggerState, pending: PendingRun, definition: SagaDefinition, now: float
    ) -> bool:
        """Whether a held event still starts its run: by the current revision, and by the cooldown of its key."""
        if definition.revision != pending.revision and not await self._decide_again(state, pending, definition, now):
            return False
        if (cooldown_s := state.compiled.cooldown_s) is not None:
            key = pending.key or ""
            cooling = (await self._store.cooling(state.name, [key], at=now)).get(key)
            if cooling is not None:
                facts = cooling_facts(cooling, pending.key, now)
                await self._turn_away(state, pending, OutcomeKind.FILTERED, COOLING, now, facts, queued=False)
                return False
            pending.cooldown = (key, now + cooldown_s)
        return True

    async def _decide_again(
        self, state: TriggerState, pending: PendingRun, definition: SagaDefinition, now: float
    ) -> bool:
        """True if the new revision still starts a run from the held event."""
        if state.removed:
            return True
        with inside(self._dispatcher.tasks, f"the decision of an event of {state.name}"):
            again = await self._dispatcher.decider.decide_again(state, pending, now)
        pending.revision = definition.revision
        if again.starts:
            pending.context, pending.flat = again.starts[0].context, again.starts[0].flat
            return True
        kind, reason, *_, facts = again.entries[0]
        await self._turn_away(
            state, pending, OutcomeKind(kind), reason, now, facts, queued=False, letters=again.letters
        )
        await self._dispatcher.tell_dead(state, again.letters)
        self._dispatcher.report_dead(again.letters)
        return False

    def retry_later(self, pending: PendingRun, delay_s: float) -> None:
        task = self._dispatcher.tasks.start(self._retry(pending, delay_s), f"retry of {pending.run_id}")
        self._retries[pending.run_id] = (pending, task)
        self._dispatcher.states[pending.trigger or ""].retrying += 1

    async def _retry(self, pending: PendingRun, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        del self._retries[pending.run_id]
        state = self._dispatcher.states[pending.trigger or ""]
        state.retrying -= 1
        state.admission.reenter(pending)
        self.release(state)
