"""Waiting: held events, each started when it is its turn, and the retries to come."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sagaz_lab.abc import Acceptance, Delivery
from sagaz_lab.errors import LeaseLost, StoreError, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.admission import Ticket
from sagaz_lab.runtime.compiled import TriggerState
from sagaz_lab.runtime.deciding import QUEUE_FULL, Decided
from sagaz_lab.runtime.outcomes import Entry, outcome

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatcher import Dispatcher

WAITS = "waits for its turn"


class Turns:
    """Holds what may not start yet, and starts it when it may."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._clock = dispatcher.clock
        self._store = dispatcher.store
        self._timers: set[str] = set()
        self._held: set[Ticket] = set()

    async def hold(self, decided: Decided, ticket: Ticket, now: float) -> None:
        state = decided.state
        strategy = state.compiled.config.backpressure_strategy
        oldest = state.admission.drop_oldest() if strategy == "drop_oldest" and state.admission.full() else None
        ticket.final = asyncio.get_running_loop().create_future()
        state.admission.wait(ticket)
        self._held.add(ticket)
        state.counters.deciding -= 1
        state.counters.held += 1
        entry = entry_of("held", WAITS, ticket, now)
        decided.entries.append(entry)
        self._dispatcher.tally.keep([entry])
        if oldest is not None:
            await self._drop(state, oldest, now)

    async def _drop(self, state: TriggerState, ticket: Ticket, now: float) -> None:
        state.counters.held -= 1
        state.counters.dropped += 1
        state.counters.count_reason("dropped", QUEUE_FULL)
        self._finally(ticket, OutcomeKind.DROPPED, QUEUE_FULL, now)
        try:
            await self._store.withdraw(ticket.run_id)
        except StoreError as error:
            text = f"run {ticket.run_id} was dropped, but the store still has it: {describe(error)}"
            self._dispatcher.report("store", text)
        if hooks := state.compiled.definition.hooks.get("on_trigger_dropped"):
            await tell(hooks, ticket.saga, ticket.event, QUEUE_FULL)

    def _finally(self, ticket: Ticket, kind: OutcomeKind, reason: str, now: float) -> None:
        """A held event has its outcome."""
        entry = entry_of(kind.value, reason, ticket, now)
        self._dispatcher.tally.keep([entry])
        self._held.discard(ticket)
        if ticket.final is not None and not ticket.final.done():
            ticket.final.set_result(outcome(entry))

    def close(self) -> None:
        """What is held goes on with the next opening."""
        for ticket in list(self._held):
            self._put_off(self._dispatcher.states[ticket.trigger or ""], ticket, WAITS)

    def _put_off(self, state: TriggerState, ticket: Ticket, reason: str) -> None:
        """A held event stays stored, and counts anew when it is taken up again; who waits for its outcome is told."""
        state.counters.received -= 1
        state.counters.held -= 1
        self._held.discard(ticket)
        if ticket.final is not None and not ticket.final.done():
            ticket.final.set_result(outcome(entry_of("held", reason, ticket, self._clock.now())))

    def hold_again(self, state: TriggerState, ticket: Ticket) -> None:
        """An event that was held before, here or in another process, waits for its turn."""
        state.admission.wait(ticket)
        self._held.add(ticket)
        state.counters.received += 1
        state.counters.held += 1
        self.release(state)

    def release(self, state: TriggerState) -> None:
        """Start what may start now, and come back when the rate lets the next one through."""
        if self._dispatcher.closing:
            return
        moment = self._clock.monotonic()
        while ticket := state.admission.next(moment):
            self._dispatcher.tasks.start(self._leave_queue(state, ticket), f"{ticket.trigger} {ticket.run_id}")
        delay_s = state.admission.opens_in(moment)
        if delay_s is not None and state.name not in self._timers:
            self._timers.add(state.name)
            self._dispatcher.tasks.start(self._release_later(state, delay_s), f"rate of {state.name}")
        state.wake()

    async def _release_later(self, state: TriggerState, delay_s: float) -> None:
        try:
            await self._clock.sleep(delay_s)
        finally:
            self._timers.discard(state.name)
        self.release(state)

    async def _leave_queue(self, state: TriggerState, ticket: Ticket) -> None:
        """It is this run's turn. Its event is decided by the revision that is current now."""
        now = self._clock.now()
        first = ticket.attempt == 1
        definition = self._dispatcher.registry.current.get(ticket.saga)
        try:
            if definition is None:
                state.admission.leave(ticket.key)
                await self._dispatcher.wait_for_code(ticket.run_id, ticket.saga, 0 if first else ticket.attempt)
                if first:
                    self._put_off(state, ticket, f"waits for the code of saga {ticket.saga!r}")
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
                await self._store.begin(
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
            ticket.status = RunStatus.RUNNING
            self._dispatcher.runner.launch_shared(ticket, definition, now)
        except StoreError as error:
            state.admission.leave(ticket.key)
            self._dispatcher.report("store", f"run {ticket.run_id} could not start: {describe(error)}; it stays stored")
            await self._clock.sleep(1.0)
            if not isinstance(error, LeaseLost):
                state.admission.reenter(ticket)
                self.release(state)

    async def _decide_again(self, state: TriggerState, ticket: Ticket, definition: SagaDefinition, now: float) -> bool:
        """True if the new revision still starts a run from the held event."""
        assert ticket.event is not None
        if state.removed:
            return True
        delivery = Delivery(ticket.event, None, True)
        again = await self._dispatcher.decider.decide(state, [delivery], now, own=ticket.run_id)
        ticket.revision = definition.revision
        if again.starts:
            ticket.context = again.starts[0].context
            return True
        state.admission.leave(ticket.key)
        await self._store.withdraw(ticket.run_id)
        if again.letters:
            await self._store.accept(Acceptance(dead=again.letters))
        kind, reason = OutcomeKind(again.entries[0][0]), again.entries[0][1]
        state.counters.held -= 1
        setattr(state.counters, kind, getattr(state.counters, kind) + 1)
        self._finally(ticket, kind, reason, now)
        self.release(state)
        return False

    def retry_later(self, ticket: Ticket, delay_s: float) -> None:
        self._dispatcher.tasks.start(self._retry(ticket, delay_s), f"retry of {ticket.run_id}")

    async def _retry(self, ticket: Ticket, delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        state = self._dispatcher.states[ticket.trigger or ""]
        state.admission.reenter(ticket)
        self.release(state)


def entry_of(kind: str, reason: str, ticket: Ticket, now: float) -> Entry:
    event_id = ticket.event.id if ticket.event is not None else ""
    return (kind, reason, event_id, ticket.trigger or "", ticket.run_id, ticket.revision, now, None)
