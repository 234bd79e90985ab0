"""Runs in the memory store."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from sagaz_lab.abc import NewRun, StoredRun
from sagaz_lab.model.apart import apart
from sagaz_lab.model.event import Event, reader_of
from sagaz_lab.model.run import Record, RecordKind, RunStatus

# Avoids an attribute look-up through the enum class each time.
WAITING = RunStatus.WAITING


class _Kept:
    """An awaitable that needs no coroutine."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


KEPT = _Kept()


class MemoryRun(Struct, eq=False):
    """A run. `trigger` is "" without a trigger, `attempt` 0 before the first. Of its members only claims are kept."""

    run_id: str
    saga: str
    revision: int
    trigger: str
    event: Event | None
    context: Mapping[str, Any]
    at: float
    started: Sequence[str]
    status: RunStatus
    attempt: int
    claim: str | None
    declared: str | None
    declared_ends: bool
    members: Sequence[str]
    ended_at: float | None = None
    retry_at: float | None = None
    error: str | None = None
    journal: list[Record] = []  # follows the records of the actions that started with the run

    def claims(self) -> list[str]:
        """Its own and its members' claims, without duplicates."""
        own = [claim for claim in (self.claim, self.declared) if claim is not None]
        return list(dict.fromkeys((*own, *self.members)))

    def keep(self, record: Record) -> None:
        """Append a copy of the record's values. The store appends records without values directly."""
        self.journal.append(_apart(record))

    def records(self) -> list[Record]:
        """All records, oldest first."""
        records = [Record(self.run_id, 1, RecordKind.ACTION_STARTED, name, 1, self.at) for name in self.started]
        for record in self.journal:
            records += record.in_full()
        return records

    def stored(self) -> StoredRun:
        event = None if self.event is None else reader_of(self.event)
        return StoredRun(self.run_id, self.saga, self.revision, self.trigger or None, event, apart({**self.context}),
                         self.status, self.attempt, self.at, self.retry_at, [*map(_apart, self.records())],
                         self.ended_at, self.error)  # fmt: skip


def _apart(record: Record) -> Record:
    """The record with copied values."""
    if record.value is None and record.changes is None:
        return record
    changes = None if record.changes is None else apart({**record.changes})
    return replace(record, value=apart(record.value), changes=changes)


def memory_run(new: NewRun) -> MemoryRun:
    """The stored form of an accepted run."""
    status, members = new.status, new.members
    return MemoryRun(
        new.run_id, new.saga, new.revision, new.trigger or "", new.event, new.context, new.at, new.started, status,
        0 if status is WAITING else 1, new.claim, new.declared, new.declared_ends,
        [claim for it in members for claim in it[1:] if claim is not None] if members else (),
    )  # fmt: skip
