"""Events in windows: counted, decided when their window closes, and loaded after a restart."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from functools import partial
from typing import Any, Protocol

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.errors import LabClosed, LeaseLost, StoreError, describe
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.dispatch.departures import final_of
from sagaz_lab.runtime.dispatch.exclusive import Exclusive
from sagaz_lab.runtime.dispatch.without_code import WithoutCode
from sagaz_lab.runtime.gates.reservation import Left, Verdict
from sagaz_lab.runtime.gates.window_policies import IN_WINDOW, Leaving
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.lifetime.timers import Timer
from sagaz_lab.runtime.triggers.dead_letters import unreadable
from sagaz_lab.runtime.triggers.outcomes import Entry, ids_of, outcome_about
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers

FORGOTTEN = Verdict(OutcomeKind.FILTERED, "forgotten by a fresh start")

AGAIN_S = 1.0
"""Pause before retrying a window's decision that the store did not accept."""


Decide = Callable[[Sequence[Decided], float], Awaitable[None]]
"""Decides into each `Decided`, at this moment."""


class Decisions(Protocol):
    """Makes decisions and has the store accept them."""

    async def decide(self, decisions: list[Decided], decide: Decide, events: int = 0) -> None: ...

    async def decide_windows(self, state: TriggerState) -> None: ...


class WindowTimers:
    """The windows of all triggers, with one timer and at most one task each."""

    def __init__(self, life: Lifetime, triggers: Triggers, exclusive: Exclusive, decisions: Decisions) -> None:
        self._life = life
        self._triggers = triggers
        self._exclusive = exclusive
        self._decisions = decisions
        self._timers: dict[str, Timer] = {}
        self._deciding: dict[str, asyncio.Task[Any]] = {}
        self._finals: dict[str, asyncio.Future[Outcome]] = {}
        self.without_code = WithoutCode(triggers, life.report)

    def closing(self, trigger: str) -> bool:
        """Whether a window of this trigger is to be decided now."""
        return trigger in self._deciding

    # --- in and out ---

    def taken_in(self, decided: Decided, refused: Container[str]) -> None:
        """The batch is stored: count the events that wait and those that no longer do."""
        state, entries = decided.state, list[Entry]()
        for event in decided.batch.waiting.values():
            if event.id in refused:
                continue
            entries.append(_entry(state, event))
            if decided.answered:
                self._finals[event.id] = asyncio.get_running_loop().create_future()
                decided.finals[event.event.id] = self._finals[event.id]
        decided.entries += entries
        moved = len(entries) - len(decided.released)
        state.counters.deciding -= moved
        state.counters.waiting += moved

    def settle(self, decided: Decided) -> None:
        """These left the store: their callers get the outcome, or wait for that of the run."""
        for event in decided.released if self._finals else ():
            if (future := self._finals.pop(event.id, None)) is None or future.done():
                continue
            entry = next(entry for entry in reversed(decided.entries) if event.event.id in ids_of(entry))
            pending = next((pending for pending in decided.starts if pending.run_id == entry[4]), None)
            if pending is not None and entry[0] == "waiting":
                final_of(pending).add_done_callback(partial(_pass_on, future))
            else:
                future.set_result(outcome_about(entry, event.event.id))

    # --- timers ---

    def time(self, state: TriggerState) -> None:
        """Decide what is due, and schedule the next window.

        For a removed trigger only the current decision completes.
        """
        windows = state.core.windows
        if windows is None or state.removed or self._life.closing:
            return
        due_at, timer = windows.next_due(), self._timers.get(state.name)
        if due_at is None or state.name in self._deciding:
            return
        if due_at <= self._life.clock.now():
            tasks = self._life.tasks
            work, name = self._decide(state), f"windows of {state.name}"
            self._deciding[state.name] = tasks.start(work, name, tasks.home)
        elif timer is None or due_at < timer.at:
            if timer is not None:
                timer.cancel()
            self._timers[state.name] = self._life.timers.call_at(due_at, partial(self._wake, state))

    def _wake(self, state: TriggerState) -> None:
        self._timers.pop(state.name, None)
        self.time(state)

    async def _decide(self, state: TriggerState) -> None:
        life = self._life
        try:
            await self._decisions.decide_windows(state)
        except LabClosed:
            return
        except StoreError as error:
            if isinstance(error, LeaseLost):
                life.lease.lose(error)
                return
            life.report("store", f"a window of {state.name} waits for the store: {describe(error)}")
            await life.clock.sleep(AGAIN_S)
        finally:
            del self._deciding[state.name]
        self.time(state)

    def removed(self, state: TriggerState) -> None:
        """Its events wait for its code; callers that wait for an outcome get `waiting`.

        During a decision of the trigger it is unknown which events those are.
        """
        if state.deciding:
            state.meanwhile.append(partial(self.removed, state))
        elif state.removed and (windows := state.core.windows) is not None:
            for event in windows.events() if self._finals else ():
                self._resolve_waiting(state, event, f"for the code of trigger {state.name}")
            self.without_code.report(state.name, windows.size)

    def _resolve_waiting(self, state: TriggerState, event: WaitingEvent, reason: str = IN_WINDOW) -> None:
        future = self._finals.pop(event.id, None)
        if future is not None and not future.done():
            future.set_result(outcome_about(_entry(state, event, reason), event.event.id))

    # --- from one opening to the next ---

    async def restore(self, states: Collection[TriggerState]) -> int:
        """Load waiting events that are only in the store; returns their number. Raises `StoreError`.

        Triggers with a current decision follow after it.
        """
        for state in states:
            if state.deciding:
                self._exclusive.when_free(state, partial(self._restore_later, state))
        total = 0

        async def restore(decisions: Sequence[Decided], now: float) -> None:
            nonlocal total  # once memory matches the store, and stays so
            found: defaultdict[str, list[WaitingEvent]] = defaultdict(list)
            for event in await self._life.store.waiting([decided.state.name for decided in decisions]):
                found[event.trigger].append(event)
            total = sum(_take_up(decided, found[decided.state.name], now) for decided in decisions)

        if free := [Decided(state) for state in states if not state.deciding]:
            await self._decisions.decide(free, restore)
        return total

    async def restore_registered(self, states: Collection[TriggerState]) -> None:
        """Load the waiting events of triggers that had no code before."""
        names = self.without_code.take([state.name for state in states])
        await self.restore([state for state in states if state.name in names])

    def _restore_later(self, state: TriggerState) -> None:
        self._life.tasks.start(self.restore([state]), f"waiting events of {state.name}")

    async def forget(self, state: TriggerState) -> int:
        """Drop all events from the trigger's windows; returns their number."""
        windows, count = state.core.windows, 0
        if windows is None:
            return 0

        async def forget(decisions: Sequence[Decided], now: float) -> None:
            nonlocal count
            events = windows.empty()
            count = len(events)
            decisions[0].batch.undo_by(windows.put_back, events)
            decisions[0].batch.left += [Left(event, FORGOTTEN, stored=True) for event in events]
            decisions[0].settle_left(now)

        await self._decisions.decide([Decided(state)], forget)
        return count

    def close(self) -> None:
        """Waiting events resume when the Lab opens again; their callers get `waiting`."""
        for state in self._triggers.states.values():
            left = [] if state.core.windows is None else state.core.windows.empty()
            _came(state, -len(left))
            for event in left:
                self._resolve_waiting(state, event)


