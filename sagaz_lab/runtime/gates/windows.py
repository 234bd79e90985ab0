"""Windows: events that wait to be decided together, or to be superseded by a later one.

A window's only inputs are events and the time, so it behaves the same in real and in virtual time. It yields closings:
events of one key, to be decided now. Bounds: a trigger has at most `queue_size` waiting events, and empty windows are
not kept.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush, heapreplace
from itertools import chain
from math import inf

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.runtime.gates.window_policies import Added, Closing, Policy

_When = tuple[float, float, int]
"""When a window is due, and the place of its first event, which breaks ties."""

SPARE = 16
"""Stale heap entries, besides one per window, before the heap is rebuilt."""


class Windows:
    """A trigger's open windows by key; `size` is the number of waiting events."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.size = 0
        self._open: dict[str | None, list[WaitingEvent]] = {}
        # For each key the current entry in `_timed`, never later than its window's due time. All other entries are
        # stale.
        self._due: list[tuple[float, float, int, str | None]] = []
        self._timed: dict[str | None, _When] = {}
        # The order of events left by another process, which precede all later ones.
        self._restored: dict[str, int] = {}

    def add(self, new: WaitingEvent) -> Added:
        """Add the event if it waits. Released events have left their window."""
        events = self._open.get(new.key)
        if events is None:
            events = self._open[new.key] = []
        added = self.policy.add(events, new)
        for released in added.released:
            events.remove(released.waiting)
        if added.waits:
            events.append(new)
        self.size += added.waits - len(added.released)
        self._settle(new.key, events)
        return added

    def change(self, policy: Policy) -> None:
        """Switch to another policy; waiting events stay and may be due at once."""
        self.policy = policy
        self._time_all()

    def _time_all(self) -> None:
        self._due.clear()
        self._timed.clear()
        for key, events in self._open.items():
            self._settle(key, events)

    def restore(self, events: Iterable[WaitingEvent]) -> int:
        """Add earlier waiting events in their old order, unless present; this releases and closes nothing."""
        known = {event.id for window in self._open.values() for event in window}
        new = [event for event in events if event.id not in known]
        self._restored.update({event.id: number for number, event in enumerate(new, -len(new) - len(self._restored))})
        self.put_back(new)
        return len(new)

    def regroup(self, keyed: Callable[[WaitingEvent], WaitingEvent]) -> None:
        """Move each event to the window of its new key."""
        events = self.events()
        self._open.clear()
        for event in map(keyed, events):
            self._open.setdefault(event.key, []).append(event)
        self._time_all()

    def _settle(self, key: str | None, events: list[WaitingEvent], *, sooner: bool = False) -> None:
        """`sooner`: it may be due earlier than before."""
        if not events:
            del self._open[key]
        elif (timed := self._timed.get(key)) is None or sooner:
            when = self._when(events)
            if timed is None or when < timed:
                self._timed[key] = when
                heappush(self._due, (*when, key))
                if len(self._due) > 2 * len(self._open) + SPARE:
                    self._time_all()

    def _when(self, events: Sequence[WaitingEvent]) -> _When:
        return (self._due_at(events), *self._place(events[0]))

    def _due_at(self, events: Sequence[WaitingEvent]) -> float:
        """A full window is due: a new policy or an event put back may have filled it."""
        return -inf if self.policy.full(events) else self.policy.due_at(events)

    def next_due(self) -> float | None:
        """When a window may have to be closed, in the clock's seconds; None if none is open."""
        while self._due:
            *when, key = self._due[0]
            events = self._open.get(key)
            if self._timed.get(key) != tuple(when):
                heappop(self._due)
            elif events is None:
                heappop(self._due)
                del self._timed[key]
            elif (now := self._when(events)) > self._timed[key]:
                self._timed[key] = now
                heapreplace(self._due, (*now, key))
            else:
                return now[0]
        return None

    def full(self, key: str | None) -> bool:
        """Whether this key's window is to be closed now."""
        events = self._open.get(key)
        return events is not None and self.policy.full(events)

    def put_back(self, events: Sequence[WaitingEvent]) -> None:
        """Return these events to their old place."""
        back: dict[str | None, list[WaitingEvent]] = {}
        for event in events:
            back.setdefault(event.key, []).append(event)
        for key, mine in back.items():
            window = self._open.setdefault(key, [])
            if len(mine) < len(window):  # sorting would visit all waiting events for each batch rolled back
                for event in mine:
                    insort(window, event, key=self._place)
            else:
                window += mine
                window.sort(key=self._place)
            self._settle(key, window, sooner=True)
        self.size += len(events)

    def close(self, key: str | None) -> Closing:
        events = self._open.pop(key)
        closing = self.policy.close(events)
        gone = {id(released.waiting) for released in closing.released} | {id(event) for event in closing.events}
        left = [event for event in events if id(event) not in gone]
        self.size += len(left) - len(events)
        if left:
            self._open[key] = left
            self._settle(key, left)
        return closing

    def close_due(self, now: float) -> Iterator[Closing]:
        """Close the windows that are due, earliest first."""
        while (due_at := self.next_due()) is not None and due_at <= now:
            key = heappop(self._due)[3]
            del self._timed[key]
            yield self.close(key)

    def drop_oldest(self) -> WaitingEvent | None:
        """Remove the event that has waited longest."""
        oldest = min((events[0] for events in self._open.values()), key=self._place, default=None)
        if oldest is not None:
            self.remove(oldest)
        return oldest

    def remove(self, event: WaitingEvent) -> None:
        """Remove the event if it is still there."""
        if not self._remove(event.key, event):
            any(self._remove(key, event) for key in [*self._open])  # another revision may have changed its key

    def _remove(self, key: str | None, event: WaitingEvent) -> bool:
        events = self._open.get(key, [])
        at = bisect_left(events, self._place(event), key=self._place)
        if at == len(events) or events[at].id != event.id:  # another process's clock may have disturbed the order
            at = next((i for i, one in enumerate(events) if one.id == event.id), len(events))
        if at == len(events):
            return False
        del events[at]
        self.size -= 1
        self._settle(key, events, sooner=True)  # without its last event it may be due earlier
        return True

    def empty(self) -> list[WaitingEvent]:
        """Remove and return all events, in order."""
        events = self.events()
        self._open.clear()
        self._due.clear()
        self._timed.clear()
        self.size = 0
        return events

    def events(self) -> list[WaitingEvent]:
        """All waiting events, in order of arrival."""
        return sorted(chain.from_iterable(self._open.values()), key=self._place)

    def of(self, key: str | None) -> Sequence[WaitingEvent]:
        return self._open.get(key, ())

    def _place(self, event: WaitingEvent) -> tuple[float, int]:
        """The order of arrival: ids of one process count up."""
        number = self._restored.get(event.id)
        return event.at, int(event.id.rpartition("-")[2]) if number is None else number
