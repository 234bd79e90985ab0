"""What became of events: counters that add up, and the latest outcomes for `why`."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sagaz_lab.model.run import LIVE, Outcome, OutcomeKind
from sagaz_lab.runtime.gates.pending_run import PendingRun

_event_id_of, _run_id_of = attrgetter("event.id"), attrgetter("run_id")

RING = 100_000
"""Outcomes kept in memory for all triggers together: at most about 30 MB."""

REASONS = 50
"""Distinct reasons counted per trigger; further ones count as `other`."""

OTHER = "other"

REASON_CHARACTERS = 200
"""Of a reason that are counted: a store indexes them."""


_NO_COUNTS = ("reasons", "stored", "ends", "resumed")


class Counters:
    """Of one trigger. Always: received = started + filtered + duplicate + dropped + dead + waiting + deciding."""

    __slots__ = (
        "dead",
        "deciding",
        "dropped",
        "duplicate",
        "ends",
        "filtered",
        "lost",
        "reasons",
        "received",
        "resumed",
        "started",
        "stored",
        "waiting",
    )

    def __init__(self) -> None:
        self.received = self.started = self.filtered = self.duplicate = 0
        self.dropped = self.dead = self.waiting = self.deciding = 0
        self.lost = 0
        """Events that the broker had already deleted; they do not count as received."""
        self.reasons: Counter[tuple[str, str]] = Counter()
        self.stored: Counter[tuple[str, str]] = Counter()
        self.ends: dict[str, int] = {}
        """Ends of attempts by status; `waiting` if a retry follows."""
        self.resumed = 0
        """Runs resumed here that an earlier process had started."""

    def resume(self, status: str, *, started_here: bool) -> None:
        """A run of this status resumes: if it had ended here, that end no longer counts."""
        if status in self.ends and status not in LIVE:
            self.ends[status] -= 1
            if not self.ends[status]:
                del self.ends[status]
        elif not started_here:
            self.resumed += 1

    def count_reason(self, kind: str, reason: str, times: int = 1) -> None:
        key = (kind, reason if len(reason) <= REASON_CHARACTERS else f"{reason[:REASON_CHARACTERS]}...")
        if key not in self.reasons and len(self.reasons) >= REASONS:
            key = (kind, OTHER)
        self.reasons[key] += times

    def take_reasons(self) -> Counter[tuple[str, str]]:
        """The counts since the last call."""
        new = self.reasons - self.stored
        self.stored = self.reasons.copy()
        return new

    def give_back_reasons(self, taken: Counter[tuple[str, str]]) -> None:
        """These have not been stored."""
        self.stored.subtract(taken)

    def as_dict(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__ if name not in _NO_COUNTS}


# In the ring an outcome is a plain tuple of Outcome's fields: creating an Outcome would cost more than the decision.
# Its kind is a plain string, since the garbage collector ignores tuples of plain values. Events of a batch for which
# the method returned None share an entry with their ids in a tuple; so do events that started one run each, with the
# run ids in another tuple.
Entry = tuple[str, str, str | tuple[str, ...], str, str | tuple[str, ...] | None, int, float, Mapping[str, Any] | None]


class Tally:
    """The counters of all triggers and the latest outcomes, oldest first. It outlives a closed Lab."""

    def __init__(self) -> None:
        self.counters: dict[str, Counters] = {}
        self._ring: deque[Entry] = deque()
        self._size = 0

    def of(self, trigger: str) -> Counters:
        return self.counters.setdefault(trigger, Counters())

    def keep(self, entries: Iterable[Entry]) -> None:
        """Keep these; the oldest are dropped first."""
        ring = self._ring
        for entry in entries:
            ring.append(entry)
            self._size += len(entry[2]) if type(entry[2]) is tuple else 1
        while self._size > RING:
            oldest = ring.popleft()
            self._size -= len(oldest[2]) if type(oldest[2]) is tuple else 1

    def newest(self) -> Iterator[Outcome]:
        for entry in reversed(list(self._ring)):  # another thread may append meanwhile
            yield from reversed(outcomes_of(entry))

    def about(self, event_id: str) -> list[Outcome]:
        found = [outcomes_of(entry) for entry in list(self._ring) if event_id in ids_of(entry)]
        return [outcome for outcomes in found for outcome in outcomes if outcome.event_id == event_id]


def ids_of(entry: Entry) -> tuple[str, ...]:
    return entry[2] if isinstance(entry[2], tuple) else (entry[2],)


def outcome(entry: Entry) -> Outcome:
    """The outcome of an entry with one event."""
    (found,) = outcomes_of(entry)
    return found


def outcome_about(entry: Entry, event_id: str) -> Outcome:
    return next(found for found in outcomes_of(entry) if found.event_id == event_id)


def outcomes_of(entry: Entry) -> list[Outcome]:
    """One outcome per event of the entry."""
    kind, reason, _, trigger, run, revision, at, facts = entry
    ids = ids_of(entry)
    runs = run if isinstance(run, tuple) else (run,) * len(ids)
    return [
        Outcome(OutcomeKind(kind), reason, event_id, trigger, run_id, revision, at, facts)
        for event_id, run_id in zip(ids, runs, strict=True)
    ]


def entries_of(
    kind: str, reason: str, pending: PendingRun, now: float, facts: Mapping[str, Any] | None = None
) -> Sequence[Entry]:
    """One entry per event of the run; the last is its own event's."""
    trigger, run_id, revision = pending.trigger or "", pending.run_id, pending.revision
    own = (kind, reason, pending.event_id, trigger, run_id, revision, now, facts)
    if not pending.members:
        return (own,)
    return [*((kind, reason, it.event.id, trigger, run_id, revision, now, facts) for it in pending.members), own]


def started_entries(pending_runs: Sequence[PendingRun], now: float) -> list[Entry]:
    """The entries of a trigger's started runs. Runs of one event each share an entry."""
    alone = [pending for pending in pending_runs if not pending.members]
    entries = [
        entry for pending in pending_runs if pending.members for entry in entries_of("started", "", pending, now)
    ]
    if len(alone) == 1:
        entries += entries_of("started", "", alone[0], now)
    elif alone:
        first, events, runs = alone[0], tuple(map(_event_id_of, alone)), tuple(map(_run_id_of, alone))
        entries.append(("started", "", events, first.trigger or "", runs, first.revision, now, None))
    return entries