def _take_up(decided: Decided, events: Sequence[WaitingEvent], now: float) -> int:
    """Put events into their windows; an unreadable one becomes a dead letter. Returns how many wait."""
    state = decided.state
    damaged = {event.id: error for event in events if (error := unreadable(event.event)) is not None}
    new = 0
    if events:
        windows = state.core.windows or state.core.open_windows(Leaving())
        new = windows.restore([state.compiled.in_window(event) for event in events if event.id not in damaged])
    _came(state, new + len(damaged))
    decided.batch.undo_by(_came, state, -len(damaged))
    for event in events:
        if event.id in damaged:
            decided.released.append(event)
            decided.dead(event.event, damaged[event.id], now, event.claim)
    return new


def _came(state: TriggerState, events: int) -> None:
    """Count events that waited in the store before; a negative number undoes that."""
    state.counters.received += events
    state.counters.waiting += events


def _entry(state: TriggerState, event: WaitingEvent, reason: str = IN_WINDOW) -> Entry:
    facts = None if event.key is None else {"key": event.key}
    return ("waiting", reason, event.event.id, state.name, None, state.compiled.definition.revision, event.at, facts)


def _pass_on(future: asyncio.Future[Outcome], final: asyncio.Future[Outcome]) -> None:
    if not future.done() and not final.cancelled():
        future.set_result(final.result())
