"""Events that wait in windows: counted, decided when their window closes, and taken up after a restart."""

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
"""How long a window whose decision the store could not take waits for the next try."""


Decide = Callable[[Sequence[Decided], float], Awaitable[None]]
"""Decides into each `Decided`, at this moment."""


class Decisions(Protocol):
    """Who makes a decision, and has the store accept it."""

    async def decide(self, decisions: list[Decided], decide: Decide, events: int = 0) -> None: ...

    async def decide_windows(self, state: TriggerState) -> None: ...


class WindowTimers:
    """The windows of all triggers, and the one timer and the one task that each needs."""

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
        """The store has them: count and remember those that wait, and those that wait no more."""
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
        """These have left the store. Who waits for the outcome of one has it, or waits on for that of its run."""
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
        """Decide what is due, and see to it that this is called when the next window is.

        Of a trigger that was removed only what is being decided goes on.
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
        """Its events wait for its code; who waits for the outcome of one hears of that. While a decision of the trigger
        is under way, it is not known which events those are."""
        if state.deciding:
            state.meanwhile.append(partial(self.removed, state))
        elif state.removed and (windows := state.core.windows) is not None:
            for event in windows.events() if self._finals else ():
                self._tell_waiting(state, event, f"for the code of trigger {state.name}")
            self.without_code.tell(state.name, windows.size)

    def _tell_waiting(self, state: TriggerState, event: WaitingEvent, reason: str = IN_WINDOW) -> None:
        future = self._finals.pop(event.id, None)
        if future is not None and not future.done():
            future.set_result(outcome_about(_entry(state, event, reason), event.event.id))

    # --- from one opening to the next ---

    async def restore(self, states: Collection[TriggerState]) -> int:
        """Take up what waits in the store and is not here; returns how many events. Of triggers whose decision is under
        way it is taken up afterwards. Raises `StoreError`."""
        for state in states:
            if state.deciding:
                self._exclusive.when_free(state, partial(self._restore_later, state))
        total = 0

        async def restore(decisions: Sequence[Decided], now: float) -> None:
            nonlocal total  # once what is here is what the store has, and stays so
            found: defaultdict[str, list[WaitingEvent]] = defaultdict(list)
            for event in await self._life.store.waiting([decided.state.name for decided in decisions]):
                found[event.trigger].append(event)
            total = sum(_take_up(decided, found[decided.state.name], now) for decided in decisions)

        if free := [Decided(state) for state in states if not state.deciding]:
            await self._decisions.decide(free, restore)
        return total

    async def restore_registered(self, states: Collection[TriggerState]) -> None:
        """Take up what waits for those of the triggers that had no code before."""
        names = self.without_code.take([state.name for state in states])
        await self.restore([state for state in states if state.name in names])

    def _restore_later(self, state: TriggerState) -> None:
        self._life.tasks.start(self.restore([state]), f"waiting events of {state.name}")

    async def forget(self, state: TriggerState) -> int:
        """Let no event of the trigger wait in a window any more; returns how many did."""
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
        """What waits goes on with the next opening; who waits for its outcome is told that it waits."""
        for state in self._triggers.states.values():
            left = [] if state.core.windows is None else state.core.windows.empty()
            _came(state, -len(left))
            for event in left:
                self._tell_waiting(state, event)


def _take_up(decided: Decided, events: Sequence[WaitingEvent], now: float) -> int:
    """Have them wait in their windows; one that cannot be read leaves as a dead letter. Returns how many wait."""
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
    """Waiting in the store before they were counted here; a negative number takes that back."""
    state.counters.received += events
    state.counters.waiting += events


def _entry(state: TriggerState, event: WaitingEvent, reason: str = IN_WINDOW) -> Entry:
    facts = None if event.key is None else {"key": event.key}
    return ("waiting", reason, event.event.id, state.name, None, state.compiled.definition.revision, event.at, facts)


def _pass_on(future: asyncio.Future[Outcome], final: asyncio.Future[Outcome]) -> None:
    if not future.done() and not final.cancelled():
        future.set_result(final.result())
