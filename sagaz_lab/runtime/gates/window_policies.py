"""Window policies: which events wait or are superseded, when a window closes, and what it yields."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.model.policy import Debounce, seconds
from sagaz_lab.model.trigger import Trigger

SUPERSEDED = "a later event took its place"
IN_PERIOD = "an earlier event opened the period"
EXPIRED = "the other parts did not come in time"
OUT_OF_TURN = "it came out of turn"
CAME = "the expected event came"
EXPECTED = "it was expected"
IN_WINDOW = "in its window"
WINDOW_REASONS = (SUPERSEDED, EXPIRED, OUT_OF_TURN, CAME, EXPECTED, IN_WINDOW)


class Released(NamedTuple):
    """An event that no longer waits, and why it starts nothing."""

    waiting: WaitingEvent
    reason: str


class Closing(NamedTuple):
    """Events to be decided now, in order; `together`: as one list, else only the last one."""

    events: Sequence[WaitingEvent]
    released: Sequence[Released]
    together: bool


class Added(NamedTuple):
    """Whether an event waits (else why not), and which events it releases."""

    waits: bool
    released: Sequence[Released] = ()
    reason: str = ""


class Policy(Protocol):
    """The behaviour of one kind of window. `events` are the key's, oldest first; a policy mutates none of them."""

    gate: str
    together: bool
    """`takes_list` of the trigger."""

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added: ...

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        """Whether the window closes before its time."""

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        """When the window closes by itself."""

    def close(self, events: Sequence[WaitingEvent]) -> Closing: ...


class Trailing:
    """Debounce: the last event wins, a period after it came or `max_wait` after the first."""

    gate = "debounce"
    together = False

    def __init__(self, policy: Debounce) -> None:
        self._period_s = seconds(policy.period, "period")
        self._max_wait_s = seconds(policy.max_wait, "max_wait")

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        # The first event stays, as `max_wait` counts from it; of the others only the last matters.
        return Added(True, [Released(event, SUPERSEDED) for event in events[1:]])

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        return False

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        return min(events[-1].at + self._period_s, events[0].at + self._max_wait_s)

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        return Closing(events[-1:], [Released(event, SUPERSEDED) for event in events[:-1]], False)


class All(Trailing):
    """Debounce that yields all events of the window."""

    together = True

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        return Added(True)

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        return Closing(events, (), True)


class Batches:
    """A number of events, or those that came within the time-out after the first."""

    gate = "batch"
    together = True

    def __init__(self, max_size: int, timeout_s: float) -> None:
        self._max_size = max_size
        self._timeout_s = timeout_s

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        return Added(True)

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        return len(events) >= self._max_size

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        return events[0].at + self._timeout_s

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        return Closing(events[: self._max_size], (), True)


class AllOf:
    """The latest event of each part, once every part has had one within the time."""

    gate = "all_of"
    together = True

    def __init__(self, parts: int, within_s: float) -> None:
        self._parts = parts
        self._within_s = within_s

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        return Added(True, [Released(event, SUPERSEDED) for event in events if event.part == new.part])

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        return len(events) == self._parts

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        return min(event.at for event in events) + self._within_s

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        if len(events) == self._parts:
            return Closing(sorted(events, key=lambda event: event.part), (), True)
        # Only the oldest is too old; later events may complete the others.
        oldest = min(event.at for event in events)
        return Closing((), [Released(event, EXPIRED) for event in events if event.at <= oldest], True)


class InTurn:
    """The parts in order; if a part repeats before the next one, its latest event counts."""

    gate = "sequence"
    together = True

    def __init__(self, parts: int, within_s: float) -> None:
        self._parts = parts
        self._within_s = within_s

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        if new.part == len(events):
            return Added(True)
        if events and new.part == len(events) - 1:
            return Added(True, [Released(events[-1], SUPERSEDED)])
        return Added(False, reason=OUT_OF_TURN)

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        return len(events) == self._parts

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        return events[0].at + self._within_s

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        if len(events) == self._parts:
            return Closing(events, (), True)
        return Closing((), [Released(event, EXPIRED) for event in events], True)


class Absent:
    """Part 1 opens the window and is decided at its end, unless part 0 comes first."""

    gate = "absent"
    together = False

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        if new.part == 0:
            return Added(False, [Released(event, CAME) for event in events], reason=EXPECTED)
        return Added(True, [Released(event, SUPERSEDED) for event in events])

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        return False

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        return events[0].at + self._within_s

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        return Closing(events[-1:], (), False)


class Leaving:
    """For events left after a trigger has lost its window: they leave one by one, at once."""

    gate = "window"
    together = False

    def add(self, events: list[WaitingEvent], new: WaitingEvent) -> Added:
        return Added(True)

    def full(self, events: Sequence[WaitingEvent]) -> bool:
        return False

    def due_at(self, events: Sequence[WaitingEvent]) -> float:
        return 0.0

    def close(self, events: Sequence[WaitingEvent]) -> Closing:
        return Closing(events[:1], (), False)


NEVER_S = 365 * 86400.0
"""How long a composite without `within=` waits for its other parts."""


def policy_of(trigger: Trigger) -> Policy | None:
    """The policy of the trigger's windows; None if its events do not wait."""
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
