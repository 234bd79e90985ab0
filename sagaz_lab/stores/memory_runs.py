"""What the memory store knows of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Final, Generic, TypeVar

from sagaz_lab.abc import NewRun, StoredRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import BARE, Record, RecordKind, RunStatus

T = TypeVar("T")

# An enum's member costs a look-up through its class each time.
WAITING: Final = RunStatus.WAITING

# A run is one list: these facts, then its records, the values of a bare one and any other as it is. There are ten
# thousand of them and more, each seen by every full garbage collection. A list costs half of an object to make, and
# takes in bare records without another object for them.
ID: Final = 0
STATUS: Final = 1
ATTEMPT: Final = 2
ENDED_AT: Final = 3
TRIGGER: Final = 4
CLAIM: Final = 5
CLAIM_ENDS: Final = 6
MEMBERS: Final = 7
ERROR: Final = 8
_SAGA, _REVISION, _EVENT, _CONTEXT, _AT, _STARTED, _RETRY_AT = range(9, 16)
_RECORDS = 16

RunRow = list[Any]


def run_row(new: NewRun) -> RunRow:
    """In the order above. Of its members only the claims are kept."""
    status, members = new.status, new.members
    return [
        new.run_id, status, 0 if status is WAITING else 1, None, new.trigger or "", new.claim, new.claim_ends,
        [it.claim for it in members if it.claim is not None] if members else (), None, new.saga, new.revision,
        new.event, new.context, new.at, new.started, None,
    ]  # fmt: skip


class _Fact(Generic[T]):
    """A place of a run's list, by name."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __get__(self, run: MemoryRun, owner: type[MemoryRun]) -> T:
        value: T = run.row[self._place]
        return value

    def __set__(self, run: MemoryRun, value: T) -> None:
        run.row[self._place] = value


class MemoryRun:
    """A run's list with names, for whoever is not in a hurry."""

    __slots__ = ("row",)

    run_id = _Fact[str](ID)
    saga = _Fact[str](_SAGA)
    trigger = _Fact[str](TRIGGER)
    revision = _Fact[int](_REVISION)
    event = _Fact[Event | None](_EVENT)
    context = _Fact[Mapping[str, Any]](_CONTEXT)
    at = _Fact[float](_AT)
    status = _Fact[RunStatus](STATUS)
    attempt = _Fact[int](ATTEMPT)
    started = _Fact[Sequence[str]](_STARTED)
    retry_at = _Fact[float | None](_RETRY_AT)
    ended_at = _Fact[float | None](ENDED_AT)
    error = _Fact[str | None](ERROR)

    def __init__(self, row: RunRow) -> None:
        self.row = row

    def records(self) -> list[Record]:
        row = self.row
        records = [Record(self.run_id, 1, RecordKind.ACTION_STARTED, name, 1, self.at) for name in self.started]
        kept = iter(row[_RECORDS:])
        for first in kept:
            record = first if isinstance(first, Record) else Record(first, *islice(kept, BARE - 1))
            records += record._replace(kind=RecordKind(record.kind)).in_full()
        return records

    def stored(self) -> StoredRun:
        return StoredRun(self.run_id, self.saga, self.revision, self.trigger or None, self.event, self.context,
                         self.status, self.attempt, self.at, self.retry_at, self.records(), self.ended_at,
                         self.error)  # fmt: skip
