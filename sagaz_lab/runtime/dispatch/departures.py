"""Events that start no run and runs that leave the queue: counted, stored, reported to listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sagaz_lab.abc import Acceptance, DeadLetter, Ending, KeptEvent
from sagaz_lab.errors import RunError, StoreError, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.acceptance import letters_only
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.gates.core import QUEUE_FULL
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.reservation import Verdict
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.triggers.dead_letter_notices import DeadLetterNotices
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.outcomes import entries_of, outcome
from sagaz_lab.runtime.triggers.state import TriggerState


class Departures:
    """For all triggers."""

    def __init__(self, life: Lifetime, observers: Observers, letters: DeadLetterNotices) -> None:
        self._life = life
        self._store = life.store
        self._observers = observers
        self._letters = letters

    async def fetch(self, pending: PendingRun) -> None:
        """Load its event and context again. Raises `StoreError`."""
        if pending.left:
            stored = await self._store.load(pending.run_id)
            if stored is None or stored.event is None:
                raise StoreError(f"run {pending.run_id} is no longer in the store")
            pending.event, pending.context, pending.flat = stored.event, stored.context, False

    async def _fetch_if_there(self, pending: PendingRun) -> None:
        """`fetch`, retried while the store is unavailable; a missing event is reported."""
        try:
            await self._life.insist(partial(self.fetch, pending), f"run {pending.run_id}")
        except StoreError as error:
            self._life.report("store", f"the event of run {pending.run_id} cannot be read: {describe(error)}")

    def finally_(
        self, state: TriggerState, pending: PendingRun, kind: OutcomeKind, reason: str, now: float,
        facts: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A waiting event has its final outcome."""
        entries = entries_of(kind.value, reason, pending, now, facts)
        pending.has_outcome = True
        state.counters.waiting -= len(entries)
        setattr(state.counters, kind, getattr(state.counters, kind) + len(entries))
        self._observers.tally.keep(entries)
        if self._observers.all:
            self._observers.decided(entries, (pending,))
        if pending.final is not None and not pending.final.done():
            pending.final.set_result(outcome(entries[-1]))

    def withdrawn(self, state: TriggerState, pending: PendingRun, verdict: Verdict, now: float) -> None:
        """The store has dropped the run, which a later one superseded."""
        self.finally_(state, pending, verdict.kind, verdict.reason, now, verdict.facts)
        state.counters.count_reason(verdict.kind.value, verdict.reason, pending.size)

    async def fetch_withdrawn(self, decided: Decided, now: float) -> None:
        """Load events that listeners and `persist_events` need before the store drops them."""
        compiled = decided.state.compiled
        for pending, (kind, reason, *_) in decided.withdrawn:
            if compiled.config.persist_events or f"on_trigger_{kind.value}" in compiled.definition.hooks:
                await self._fetch_if_there(pending)
                for event in pending.events():
                    decided.note(event, kind, reason, now)
                    if kind is OutcomeKind.DROPPED:
                        decided.dropped.append(event)

    async def call_listeners(self, decided: Decided) -> None:
        """Call the listeners for the events of a batch that started nothing."""
        definition = decided.state.compiled.definition
        await self._letters.announce(decided.state, decided.letters)
        for event in decided.dropped:
            await tell(definition.hooks.get("on_trigger_dropped", ()), definition.name, event, QUEUE_FULL)
        for event, reason in decided.filtered:
            await tell(definition.hooks["on_trigger_filtered"], definition.name, event, reason)

    async def turn_away(
        self, state: TriggerState, pending: PendingRun, verdict: Verdict, now: float,
        letters: Sequence[DeadLetter] = (),
    ) -> None:  # fmt: skip
        """A waiting event starts nothing after all; `letters` are its dead letters.

        It has its outcome once the store knows, however long the store is away. Raises `StoreError`.
        """
        kind, reason, facts = verdict.kind, verdict.reason, verdict.facts
        hooks = state.compiled.definition.hooks.get(f"on_trigger_{kind.value}", ())
        if hooks or state.compiled.config.persist_events:
            await self._fetch_if_there(pending)
        batch = letters_only(state, letters)
        batch.kept = _kept(state, pending, kind, reason, now)
        if letters and letters[-1].run_id is not None:
            await self._end_with(letters[-1], batch, now)
        else:
            # All in one transaction, so that a letter takes over the claim of the run, and none is lost between.
            batch.withdrawn = {pending.run_id: None}
            await self._accept(batch, pending.run_id)
        self.finally_(state, pending, kind, reason, now, facts)
        state.counters.count_reason(kind.value, reason, pending.size)
        if kind is not OutcomeKind.DEAD:
            for event in pending.events():
                await tell(hooks, pending.saga, event, reason)
        await self._letters.announce(state, letters)
        self._letters.report(letters)

    async def _end_with(self, letter: DeadLetter, batch: Acceptance, now: float) -> None:
        """End the run with its own dead letter. Not withdrawn: only the store knows the other events' claims."""
        error = RunError(f"it never began, and left dead letter {letter.id}: {letter.error}")
        ending = Ending(RunStatus.COMPENSATED, error, publications=batch.publications)
        letter.claim = None
        run_id = letter.run_id or ""
        write = partial(self._store.end, run_id, ending, attempt=1, at=now, dead=letter)
        await self._life.insist(write, f"the outcome of run {run_id}")
        if batch.kept:
            await self._accept(Acceptance(kept=batch.kept), run_id)

    async def _accept(self, batch: Acceptance, run_id: str) -> None:
        await self._life.insist(partial(self._store.accept, batch), f"the outcome of run {run_id}")

    def put_off(self, state: TriggerState, pending: PendingRun, reason: str) -> None:
        """A waiting event stays stored and counts as new when it is loaded again; its caller gets `waiting`."""
        entries = entries_of("waiting", reason, pending, self._life.clock.now())
        state.counters.received -= len(entries)
        state.counters.waiting -= len(entries)
        if pending.final is not None and not pending.final.done():
            pending.final.set_result(outcome(entries[-1]))


def _kept(state: TriggerState, pending: PendingRun, kind: OutcomeKind, reason: str, now: float) -> Sequence[KeptEvent]:
    """The events with their outcome, if the trigger keeps them."""
    decided = Decided(state)
    for event in pending.events():
        decided.note(event, kind, reason, now)
    return decided.kept


def final_of(pending: PendingRun) -> asyncio.Future[Outcome]:
    """The final outcome of a waiting event. Call it before the event can have its outcome."""
    if pending.final is None:
        pending.final = asyncio.get_running_loop().create_future()
    return pending.final
