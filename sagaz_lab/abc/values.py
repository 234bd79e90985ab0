"""The values that go into and come out of a store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from msgspec import Struct

from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Publication, Record, RunStatus

KEY_MARK = "\x1f"
"""The prefix of declared keys' claims, which keeps them apart from the claims of ids."""


class Member(NamedTuple):
    """One of several events that started a run, with its claims (None: no claim)."""

    event: Event
    claim: str | None
    declared: str | None = None


class NewRun(Struct, eq=False):
    """A run to be accepted. `claim` is that of its event's id (None: no claim), valid until `claim_until`.

    `declared` is the claim of its declared key, valid until `declared_until`. It is freed when the run ends compensated
    or cancelled; with `declared_ends` whenever it ends. `cooldown` is a key and the time until which no other run of
    the trigger with that key is accepted, however this one ends; it is taken now if the run starts at once (`status`
    running), else by `begin`. `members` are the events of a run that several started; the run holds their claims too.
    `started` names the actions whose start is journaled with it (the roots, if it starts at once). `flat`: no value of
    the context is mutable or an exhaustible iterator.
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
    """An event waiting in the window of its trigger and `key` (None: the trigger's only window).

    `part` is the number of the composite's part it came from. `claim` is the claim of its id, `declared` that of its
    declared key. `at` is its arrival.
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
    """An event that could not be decided, or whose run failed for good. `cause` groups similar dead letters.

    `claim` is that of the event's id, valid until `claim_until`, if no run holds it.
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
    """How often its event had been redriven before."""
    claim: str | None = None
    claim_until: float | None = None


class KeptEvent(NamedTuple):
    """An event to store with its outcome, until `until`."""

    event: Event
    trigger: str
    outcome: str
    reason: str
    run_id: str | None
    until: float


class Spent(NamedTuple):
    """The claim of an accepted event that starts nothing because a later one replaced it."""

    trigger: str
    claim: str
    until: float


class Redriven(NamedTuple):
    """An open dead letter whose event is decided again, and the claim of the event's id.

    In the same batch the claim is free for the event's result; if nothing takes it, it stays with the dead letter.
    `run_id` is the dead letter's run, whose cooldown does not apply to the holder of the claim. If the batch's run
    with the claim cannot be stored, the dead letter stays open.
    """

    letter: str
    trigger: str
    claim: str
    run_id: str | None
    until: float


class Acceptance(Struct):
    """The content of one accepting transaction. `filtered` counts refused events by (trigger, outcome, reason).

    `waiting` are new waiting events. `released` are the ids of events that stop waiting: their results are in the same
    batch. `released_with` maps such an id to the run it leaves with; if that run's values cannot be stored, the event
    keeps waiting for a later batch. `withdrawn` are waiting runs that never started: their claims are free for the same
    batch; if a time is given, the claims of their ids are spent until then. `redriven` dead letters are settled, each
    with its event's result. `publications` become pending.
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
        """Whether there is anything to store."""
        return any((self.runs, self.dead, self.filtered, self.kept, self.waiting, self.released, self.withdrawn,
                    self.redriven, self.spent, self.publications))  # fmt: skip

    def leaving(self, unstorable: Collection[str]) -> Sequence[str]:
        """The released ids, except those leaving with one of these runs."""
        if not unstorable or not self.released_with:
            return self.released
        return [id for id in self.released if self.released_with.get(id) not in unstorable]


class Refusal(NamedTuple):
    """Why a run, a waiting event or a dead letter was not accepted.

    Its claim is taken by `first_run`, by the dead letter `letter`, by a replaced event (`spent`), or else by a waiting
    event. Or, with `cooling_until`, `first_run` holds its cooldown key until then. Or its values cannot be stored
    (`error`).
    """

    first_run: str | None = None
    first_status: RunStatus | None = None
    error: Exception | None = None
    cooling_until: float | None = None
    letter: str | None = None
    spent: bool = False


class Ending(Struct, frozen=True, eq=False):
    """The end of an attempt of a run. `records` and `publications` are stored in the same transaction."""

    status: RunStatus
    error: BaseException | None = None
    records: Sequence[Record] = ()
    publications: Sequence[Publication] = ()


class StoredRun(NamedTuple):
    """A run as stored. `records` are those of all attempts, oldest first.

    `attempt` is 0 until a run accepted as `waiting` begins. Values in artifact files are references, loaded on
    access. `damage` names the unreadable part of its rows, if any; the other parts are present.
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
    """One version of a saga's code, as stored. `made_by` is the process that first registered it."""

    saga: str
    number: int
    digest: str
    source_text: str
    at: float
    made_by: str = ""


class Owner(NamedTuple):
    """A process with a lease on a store, which ends `lease_s` after its last heartbeat by the store's clock."""

    id: str
    name: str
    epoch: int
