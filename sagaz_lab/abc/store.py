"""A store keeps what must survive; a codec writes one kind of value to a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from sagaz_lab.abc.source import Positions
from sagaz_lab.abc.values import (
    Acceptance,
    DeadLetter,
    Ending,
    Owner,
    Refusal,
    RevisionRow,
    StoredRun,
    WaitingEvent,
)
from sagaz_lab.model.run import Publication, Record

if TYPE_CHECKING:
    from pathlib import Path


Choose = Callable[[Sequence[tuple[str, str]]], Collection[str]]
"""Gets the id and the saga of each run, oldest first; returns the ids that are wanted. It may be called twice, on any
thread."""


class StoreTraits(NamedTuple):
    """How a store differs from its siblings.

    `survives`: what it keeps outlives the process, and other processes may open it. `awaited`: what it is given is kept
    once the call has been awaited; without this it is kept when the call returns, and the store is never away.
    `any_thread`: the methods of `ViewStore` may be called from any thread.
    """

    survives: bool = True
    awaited: bool = True
    any_thread: bool = True


class LeasedStore(Protocol):
    """The lease of the owner that has opened the store."""

    async def heartbeat(self) -> bool:
        """Renew the lease; drop what has outlived its retention, a bounded number of rows at a time.

        Whether there is more to drop.
        """

    def lease_held(self) -> bool:
        """Whether the lease cannot have ended since it was last renewed, by the clock alone. Cheap; from any thread.

        False does not say that it is lost: `heartbeat` renews it, or raises `LeaseLost`.
        """

    def lease_lost(self) -> bool:
        """Whether another owner has taken over, as far as can be read at once. For the loop, which it holds up."""


class IntakeStore(Protocol):
    """Takes in runs and what comes with them; knows which claims and cooldowns are taken."""

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        """Which of these claims of the trigger are taken: by a live or completed run, and not past their time, or by
        an event that waits.

        `at` is the time to judge by, where that is not the store's own (a virtual clock).
        """

    async def cooling(self, trigger: str, *, at: float) -> Mapping[str, Refusal]:
        """The cooldown keys of the trigger that are taken at this time."""

    def accept(self, batch: Acceptance) -> Awaitable[Mapping[str, Refusal]]:
        """Take the batch in. Returns the runs and waiting events that were refused, by id; all else is stored.

        Claims and cooldowns are taken in the same transaction: of two runs with one claim exactly one is accepted.
        What waits takes its claim too; the claims of what is released are free for the runs of the same batch. A run
        is refused for a claim of its members as for its own. What is to leave with a run whose values cannot be stored
        goes on waiting, so that it is nowhere lost.
        """

    async def waiting(self, triggers: Sequence[str]) -> Sequence[WaitingEvent]:
        """The events that wait to be decided for these triggers, oldest first."""


class JournalStore(Protocol):
    """Keeps the history of runs."""

    def append(self, records: Sequence[Record]) -> Awaitable[None]:
        """The records are durable once it has been awaited, in the order in which `append` was called.

        Raises `UnstorableValue`, at once or then; nothing of the call is kept if it does. Without the trait
        `awaited` they are kept when the call returns.
        """

    def begin(
        self,
        run_id: str,
        *,
        revision: int,
        attempt: int,
        started: Sequence[str],
        at: float,
        context: Mapping[str, Any] | None = None,
        cooldown: tuple[str, float] | None = None,
    ) -> Awaitable[None]:
        """A waiting run starts (another attempt): it is counted before it runs. It takes the cooldown in any case."""

    def end(
        self,
        run_id: str,
        ending: Ending,
        *,
        attempt: int,
        at: float,
        retry_at: float | None = None,
        dead: DeadLetter | None = None,
    ) -> Awaitable[None]:
        """An attempt has ended. With `retry_at` the run waits until then. Awaited as `append` is."""

    async def load(self, run_id: str) -> StoredRun | None:
        """The run with its records."""


class DecisionStore(LeasedStore, IntakeStore, JournalStore, Protocol):
    """All that deciding events and executing their runs needs."""

    url: str
    traits: ClassVar[StoreTraits]


class DeadLetterStore(Protocol):
    """Keeps dead letters until they are settled, and a while longer."""

    async def letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """The open dead letters of these ids, in their old order."""

    async def letters_after(self, number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
        """Dead letters in the order in which they came, open or not, each with its number, from the one after this."""

    async def settle_letters(self, ids: Sequence[str], state: str, reason: str) -> int:
        """Mark open letters as `redriven` or `discarded`; returns how many were open."""


class OutboxStore(Protocol):
    """Keeps what is to be published until a broker has it. What a broker has refused is parked: nobody publishes it."""

    async def publications(self, limit: int) -> Sequence[tuple[int, Publication]]:
        """What this owner is to publish, oldest first, each with its number."""

    async def published(self, numbers: Sequence[int]) -> None:
        """These need not be published again."""

    async def park_refused(self, refused: Sequence[tuple[int, DeadLetter]]) -> None:
        """Keep the letter of each refused publication, whose number stands before it; nobody publishes it any more.

        The letter's event has the publication's id.
        """

    async def park_behind(self, rows: Sequence[tuple[int, str]]) -> Collection[str]:
        """Park these publications (number and run) too where one of their run is parked; returns those runs."""

    async def parked_runs(self) -> Collection[str]:
        """The runs of which a refused publication is parked."""

    async def settle_refused(
        self, ids: Sequence[str], state: str, reason: str, *, payloads: Mapping[str, bytes] | None = None
    ) -> Collection[str]:
        """Settle those of these open letters that are of parked publications; returns their ids.

        A `redriven` one is to be published again, by this owner and with the payload of its letter's id in `payloads`
        if there is one; a `discarded` one is dropped. What is parked behind either is to be published.
        """


class ViewStore(Protocol):
    """What can be read without an owner, also while the store is closed, and without waiting for its writes."""

    def revisions(self, saga: str, newest: int | None = None) -> Sequence[RevisionRow]:
        """Oldest first, all or so many of the newest."""

    def run(self, run_id: str) -> StoredRun | None:
        """The same as `load`."""

    def about(
        self, event_id: str, claims: Collection[str], run_ids: Collection[str] = (), *, everywhere: bool = False
    ) -> tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]]:
        """Rows of "outcomes" that concern the event, and rows of "runs" that these name, or `run_ids`.

        The runs are those that have one of these claims, and those of the newest (some thousands; with `everywhere` of
        all) that have the event's id. The error of a run that has left a dead letter is the letter's.
        """

    def rows(
        self, frame: str, limit: int | None, *, before: str | None = None, status: str | None = None
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Columns and rows of "runs", "steps", "outcomes", "dead_letters", "causes", "events" or "publications" (those
        yet to be made), newest first; or of "claims": how many runs have taken, by trigger.

        "dead_letters" has the open ones only, those older than the letter `before` if that is given; "causes" counts
        them by cause, the commonest first. Of "runs" there are those of `status` only, if that is given.
        """


