"""Every interface of the package and what it promises.

A source hands over deliveries; a store keeps what must survive; an engine executes a run; a codec
writes one kind of value to a file; a clock tells the time. The suites in `sagaz_lab.testing` hold
an implementation to these promises.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from sagaz_lab.model.event import Delivery, Event, deliveries
from sagaz_lab.model.host import Host, current_host
from sagaz_lab.model.run import Publication, Record, Run, RunStatus

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Acceptance",
    "Clock",
    "Codec",
    "DeadLetter",
    "Delivery",
    "Ending",
    "Engine",
    "Event",
    "HeldEvent",
    "Host",
    "Journal",
    "KeptEvent",
    "Member",
    "NewRun",
    "Owner",
    "Positions",
    "Publication",
    "Publisher",
    "Refusal",
    "RevisionRow",
    "Source",
    "SourceTraits",
    "Store",
    "StoredRun",
    "Surroundings",
    "current_host",
    "deliveries",
]


class Clock(Protocol):
    """Real or virtual time. Durations are measured with `monotonic`, never with `now`."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of this clock."""


# --- sources ---


class SourceTraits(NamedTuple):
    """How a source differs from its siblings, so that the suite can ask for what it promises."""

    ordered: bool = True
    redelivers: bool = True
    delays_nack: bool = False
    finite: bool = False


class Positions(Protocol):
    """Small durable values by name, where a source keeps what it must remember."""

    async def get(self, name: str) -> str | None: ...

    async def put(self, name: str, value: str) -> None: ...


