"""Windows: events that wait to be decided together, or to be outdone by a later one.

What a window is told is only what came and what time it is, so that it is the same in real and in virtual time. What
it gives are closings: events of one key, to be decided now. Bounds: the held events of a trigger are at most its
`queue_size`; a window without events is not kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from sagaz_lab.abc import HeldEvent
from sagaz_lab.model.policy import Debounce, seconds
from sagaz_lab.model.trigger import Trigger

OUTDONE = "a later event took its place"
IN_PERIOD = "an earlier event opened the period"
EXPIRED = "the other parts did not come in time"
OUT_OF_TURN = "it came out of turn"
CAME = "the expected event came"
EXPECTED = "it was expected"
IN_WINDOW = "waits in its window"


class Released(NamedTuple):
    """A held event that need not wait any more, and why it starts nothing."""

    held: HeldEvent
    reason: str


class Closing(NamedTuple):
    """Events that are to be decided now, in order; `together`: as one list, else the last one alone."""

    events: Sequence[HeldEvent]
    released: Sequence[Released]
    together: bool


class Step(NamedTuple):
    """What came of an event: whether it waits, what is released by it, whether its window is to be closed now."""

    waits: bool
    released: Sequence[Released] = ()
    closes: bool = False
    reason: str = ""


class Policy(Protocol):
    """How the windows of one kind behave. `events` are the key's, oldest first; a policy changes none of them."""

    gate: str
    together: bool
    """As `takes_list` says of the trigger."""

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step: ...

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        """When the window closes by itself."""

    def close(self, events: Sequence[HeldEvent]) -> Closing: ...


class Trailing:
    """Debounce: the last event wins, a period after it came, or `max_wait` after the first one."""

    gate = "debounce"
    together = False

    def __init__(self, policy: Debounce) -> None:
        self._period_s = seconds(policy.period, "period")
        self._max_wait_s = seconds(policy.max_wait, "max_wait")

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        # The first one stays, since the longest wait counts from it; of the others only the last is of use.
        return Step(True, [Released(event, OUTDONE) for event in events[1:]])

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        return min(events[-1].at + self._period_s, events[0].at + self._max_wait_s)

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        return Closing(events[-1:], [Released(event, OUTDONE) for event in events[:-1]], False)


class All(Trailing):
    """Debounce that hands over all events of the window."""

    together = True

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        return Step(True)

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        return Closing(events, (), True)


class Batches:
    """So many events, or what came within the time-out after the first one."""

    gate = "batch"
    together = True

    def __init__(self, max_size: int, timeout_s: float) -> None:
        self._max_size = max_size
        self._timeout_s = timeout_s

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        return Step(True, closes=len(events) + 1 >= self._max_size)

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        return events[0].at + self._timeout_s

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        return Closing(events, (), True)


class AllOf:
    """The latest event of each part, as soon as every part has had one within the time."""

    gate = "all_of"
    together = True

    def __init__(self, parts: int, within_s: float) -> None:
        self._parts = parts
        self._within_s = within_s

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        released = [Released(event, OUTDONE) for event in events if event.part == new.part]
        others = {event.part for event in events} | {new.part}
        return Step(True, released, len(others) == self._parts)

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        return min(event.at for event in events) + self._within_s

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        if len(events) == self._parts:
            return Closing(sorted(events, key=lambda event: event.part), (), True)
        # Only the oldest is too old; the others may still be met by what comes.
        oldest = min(event.at for event in events)
        return Closing((), [Released(event, EXPIRED) for event in events if event.at <= oldest], True)


class InTurn:
    """The parts one after the other; of a part that comes again before the next one the latest event."""

    gate = "sequence"
    together = True

    def __init__(self, parts: int, within_s: float) -> None:
        self._parts = parts
        self._within_s = within_s

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        if new.part == len(events):
            return Step(True, closes=len(events) + 1 == self._parts)
        if events and new.part == len(events) - 1:
            return Step(True, [Released(events[-1], OUTDONE)])
        return Step(False, reason=OUT_OF_TURN)

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        return events[0].at + self._within_s

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        if len(events) == self._parts:
            return Closing(events, (), True)
        return Closing((), [Released(event, EXPIRED) for event in events], True)


class Absent:
    """Part 1 opens the window and is decided at its end, unless part 0 comes before."""

    gate = "absent"
    together = False

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        if new.part == 0:
            return Step(False, [Released(event, CAME) for event in events], reason=EXPECTED)
        return Step(True, [Released(event, OUTDONE) for event in events])

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        return events[0].at + self._within_s

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        return Closing(events[-1:], (), False)


class Leaving:
    """For what still waits when the trigger has no window any more: it leaves one by one, at once."""

    gate = "window"
    together = False

    def add(self, events: list[HeldEvent], new: HeldEvent) -> Step:
        return Step(True)

    def due_at(self, events: Sequence[HeldEvent]) -> float:
        return 0.0

    def close(self, events: Sequence[HeldEvent]) -> Closing:
        return Closing(events[:1], (), False)


