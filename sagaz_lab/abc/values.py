"""What a store is given and what it gives."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec import Struct

from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Publication, Record, RunStatus

KEY_MARK = "\x1f"
"""What the claim of a declared key begins with, so that it never meets the claim of an id, which never does."""


class Member(NamedTuple):
    """An event that started a run together with others, and its claims (None: nothing to claim)."""

    event: Event
    claim: str | None
    declared: str | None = None


class NewRun(Struct, eq=False):
    """A run to be accepted. `claim` is that of its event's id (None: nothing to claim), valid until `claim_until`.

    `declared` is the claim of its declared key, valid until `declared_until`: it is free again when the run has ended
    compensated or cancelled, and with `declared_ends` however it has ended. `cooldown` is a key and
    the time until which no other run of the trigger with that key may be accepted, however this one ends; it is taken
    only if the run starts at once (`status` running), else by `begin`. `members` are the events of a run that was
    started by several; their claims are the run's as well. `started` names the actions whose start is journaled with
    it (the roots, where it starts at once). `flat`: no value of the context can change in place or be used up.
    """

    run_id: str
    saga: str
    trigger: str | None
    revision: int
    event: Event | None
    context: Mapping[str, Any]
    at: float
    flat: bool = False
    status: RunStatus = RunStatus.RUNNING
    claim: str | None = None
    claim_until: float | None = None
    declared: str | None = None
    declared_until: float | None = None
    declared_ends: bool = False
    cooldown: tuple[str, float] | None = None
    members: Sequence[Member] = ()
    started: Sequence[str] = ()


class WaitingEvent(NamedTuple):
    """An event that waits to be decided, in the window of its trigger and `key` (None: the trigger's only one).

    `part` is the number of the composite's part that gave it, `claim` is that of its id and `declared` that of its
    declared key; `at` is when it came.
    """

    id: str
    trigger: str
    key: str | None
    part: int
    event: Event
    claim: str | None
    at: float
    declared: str | None = None


@dataclass(slots=True, kw_only=True)
class DeadLetter:
    """An event that could not be decided, or whose run failed for good. `cause` groups like letters.

    `claim` is that of the event's id, valid until `claim_until`, where no run has it.
    """

    id: str
    event: Event
    trigger: str
    saga: str
    cause: str
    error: str
    traceback: str
    attempts: int
    revision: int
    at: float
    run_id: str | None = None
    redriven: int = 0
    """How many times its event had been redriven before it died."""
    claim: str | None = None
    claim_until: float | None = None


class KeptEvent(NamedTuple):
    """An event to be kept with its outcome, until `until`."""

    event: Event
    trigger: str
    outcome: str
    reason: str
    run_id: str | None
    until: float


class Spent(NamedTuple):
    """The claim of an event that starts nothing although it was wanted: a later one took its place."""

    trigger: str
    claim: str
    until: float


class Redriven(NamedTuple):
    """An open dead letter whose event is decided again, and the claim of that event's id.

    The claim is free for what comes of the event in the same batch, and the letter's again if nothing takes it.
    `run_id` is the letter's run, whose cooldown is over for what has the claim. Where the run of the batch that has the
    claim cannot be stored, the letter stays open.
    """

    letter: str
    trigger: str
    claim: str
    run_id: str | None
    until: float


class Acceptance(Struct):
    """What one transaction takes in. `filtered` counts refused events by (trigger, outcome, reason).

    `waiting` are events that wait to be decided, `released` the ids of those that do not any more: what became of them
    is in the same batch. `released_with` has the id of the run with which one leaves: if the values of that run cannot
    be stored, it goes on waiting, until there is a batch with what became of it. `withdrawn` are waiting runs that
    never started: their claims are free for the same batch, or, where a time is given, those of their ids are spent
    until then. `redriven` letters are settled, each with what came of its event. `publications` are to be published.
    """

    runs: list[NewRun] = []
    dead: Sequence[DeadLetter] = ()
    filtered: Mapping[tuple[str, str, str], int] = {}
    kept: Sequence[KeptEvent] = ()
    waiting: Sequence[WaitingEvent] = ()
    released: Sequence[str] = ()
    withdrawn: Mapping[str, float | None] = {}
    redriven: Sequence[Redriven] = ()
    spent: Sequence[Spent] = ()
    publications: Sequence[Publication] = ()
    released_with: Mapping[str, str] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to take in."""
        return any((self.runs, self.dead, self.filtered, self.kept, self.waiting, self.released, self.withdrawn,
                    self.redriven, self.spent, self.publications))  # fmt: skip

    def leaving(self, unstorable: Collection[str]) -> Sequence[str]:
        """The released but for those that leave with one of these runs."""
        if not unstorable or not self.released_with:
            return self.released
        return [id for id in self.released if self.released_with.get(id) not in unstorable]


class Refusal(NamedTuple):
    """Why a run, a waiting event or a dead letter was not accepted.

    Its claim is taken by `first_run`, by the dead letter `letter`, by nobody any more (`spent`), or else by an event
    that waits. Or, with `cooling_until`, its cooldown's key is taken until then, by `first_run`. Or its values cannot
    be stored (`error`).
    """

    first_run: str | None = None
    first_status: RunStatus | None = None
    error: Exception | None = None
    cooling_until: float | None = None
    letter: str | None = None
    spent: bool = False


class Ending(Struct, frozen=True, eq=False):
    """How an attempt of a run ended. `records` and `publications` are kept in the same transaction."""

    status: RunStatus
    error: BaseException | None = None
    records: Sequence[Record] = ()
    publications: Sequence[Publication] = ()


class StoredRun(NamedTuple):
    """A run as the store has it. `records` are oldest first, of all attempts.

    `attempt` is 0 until a run that was accepted as `waiting` begins. Values that were written to files are
    references, to be loaded when they are asked for. `damage` says which part of its rows cannot be read, if any; the
    others are there.
    """

    run_id: str
    saga: str
    revision: int
    trigger: str | None
    event: Event | None
    context: Mapping[str, Any]
    status: RunStatus
    attempt: int
    started_at: float
    retry_at: float | None
    records: Sequence[Record]
    ended_at: float | None = None
    error: str | None = None
    damage: str | None = None


class RevisionRow(NamedTuple):
    """One version of a saga's code, as kept. `made_by` is the process that had it first."""

    saga: str
    number: int
    digest: str
    source_text: str
    at: float
    made_by: str = ""


class Owner(NamedTuple):
    """A process that works on a store. Its lease ends `lease_s` after its last heartbeat, by the store's clock."""

    id: str
    name: str
    epoch: int