class Store(DecisionStore, DeadLetterStore, OutboxStore, ViewStore, Protocol):
    """Keeps runs, claims, dead letters, revisions and positions. All writes are fenced by the owner's lease.

    Every method raises `StoreUnavailable` if the store cannot answer and `LeaseLost` once another owner has taken
    over. What a method changes, it changes in one transaction. Times are seconds since the epoch.

    A store may have `run_logs`, with `write(run_id, text)` and `read(run_id)` from any thread, to keep the logs of runs
    for as long as the runs; without it a log is gone with its process.
    """

    async def open(self, owner_name: str) -> Owner:
        """Create what is missing and take a lease. Raises `StoreTooNew`, `StoreUnavailable`."""

    async def close(self) -> None:
        """Write what is queued, give the lease back. Idempotent."""

    async def put_clock_right(self, now: float) -> tuple[float, Mapping[str, int]]:
        """Cut what a clock that was ahead of `now` has left in the future to its length from `now`.

        These are cooldowns and claims of runs that were started after `now`, and events that wait since then or later.
        Such a run is moved, as if it had ended (a live one: started) now. Returns how many seconds the clock was ahead,
        and how many of each were cut.
        """

    async def own_triggers(self, names: Sequence[str]) -> float | None:
        """Say that this owner runs these triggers and no others. Raises `TriggersOwned` naming a live owner.

        An owner whose lease has ended is fenced off by that: it writes nothing more, on whatever it worked.
        Returns how many seconds ago somebody was last seen to run any of them, to a few seconds; None if nobody ever
        has.
        """

    async def left_waiting(self) -> Mapping[str, int]:
        """How many events wait to be decided, by trigger, but for the triggers of other owners that live.

        A name that cannot be read is there as its `repr`.
        """

    async def interrupted(self, choose: Choose | None = None) -> Sequence[StoredRun]:
        """Take over the live and `needs_code` runs of owners whose lease has ended, fencing them off; oldest first.

        Those that `choose` does not name are left for a later call, of any owner, or for `adopt`.
        """

    async def adopt(self, run_id: str) -> bool:
        """Make an ended or held run this owner's and live again. False if another live owner has it."""

    async def forget(self, trigger: str, key: str | None = None) -> int:
        """Free one claim or cooldown, or all of the trigger; returns how many. What waits goes on waiting."""

    async def save_revision(self, row: RevisionRow) -> bool:
        """Keep it. False if the number is that of a revision with another digest, which stays."""

    def positions(self) -> Positions: ...


class Codec(Protocol):
    """Writes values of some types to files of one kind."""

    name: str
    suffix: str

    def accepts(self, value: Any) -> bool: ...

    def dump(self, value: Any, path: Path) -> None: ...

    def load(self, path: Path) -> Any: ...
