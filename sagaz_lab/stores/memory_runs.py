"""What the memory store knows of a run and of those who hold claims."""

from __future__ import annotations

from copy import copy

from sagaz_lab.abc import NewRun, Refusal, StoredRun
from sagaz_lab.model.run import RESTARTABLE, Record, RecordKind, RunStatus
from sagaz_lab.stores.claims import CLAIM_ENDED

# An enum's member costs a look-up through its class each time, and a set of them a hash in Python.
WAITING = RunStatus.WAITING
_RESTARTABLE, _CLAIM_ENDED = tuple(RESTARTABLE), tuple(CLAIM_ENDED)


class MemoryRun:
    """A run. Of its members only the claims are kept: `members`."""

    __slots__ = ("attempt", "context", "ended_at", "error", "log", "members", "new", "retry_at", "revision", "status")

    def __init__(self, new: NewRun) -> None:
        self.members: tuple[str, ...] = ()
        if new.members:
            self.members = tuple(member.claim for member in new.members if member.claim is not None)
            new = copy(new)
            new.members = ()
        self.new = new
        self.status = new.status
        self.revision = new.revision
        self.context = new.context
        self.attempt = 0 if new.status is WAITING else 1
        self.log: list[Record] = []
        self.retry_at: float | None = None
        self.ended_at: float | None = None
        self.error: str | None = None

    @property
    def run_id(self) -> str:
        return self.new.run_id

    @property
    def past(self) -> Past | None:
        """What its claims remember once it is not kept any more; None if they are free."""
        if self.new.claim_ends or self.status in _RESTARTABLE:
            return None
        return self.run_id, self.status.value, self.new.claim_until

    def records(self) -> list[Record]:
        new = self.new
        started = [Record(new.run_id, 1, RecordKind.ACTION_STARTED, name, 1, new.at) for name in new.started]
        return started + self.log

    def stored(self) -> StoredRun:
        new = self.new
        return StoredRun(new.run_id, new.saga, self.revision, new.trigger, new.event, self.context, self.status,
                         self.attempt, new.at, self.retry_at, self.records(), self.ended_at, self.error)  # fmt: skip


# What a claim remembers of a run that is no longer kept: (run id, status, until). There may be a million of them, so
# each is a plain tuple of plain values, which the garbage collector passes over.
Past = tuple[str, str, float | None]

Holder = MemoryRun | Past | str
"""Who has a claim: a run, one that is no longer kept, or (its id) an event that is held."""


def holds(holder: Holder, at: float) -> bool:
    """Whether the claim is still its."""
    if isinstance(holder, MemoryRun):
        new = holder.new
        until = new.claim_until
        ended = _CLAIM_ENDED if new.claim_ends else _RESTARTABLE
        return (until is None or until > at) and holder.status not in ended
    return isinstance(holder, str) or holder[2] is None or holder[2] > at


def refusal(holder: Holder) -> Refusal:
    """What another who wants the claim is told."""
    if isinstance(holder, MemoryRun):
        return Refusal(holder.new.run_id, holder.status)
    return Refusal() if isinstance(holder, str) else Refusal(holder[0], RunStatus(holder[1]))