NEVER_S = 365 * 86400.0
"""How long a composite without `within=` waits for its other parts."""


def policy_of(trigger: Trigger) -> Policy | None:
    """How the trigger's events wait to be decided; None where they do not."""
    gates, composite = trigger.gates, trigger.composite
    if gates.debounce is not None:
        if gates.debounce.mode == "leading":
            return None
        return (All if gates.debounce.mode == "all" else Trailing)(gates.debounce)
    if gates.batch is not None:
        return Batches(gates.batch.max_size, seconds(gates.batch.timeout, "timeout"))
    if composite is None or composite.how == "any_of":
        return None
    if composite.how == "absent":
        return Absent(composite.within_s or NEVER_S)
    within_s = NEVER_S if gates.within is None else seconds(gates.within, "within")
    return (AllOf if composite.how == "all_of" else InTurn)(len(composite.parts), within_s)


Undo = dict[str | None, Sequence[HeldEvent]]
"""What the windows held before they were changed, by key."""


class Windows:
    """A trigger's open windows, by key."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._open: dict[str | None, list[HeldEvent]] = {}
        # One entry for each key at the most, never later than its window's due time.
        self._due: list[tuple[float, int, str | None]] = []
        self._timed: set[str | None] = set()
        self._number = 0

    def add(self, new: HeldEvent, undo: Undo) -> Step:
        """Take it in, if it waits. What is released has left its window. `undo` keeps what was there before."""
        events = self._touched(new.key, undo)
        if events is None:
            events = self._open[new.key] = []
        step = self.policy.add(events, new)
        for released in step.released:
            events.remove(released.held)
        if step.waits:
            events.append(new)
        self._settle(new.key, events)
        return step

    def change(self, policy: Policy) -> None:
        """Go on with another policy; what waits goes on waiting, and may be due at once."""
        self.policy = policy
        self._due.clear()
        self._timed.clear()
        for key, events in self._open.items():
            self._settle(key, events)

    def restore(self, events: Iterable[HeldEvent]) -> int:
        """Take in what waited before, in its old order, and is not here; nothing is released or closed by that."""
        known = {event.id for window in self._open.values() for event in window}
        new = [event for event in events if event.id not in known]
        for event in new:
            self._open.setdefault(event.key, []).append(event)
        for key, waiting in self._open.items():
            self._settle(key, waiting)
        return len(new)

    def take_back(self, undo: Undo) -> None:
        """All is as it was."""
        for key, events in undo.items():
            self._open[key] = list(events)
            self._settle(key, self._open[key])

    def _touched(self, key: str | None, undo: Undo) -> list[HeldEvent] | None:
        """The key's window, about to be changed."""
        events = self._open.get(key)
        if key not in undo:
            undo[key] = tuple(events or ())
        return events

    def _settle(self, key: str | None, events: list[HeldEvent]) -> None:
        if not events:
            del self._open[key]
        elif key not in self._timed:
            self._timed.add(key)
            self._time(key, self.policy.due_at(events))

    def _time(self, key: str | None, due_at: float) -> None:
        self._number += 1
        heappush(self._due, (due_at, self._number, key))

    def next_due(self) -> float | None:
        """When a window may have to be closed, in the clock's seconds; None if none is open."""
        while self._due:
            due_at, _, key = self._due[0]
            events = self._open.get(key)
            if events is None:
                heappop(self._due)
                self._timed.discard(key)
            elif (real := self.policy.due_at(events)) > due_at:
                heappop(self._due)
                self._time(key, real)
            else:
                return due_at
        return None

    def close(self, key: str | None, undo: Undo) -> Closing:
        """Close this key's window."""
        self._touched(key, undo)
        events = self._open.pop(key)
        closing = self.policy.close(events)
        gone = {id(released.held) for released in closing.released} | {id(event) for event in closing.events}
        left = [event for event in events if id(event) not in gone]
        if left:
            self._open[key] = left
            self._settle(key, left)
        return closing

    def close_due(self, now: float) -> Iterator[Closing]:
        """Close those whose time has come, the earliest first."""
        while (due_at := self.next_due()) is not None and due_at <= now:
            key = heappop(self._due)[2]
            self._timed.discard(key)
            yield self.close(key, {})

    def drop_oldest(self, undo: Undo) -> HeldEvent | None:
        """Take out the event that has waited longest."""
        oldest = min((events[0] for events in self._open.values()), key=lambda event: event.at, default=None)
        if oldest is not None:
            self._touched(oldest.key, undo)
            self.remove(oldest)
        return oldest

    def remove(self, event: HeldEvent) -> None:
        """Take it out, if it is still there."""
        events = self._open.get(event.key, [])
        if event in events:
            events.remove(event)
            self._settle(event.key, events)

    def empty(self) -> list[HeldEvent]:
        """Take everything out, in its order."""
        events = sorted((event for window in self._open.values() for event in window), key=lambda event: event.at)
        self._open.clear()
        self._due.clear()
        self._timed.clear()
        return events

    def of(self, key: str | None) -> Sequence[HeldEvent]:
        return self._open.get(key, ())
