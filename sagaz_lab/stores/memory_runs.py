"""What the memory store knows of a run and of those who hold claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from sagaz_lab.abc import NewRun, Refusal, StoredRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import RESTARTABLE, Record, RecordKind, RecordRow, RunStatus
from sagaz_lab.stores.claims import CLAIM_ENDED

# An enum's member costs a look-up through its class each time, and a set of them a hash in Python.
WAITING = RunStatus.WAITING
_RESTARTABLE, _CLAIM_ENDED = tuple(RESTARTABLE), tuple(CLAIM_ENDED)


_WIDTH = len(Record._fields)
_LONG = 20 * _WIDTH
"""A log of as many values is a list, since a tuple is copied each time."""


class MemoryRun:
    """A run. Of its members only the claims are kept: `members`.

    There are ten thousand of them and more, each seen by every full garbage collection, so a run is one object: of the
    `NewRun` it keeps what is asked for later, and its log has the records' values, one record after the other.
    """

    __slots__ = ("at", "attempt", "claim", "claim_ends", "claim_until", "context", "ended_at", "error", "event", "log",
                 "members", "retry_at", "revision", "run_id", "saga", "started", "status", "trigger")  # fmt: skip

    run_id: str
    saga: str
    trigger: str
    revision: int
    event: Event | None
    context: Mapping[str, Any]
    at: float
    status: RunStatus
    attempt: int
    claim: str | None
    claim_until: float | None
    claim_ends: bool
    started: Sequence[str]
    members: Sequence[str]
    retry_at: float | None
    ended_at: float | None
    error: str | None
    log: tuple[Any, ...] | list[Any]
    """A tuple of plain values is nothing for the garbage collector."""

    @staticmethod
    def of(new: NewRun) -> MemoryRun:
        """One is made for every run, and a constructor would cost as much again."""
        self = MemoryRun()
        self.run_id = new.run_id
        self.saga = new.saga
        self.trigger = new.trigger or ""
        self.revision = new.revision
        self.event = new.event
        self.context = new.context
        self.at = new.at
        self.status = status = new.status
        self.claim = new.claim
        self.claim_until = new.claim_until
        self.claim_ends = new.claim_ends
        self.started = new.started
        self.attempt = 0 if status is WAITING else 1
        self.members = ()
        if new.members:
            self.members = tuple(member.claim for member in new.members if member.claim is not None)
        self.retry_at = self.ended_at = self.error = None
        self.log = ()
        return self

    def keep(self, record: RecordRow) -> None:
        """Add it to the log."""
        log = self.log
        if len(log) < _LONG:
            self.log = (*log, *record)
        elif isinstance(log, list):
            log += record
        else:
            self.log = [*log, *record]

    def records(self) -> list[Record]:
        log = self.log
        records = [Record(self.run_id, 1, RecordKind.ACTION_STARTED, name, 1, self.at) for name in self.started]
        for i in range(0, len(log), _WIDTH):
            run_id, attempt, kind, *rest = log[i : i + _WIDTH]
            records += Record(run_id, attempt, RecordKind(kind), *rest).in_full()
        return records

    def stored(self) -> StoredRun:
        return StoredRun(self.run_id, self.saga, self.revision, self.trigger or None, self.event, self.context,
                         self.status, self.attempt, self.at, self.retry_at, self.records(), self.ended_at,
                         self.error)  # fmt: skip


# What a claim remembers of a completed run that is no longer kept: until when it holds, and the run's id. There may be
# a million of them; the garbage collector leaves tuples of plain values alone once it has seen them.
Past = tuple[float, str]

Holder = MemoryRun | Past | str
"""Who has a claim: a run, one that is no longer kept, or (its id) an event that is held."""


def past_of(run: MemoryRun) -> Past | None:
    """What its claims remember once it is not kept any more; None if they are free."""
    if run.claim_ends or run.status in _RESTARTABLE:
        return None
    return (inf if run.claim_until is None else run.claim_until), run.run_id


def holds(holder: Holder, at: float) -> bool:
    """Whether the claim is still its."""
    if isinstance(holder, MemoryRun):
        until = holder.claim_until
        ended = _CLAIM_ENDED if holder.claim_ends else _RESTARTABLE
        return (until is None or until > at) and holder.status not in ended
    if isinstance(holder, str):
        return True
    return holder[0] > at


def refusal(holder: Holder) -> Refusal:
    """What another who wants the claim is told."""
    if isinstance(holder, MemoryRun):
        return Refusal(holder.run_id, holder.status)
    if isinstance(holder, str):
        return Refusal()
    return Refusal(holder[1], RunStatus.COMPLETED)
