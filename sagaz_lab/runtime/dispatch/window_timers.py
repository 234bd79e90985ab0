"""The timers of windows: events are taken in, released, decided when it closes, and taken up after a restart."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sagaz_lab.abc import Refusal, WaitingEvent
from sagaz_lab.errors import LabClosed, LeaseLost, StoreError, Unreadable, describe
from sagaz_lab.model.inside import inside, place_in
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.runtime.decisions.closings import drop, events_of, first_of, reopened, settled_closings, without_gone
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.dispatch.without_code import WithoutCode
from sagaz_lab.runtime.gates.window_policies import IN_WINDOW, Closing, Leaving, Released
from sagaz_lab.runtime.gates.windows import Windows
from sagaz_lab.runtime.triggers.compiled import TriggerState
from sagaz_lab.runtime.triggers.dead_letters import unreadable
from sagaz_lab.runtime.triggers.outcomes import Entry, ids_of, outcome_about

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher

FORGOTTEN = "forgotten by a fresh start"

GONE = 100_000
"""Refused events that are remembered until the windows that they were put into are decided."""

AGAIN_S = 1.0
"""How long a window whose decision the store could not take waits for the next try."""


class WindowTimers:
    """The windows of all triggers, and the one timer and the one task that each needs."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._timers: dict[str, float] = {}
        self._closings: defaultdict[str, deque[Closing]] = defaultdict(deque)
        self._deciding: dict[str, asyncio.Task[None]] = {}
        # How many closings, from the first on, are being decided just now.
        self._under_way: dict[str, int] = {}
        # What is in the hands of this process, from before the store has it until after it has left the store.
        self._mine: set[str] = set()
        # What has left the store since each of the reads began that are under way.
        self._reads: list[set[str]] = []
        self._finals: dict[str, asyncio.Future[Outcome]] = {}
        # What the store has refused may stand in a window or have been superseded in another batch meanwhile.
        self._gone: dict[str, None] = {}
        # What stands in a window although the store does not have it yet, and who waits for that.
        self._coming: set[str] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self.without_code = WithoutCode(dispatcher)

    def closing(self, trigger: str) -> bool:
        """Whether a window of this trigger is being decided."""
        return trigger in self._deciding or bool(self._closings.get(trigger))

    async def decided(self, trigger: str) -> None:
        """Returns when what is due of this trigger is decided, unless that waits for the caller."""
        place = place_in(self._dispatcher.tasks)
        while (task := self._deciding.get(trigger)) is not None and (place is None or place.about != trigger):
            await asyncio.wait([task])

    # --- in ---

    def take_in(self, decided: Decided, now: float) -> None:
        """Put the events into their windows, before the store has them."""
        state = decided.state
        assert state.windows is not None
        strategy = state.compiled.config.backpressure_strategy
        coming, decided.waiting = decided.waiting, []
        for waiting in coming:
            full = state.admission.full()
            if full and strategy in ("drop_newest", "reject"):
                decided.overflow(waiting.event, now, waiting.claim, rejected=strategy == "reject")
                continue
            if full and strategy == "drop_oldest" and (oldest := state.windows.drop_oldest(self._coming)):
                drop(decided, oldest, now)
            added = state.windows.add(waiting)
            if added.waits:
                decided.waiting.append(waiting)
            else:
                decided.add(OutcomeKind.FILTERED, added.reason, waiting.event, now)
                decided.spend(waiting.claim, now)
            if added.released:
                decided.superseded.append((waiting, added.released))
            if state.windows.full(waiting.key):
                decided.closings.append(state.windows.close(waiting.key))
        ids = [waiting.id for waiting in decided.waiting]
        self._coming.update(ids)
        self._mine.update(ids)

    def take_back(self, decided: Decided) -> None:
        """The store has not taken them: what they have superseded, filled or driven out waits as it did before."""
        windows = decided.state.windows
        if windows is None:
            return
        mine = {waiting.id for waiting in decided.waiting}
        self._went(mine)
        self._answered(decided)
        for waiting in decided.waiting:
            windows.remove(waiting)
        back = [waiting for _, superseded in decided.superseded for waiting, _ in superseded]
        back += [waiting for closing in decided.closings for waiting in closing.events]
        windows.put_back([waiting for waiting in (*back, *decided.released) if waiting.id not in mine])
        self.time(decided.state)

    def taken_in(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> None:
        """The store has them: count and remember them, decide what is full."""
        state = decided.state
        assert state.windows is not None
        entries: list[Entry] = []
        gone = self._gone
        for waiting in decided.waiting:
            if refused and (refusal := refused.get(waiting.id)) is not None:
                self._went([waiting.id])
                state.windows.remove(waiting)
                known = len(decided.entries)
                decided.refused(refusal, waiting.event, waiting.key, now, waiting.claim)
                self._dispatcher.tally.keep(decided.entries[known:])
                continue
            entries.append(_entry(state, waiting))
            if decided.answered:
                self._finals[waiting.id] = asyncio.get_running_loop().create_future()
                decided.finals.append(self._finals[waiting.id])
        decided.entries += entries
        self._dispatcher.tally.keep(entries)
        _moved(state, len(entries) - len(decided.released))
        self._closings[state.name] += settled_closings(decided, state.windows, gone)
        self._answered(decided)
        self.time(state)

    def _went(self, ids: Iterable[str]) -> None:
        """The store does not take these in."""
        ids = list(ids)
        self._mine.difference_update(ids)
        self._gone.update(dict.fromkeys(ids))
        while len(self._gone) > GONE:
            del self._gone[next(iter(self._gone))]

    def _answered(self, decided: Decided) -> None:
        """It is known which of these the store has."""
        self._coming.difference_update(waiting.id for waiting in decided.waiting)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _all_answered(self, closing: Closing) -> None:
        """Returns when it is known of each event of the closing whether the store has it."""
        while any(waiting.id in self._coming for waiting in events_of(closing)):
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def settle(self, decided: Decided) -> None:
        """These have left the store. Who waits for the outcome of one has it, or waits on for that of its run."""
        left = [waiting.id for waiting in decided.released]
        self._mine.difference_update(left)
        for read in self._reads:
            read.update(left)
        if not self._finals:
            return
        for waiting in decided.released:
            if (future := self._finals.pop(waiting.id, None)) is None or future.done():
                continue
            told = next(entry for entry in reversed(decided.entries) if waiting.event.id in ids_of(entry))
            pending = next((pending for pending in decided.starts if pending.run_id == told[4]), None)
            if pending is not None and told[0] == "waiting":
                self._dispatcher.run_queue.final(pending).add_done_callback(partial(_pass_on, future))
            else:
                future.set_result(outcome_about(told, waiting.event.id))

    # --- out ---

    def time(self, state: TriggerState) -> None:
        """Decide what is due, and see to it that this is called when the next window is.

        Of a trigger that was removed only what is being decided goes on.
        """
        if self._dispatcher.closing or state.windows is None:
            return
        steady, closings = self._dispatcher.clock.now(), self._closings[state.name]
        tasks = self._dispatcher.tasks
        if state.removed:
            self._wait_for_code(state)
        else:
            closings.extend(state.windows.close_due(steady))
        if closings and state.name not in self._deciding:
            name = f"windows of {state.name}"
            self._deciding[state.name] = tasks.start(self._decide_all(state), name, tasks.home)
        due_at = None if state.removed else state.windows.next_due()
        if due_at is not None and due_at < self._timers.get(state.name, float("inf")):
            self._timers[state.name] = due_at
            tasks.start(self._wake(state, due_at), f"next window of {state.name}", tasks.home)

    async def _wake(self, state: TriggerState, due_at: float) -> None:
        await self._dispatcher.clock.sleep(due_at - self._dispatcher.clock.now())
        if self._timers.get(state.name) == due_at:
            del self._timers[state.name]
        if not state.removed:
            self.time(state)

    def changed(self, state: TriggerState) -> None:
        """Another revision decides: what is not being decided waits in windows as this one has them."""
        if state.windows is not None:
            state.windows.put_back([state.compiled.in_window(waiting) for waiting in self._reopened(state)])
            self.time(state)

    def _reopened(self, state: TriggerState) -> list[WaitingEvent]:
        return reopened(self._closings[state.name], self._under_way.get(state.name, 0), self._gone)

    def _wait_for_code(self, state: TriggerState) -> None:
        """What is not being decided goes back into its window; whoever asked for an outcome gets `waiting`."""
        assert state.windows is not None
        state.windows.put_back(self._reopened(state))
        for waiting in state.windows.events() if self._finals else ():
            self._tell_waiting(state, waiting, f"for the code of trigger {state.name}")
        self.without_code.tell(state.name, state.windows.size)

    def _tell_waiting(self, state: TriggerState, waiting: WaitingEvent, reason: str = IN_WINDOW) -> None:
        future = self._finals.pop(waiting.id, None)
        if future is not None and not future.done():
            future.set_result(outcome_about(_entry(state, waiting, reason), waiting.event.id))

    async def _decide_all(self, state: TriggerState) -> None:
        """One window after the other, so that those of one key keep their order."""
        dispatcher, closings = self._dispatcher, self._closings[state.name]
        try:
            while closings and not dispatcher.closing:
                count, closing = first_of(closings)
                self._under_way[state.name] = count
                await self._all_answered(closing)
                if state.removed and closing.events:
                    self._under_way.pop(state.name)
                    self.time(state)
                    continue
                if any(waiting.id in self._gone for waiting in events_of(closing)):
                    for _ in range(count):
                        closings.popleft()
                    self._under_way.pop(state.name)
                    closings.extendleft(reversed(without_gone(closing, state, self._gone, dispatcher.clock.now())))
                    self.time(state)
                    continue
                try:
                    await self._decide(state, closing)
                except LabClosed:
                    return
                except StoreError as error:
                    if isinstance(error, LeaseLost):
                        dispatcher.lease.lose(error)
                        return
                    dispatcher.report("store", f"a window of {state.name} waits for the store: {describe(error)}")
                    self._under_way.pop(state.name, None)
                    await dispatcher.clock.sleep(AGAIN_S)
                else:
                    for _ in range(count):
                        closings.popleft()
        finally:
            self._under_way.pop(state.name, None)
            del self._deciding[state.name]

    async def _decide(self, state: TriggerState, closing: Closing) -> None:
        dispatcher = self._dispatcher
        await dispatcher.confirming.confirmed([state.compiled.definition.name])
        now = dispatcher.clock.now()
        with inside(dispatcher.tasks, f"the decision of a window of {state.name}", state.name):
            decided = await dispatcher.decider.decide_window(state, closing, now)
        decided.released = [*closing.events, *(waiting for waiting, _ in closing.released)]
        for waiting, reason in closing.released:
            decided.add(OutcomeKind.FILTERED, reason, waiting.event, now)
            decided.spend(waiting.claim, now)
        await dispatcher.finishing.to_the_end([state], self._leave(decided, now))
        dispatcher.report_dead(decided.letters)

    async def _leave(self, decided: Decided, now: float) -> None:
        await self._dispatcher.apply(decided, await self._dispatcher.accept([decided], now), now)

    # --- from one opening to the next ---

    async def restore(self, states: Collection[TriggerState]) -> int:
        """Take up what waits in the store and is in nobody's hands; returns how many events."""
        total = 0
        by_name = {state.name: state for state in states}
        found: defaultdict[str, list[WaitingEvent]] = defaultdict(list)
        left: set[str] = set()
        self._reads.append(left)
        try:
            for waiting in await self._dispatcher.store.waiting(list(by_name)):
                found[waiting.trigger].append(waiting)
            for name, events in found.items():
                new = [waiting for waiting in events if waiting.id not in self._mine and waiting.id not in left]
                total += await self._take_up(by_name[name], new)
        finally:
            self._reads = [read for read in self._reads if read is not left]
        return total

    async def _take_up(self, state: TriggerState, events: Sequence[WaitingEvent]) -> int:
        if state.windows is None:
            state.windows = state.admission.windows = Windows(Leaving())
        self._mine.update(waiting.id for waiting in events)
        damaged = {waiting.id: error for waiting in events if (error := unreadable(waiting.event)) is not None}
        sound = [state.compiled.in_window(waiting) for waiting in events if waiting.id not in damaged]
        new = state.windows.restore(sound)
        _came(state, new)
        if damaged:
            await self._bury(state, [waiting for waiting in events if waiting.id in damaged], damaged)
        self.time(state)
        return new

    async def forget(self, state: TriggerState) -> int:
        """Let no event of the trigger wait in a window any more; returns how many did.

        What is being decided just now is decided to the end.
        """
        if state.windows is None:
            return 0
        left = [*state.windows.empty()]
        closings = self._closings[state.name]
        while len(closings) > self._under_way.get(state.name, 0):
            left += events_of(closings.pop())
        if not left:
            return 0
        count = 0

        async def release() -> None:
            nonlocal count
            try:
                await self._all_answered(Closing(left, (), False))
                there = [Released(waiting, FORGOTTEN) for waiting in left if waiting.id not in self._gone]
                if there:
                    await self._decide(state, Closing((), there, False))
                count = len(there)
            except BaseException:
                assert state.windows is not None
                state.windows.put_back([waiting for waiting in left if waiting.id not in self._gone])
                self.time(state)
                raise

        await self._dispatcher.finishing.to_the_end([state], release())
        return count

    async def _bury(self, state: TriggerState, lost: Sequence[WaitingEvent], errors: Mapping[str, Unreadable]) -> None:
        """What cannot be read leaves its window as a dead letter; the others of the window are decided without it."""
        dispatcher, now = self._dispatcher, self._dispatcher.clock.now()
        decided = Decided(state)
        decided.released = list(lost)
        for waiting in lost:
            decided.dead(waiting.event, errors[waiting.id], now, waiting.claim)
        _came(state, len(lost))
        try:
            refused = await dispatcher.accept([decided], now)
        except BaseException:
            _came(state, -len(lost))
            self._mine.difference_update(waiting.id for waiting in lost)  # the next start tries again
            raise
        await dispatcher.apply(decided, refused, now)
        dispatcher.report_dead(decided.letters)

    def close(self) -> None:
        """Waiting events go on with the next opening; whoever asked for an outcome gets `waiting`."""
        for state in self._dispatcher.states.values():
            if state.windows is None:
                continue
            left = [*state.windows.empty()]
            for closing in self._closings.pop(state.name, ()):
                left += events_of(closing)
            # What has left the store, or what it has refused or not answered yet, does not count as waiting.
            left = [waiting for waiting in left if waiting.id in self._mine and waiting.id not in self._coming]
            _came(state, -len(left))
            for waiting in left:
                self._tell_waiting(state, waiting)


def _moved(state: TriggerState, events: int) -> None:
    """From being decided to waiting; a negative number goes the other way."""
    state.counters.deciding -= events
    state.counters.waiting += events


def _came(state: TriggerState, events: int) -> None:
    """They waited in the store before they were counted here; a negative number takes that back."""
    state.counters.received += events
    state.counters.waiting += events


def _entry(state: TriggerState, waiting: WaitingEvent, reason: str = IN_WINDOW) -> Entry:
    facts = None if waiting.key is None else {"key": waiting.key}
    revision = state.compiled.definition.revision
    return ("waiting", reason, waiting.event.id, state.name, None, revision, waiting.at, facts)


def _pass_on(future: asyncio.Future[Outcome], final: asyncio.Future[Outcome]) -> None:
    if not future.done() and not final.cancelled():
        future.set_result(final.result())