async def no_letters(number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
    """Where there is no store."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a source is built with besides its settings. `group` is a name private to this store.

    `letters` gives the store's dead letters as `Store.letters_after` does.
    """

    clock: Clock
    positions: Positions
    group: str
    letters: Callable[[int, int], Awaitable[Sequence[tuple[int, DeadLetter]]]] = no_letters


class Source(AbstractAsyncContextManager["Source"], Protocol):
    """Hands over deliveries of events. Entering connects; leaving settles nothing and closes in bounded time.

    `receive` waits for one delivery and returns at most `limit`; cancelling it loses nothing. It raises
    `EndOfSource` when a finite source has given everything, `SourceUnavailable` when the connection is lost:
    the runtime then leaves the source, backs off and enters it again. A redelivery keeps `event.id` and raises
    `event.attempt`. Payloads come as bytes wherever the broker carries bytes.

    Settling is idempotent; settling what the broker took back raises `StaleDelivery`, which is harmless. What is
    neither acked nor nacked when the source is left is delivered again (if `traits.redelivers`).
    """

    name: str
    traits: ClassVar[SourceTraits]

    async def receive(self, limit: int) -> Sequence[Delivery]: ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle: recorded here. One call to the broker for all."""

    async def nack(self, delivery: Delivery, *, delay_s: float = 0.0) -> None:
        """Give it back, to be delivered again after `delay_s` if the source can wait."""


class Publisher(AbstractAsyncContextManager["Publisher"], Protocol):
    """Publishes to a broker. Entering connects. Raises `SourceUnavailable` when the connection is lost."""

    async def publish(self, publications: Sequence[Publication]) -> None:
        """Returns when the broker has all of them, in this order. Each carries its id in the header `sagaz-id`."""


# --- store ---


class Member(NamedTuple):
    """An event that started a run together with others, and its idempotency key (None: nothing to claim)."""

    event: Event
    claim: str | None


class NewRun:
    """A run to be accepted. `claim` is its idempotency key (None: nothing to claim), valid until `claim_until`.

    With `claim_ends` the claim is free again as soon as the run has ended, however it has. `cooldown` is a key and
    the time until which no other run of the trigger with that key may be accepted, however this one ends; it is taken
    only if the run starts at once (`status` running), else by `begin`. `members` are the events of a run that was
    started by several; their claims are the run's as well. `started` names the actions whose start is journaled with
    it (the roots, where it starts at once).
    """

    __slots__ = (
        "at",
        "claim",
        "claim_ends",
        "claim_until",
        "context",
        "cooldown",
        "event",
        "members",
        "revision",
        "run_id",
        "saga",
        "started",
        "status",
        "trigger",
    )

    def __init__(
        self,
        *,
        run_id: str,
        saga: str,
        revision: int,
        trigger: str | None,
        event: Event | None,
        context: Mapping[str, Any],
        at: float,
        status: RunStatus = RunStatus.RUNNING,
        claim: str | None = None,
        claim_until: float | None = None,
        claim_ends: bool = False,
        cooldown: tuple[str, float] | None = None,
        members: Sequence[Member] = (),
        started: Sequence[str] = (),
    ) -> None:
        self.run_id = run_id
        self.saga = saga
        self.revision = revision
        self.trigger = trigger
        self.event = event
        self.context = context
        self.at = at
        self.status = status
        self.claim = claim
        self.claim_until = claim_until
        self.claim_ends = claim_ends
        self.cooldown = cooldown
        self.members = members
        self.started = started


class HeldEvent(NamedTuple):
    """An event that waits to be decided, in the window of its trigger and `key` (None: the trigger's only one).

    `part` is the number of the composite's part that gave it, `claim` its idempotency key; `at` is when it came.
    """

    id: str
    trigger: str
    key: str | None
    part: int
    event: Event
    claim: str | None
    at: float


@dataclass(slots=True, kw_only=True)
class DeadLetter:
    """An event that could not be decided, or whose run failed for good. `cause` groups like letters."""

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


class KeptEvent(NamedTuple):
    """An event to be kept with its outcome, until `until`."""

    event: Event
    trigger: str
    outcome: str
    reason: str
    run_id: str | None
    until: float


@dataclass(slots=True)
class Acceptance:
    """What one transaction takes in. `filtered` counts refused events by (trigger, outcome, reason).

    `held` are events that wait to be decided, `released` the ids of those that do not any more: what became of them
    is in the same batch. `publications` are to be published.
    """

    runs: list[NewRun] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    filtered: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    kept: Sequence[KeptEvent] = ()
    held: Sequence[HeldEvent] = ()
    released: Sequence[str] = ()
    publications: Sequence[Publication] = ()


class Refusal(NamedTuple):
    """Why a run or a held event was not accepted.

    Its claim is taken by `first_run`, or (None) by an event that is held. Or, with `cooling_until`, its cooldown's key
    is taken until then, by `first_run`. Or its values cannot be stored (`error`).
    """

    first_run: str | None = None
    first_status: RunStatus | None = None
    error: Exception | None = None
    cooling_until: float | None = None


class Ending(NamedTuple):
    """How an attempt of a run ended. `records` and `publications` are kept in the same transaction."""

    status: RunStatus
    error: BaseException | None = None
    records: Sequence[Record] = ()
    publications: Sequence[Publication] = ()


class StoredRun(NamedTuple):
    """A run as the store has it. `records` are oldest first, of all attempts.

    `attempt` is 0 until a run that was accepted as `waiting` begins. Values that were written to files are
    references, to be loaded when they are asked for.
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


class RevisionRow(NamedTuple):
    """One version of a saga's code, as kept."""

    saga: str
    number: int
    digest: str
    source_text: str
    at: float


class Owner(NamedTuple):
    """A process that works on a store. Its lease ends `lease_s` after its last heartbeat, by the store's clock."""

    id: str
    name: str
    epoch: int


class Store(Protocol):
    """Keeps runs, claims, dead letters, revisions and positions. All writes are fenced by the owner's lease.

    Every method raises `StoreUnavailable` if the store cannot answer and `LeaseLost` once another owner has taken
    over. What a method changes, it changes in one transaction. Times are seconds since the epoch.
    """

    url: str
    durable: ClassVar[bool]

    async def open(self, owner_name: str) -> Owner:
        """Create what is missing and take a lease. Raises `StoreTooNew`, `StoreUnavailable`."""

    async def close(self) -> None:
        """Write what is queued, give the lease back. Idempotent."""

    async def heartbeat(self) -> None:
        """Renew the lease; drop what has outlived its retention, a bounded number of rows at a time."""

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        """Which of these claims of the trigger are taken: by a live or completed run, and not past their time, or by
        an event that is held.

        `at` is the time to judge by, where that is not the store's own (a virtual clock).
        """

    async def cooling(self, trigger: str, keys: Sequence[str], *, at: float) -> Mapping[str, Refusal]:
        """Which of these cooldown keys of the trigger are taken at this time."""

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        """Take the batch in. Returns the runs and held events that were refused, by id; all else is stored.

        Claims and cooldowns are taken in the same transaction: of two runs with one claim exactly one is accepted.
        What is held takes its claim too; the claims of what is released are free for the runs of the same batch. A run
        is refused for a claim of its members as for its own.
        """

    async def held(self, triggers: Sequence[str]) -> Sequence[HeldEvent]:
        """The events that wait to be decided for these triggers, oldest first."""

    async def append(self, records: Sequence[Record]) -> None:
        """Returns when the records are durable, in the order in which `append` was called.

        Raises `UnstorableValue`; nothing of the call is kept then.
        """

    async def begin(
        self,
        run_id: str,
        *,
        revision: int,
        attempt: int,
        started: Sequence[str],
        at: float,
        context: Mapping[str, Any] | None = None,
        cooldown: tuple[str, float] | None = None,
    ) -> None:
        """A waiting run starts (another attempt): it is counted before it runs. It takes the cooldown in any case."""

    async def end(
        self,
        run_id: str,
        ending: Ending,
        *,
        attempt: int,
        at: float,
        retry_at: float | None = None,
        dead: DeadLetter | None = None,
    ) -> None:
        """An attempt has ended. With `retry_at` the run waits until then."""

    async def withdraw(self, run_id: str) -> None:
        """Remove a waiting run that never started, and its claim."""

    async def interrupted(self) -> Sequence[StoredRun]:
        """Take over the live and `needs_code` runs of owners whose lease has ended, fencing them off; oldest first."""

    async def load(self, run_id: str) -> StoredRun | None:
        """The run with its records."""

    async def adopt(self, run_id: str) -> bool:
        """Make an ended or held run this owner's and live again. False if another live owner has it."""

    async def forget(self, trigger: str, key: str | None = None) -> int:
        """Free one claim or cooldown, or all of the trigger; returns how many. What is held stays held."""

    async def letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """The open dead letters of these ids, in their old order."""

    async def letters_after(self, number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
        """Dead letters in the order in which they came, open or not, each with its number, from the one after this."""

    async def settle_letters(self, ids: Sequence[str], state: str, reason: str) -> int:
        """Mark open letters as `redriven` or `discarded`; returns how many were open."""

    async def publications(self, limit: int) -> Sequence[tuple[int, Publication]]:
        """What this owner is to publish, oldest first, each with its number."""

    async def published(self, numbers: Sequence[int]) -> None:
        """These need not be published again."""

    async def save_revision(self, row: RevisionRow) -> None:
        """Keep it. The same number twice is the same revision."""

    async def own_triggers(self, names: Sequence[str]) -> None:
        """Say that this owner runs these triggers and no others. Raises `TriggersOwned` naming a live owner."""

    def positions(self) -> Positions: ...

    def revisions(self, saga: str) -> Sequence[RevisionRow]:
        """Oldest first. Reads through a connection of its own, from any thread, also while the store is closed."""

    def rows(
        self, frame: str, limit: int | None, *, before: str | None = None
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Columns and rows of "runs", "steps", "outcomes", "dead_letters", "causes", "events" or "publications" (those
        yet to be made), newest first.

        "dead_letters" has the open ones only, those older than the letter `before` if that is given; "causes" counts
        them by cause, the commonest first.

        Reads as `revisions` does.
        """


class Codec(Protocol):
    """Writes values of some types to files of one kind."""

    name: str
    suffix: str

    def accepts(self, value: Any) -> bool: ...

    def dump(self, value: Any, path: Path) -> None: ...

    def load(self, path: Path) -> Any: ...


# --- engine ---


class Journal(Protocol):
    """The append-only history of one run's attempt."""

    async def append(self, records: Sequence[Record]) -> None:
        """Returns when the records are durable. Raises `UnstorableValue`; nothing of the call is kept then."""

    async def end(self, ending: Ending) -> None:
        """The attempt has ended; raises as `append` does."""


class Engine(Protocol):
    """Executes runs.

    A run's actions start in the order of their dependencies; each start and end is journaled before what follows
    from it begins. No action starts once compensation began. An action that is journaled as finished is not run
    again when the run is resumed from its history.
    """

    async def execute(self, run: Run, journal: Journal) -> None:
        """One attempt, to its end, which it tells the journal.

        `run.cancel()` ends it as `cancelled`, after compensating. Cancelling the task abandons the run as it
        stands: its history tells whoever resumes it how to go on.
        """

    def close(self) -> None:
        """The Lab is closed: give back threads and connections."""
