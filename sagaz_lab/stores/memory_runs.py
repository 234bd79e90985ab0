"""What the memory store knows of a run and of those who hold claims."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from struct import Struct
from typing import Any

from sagaz_lab.abc import NewRun, Refusal, StoredRun
from sagaz_lab.model.run import RESTARTABLE, Record, RecordKind, RecordRow, RunStatus
from sagaz_lab.stores.claims import CLAIM_ENDED

# An enum's member costs a look-up through its class each time, and a set of them a hash in Python.
WAITING = RunStatus.WAITING
_RESTARTABLE, _CLAIM_ENDED = tuple(RESTARTABLE), tuple(CLAIM_ENDED)


_WIDTH = len(Record._fields)

LONG_LOG = 20 * _WIDTH
"""Values of a log that are kept as a tuple, which is copied each time; a longer one is a list."""


class MemoryRun:
    """A run. Of its members only the claims are kept: `members`.

    There are ten thousand of them and more, each seen by every full garbage collection, so a run is one object: of the
    `NewRun` it keeps what is asked for later, and its log has the records' values, one record after the other.
    """

    __slots__ = ("at", "attempt", "claim", "claim_ends", "claim_until", "context", "ended_at", "error", "event", "log",
                 "members", "retry_at", "revision", "run_id", "saga", "started", "status", "trigger")  # fmt: skip

    def __init__(self, new: NewRun) -> None:
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
        self.members: Sequence[str] = ()
        if new.members:
            self.members = tuple(member.claim for member in new.members if member.claim is not None)
        self.retry_at: float | None = None
        self.ended_at: float | None = None
        self.error: str | None = None
        # As a tuple it is nothing for the garbage collector, as long as its values are plain.
        self.log: tuple[Any, ...] | list[Any] = ()

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


# What a claim remembers of a run that is no longer kept: until when it holds, the run's status and its id. There may be
# a million of them, so each is one object and none for the garbage collector, which is woken by how many it has to see.
Past = bytes
_HEAD = Struct("=dB")
_STATUSES = tuple(RunStatus)
_NUMBERS = {status: number for number, status in enumerate(_STATUSES)}

Holder = MemoryRun | Past | str
"""Who has a claim: a run, one that is no longer kept, or (its id) an event that is held."""


def past_of(run: MemoryRun) -> Past | None:
    """What its claims remember once it is not kept any more; None if they are free."""
    if run.claim_ends or run.status in _RESTARTABLE:
        return None
    until = inf if run.claim_until is None else run.claim_until
    return _HEAD.pack(until, _NUMBERS[run.status]) + run.run_id.encode("utf-8", "surrogatepass")


def holds(holder: Holder, at: float) -> bool:
    """Whether the claim is still its."""
    if isinstance(holder, MemoryRun):
        until = holder.claim_until
        ended = _CLAIM_ENDED if holder.claim_ends else _RESTARTABLE
        return (until is None or until > at) and holder.status not in ended
    if isinstance(holder, str):
        return True
    held_until: float = _HEAD.unpack_from(holder)[0]
    return held_until > at


def refusal(holder: Holder) -> Refusal:
    """What another who wants the claim is told."""
    if isinstance(holder, MemoryRun):
        return Refusal(holder.run_id, holder.status)
    if isinstance(holder, str):
        return Refusal()
    status = _STATUSES[_HEAD.unpack_from(holder)[1]]
    return Refusal(holder[_HEAD.size :].decode("utf-8", "surrogatepass"), status)
