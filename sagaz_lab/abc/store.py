"""The interfaces of stores, by role, and of codecs."""

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
"""Maps the (id, saga) of each run, oldest first, to the selected ids. May be called twice, on any thread."""


class StoreTraits(NamedTuple):
    """A store's differences from the others.

    `survives`: its content outlives the process, and other processes may open it. `awaited`: a write is kept once the
    call has been awaited; without it, when the call returns, and the store never has an outage. `any_thread`: the
    methods of `ViewStore` can be called from any thread.
    """

    survives: bool = True
    awaited: bool = True
    any_thread: bool = True


class LeasedStore(Protocol):
    """The lease of the owner that opened the store."""

    async def heartbeat(self) -> bool:
        """Renew the lease and delete a bounded number of rows past their retention.

        Returns whether there are more to delete.
        """

    def lease_held(self) -> bool:
        """Whether the lease certainly still holds, by the clock alone. Cheap; callable from any thread.

        False does not mean that it is lost: `heartbeat` renews it or raises `LeaseLost`.
        """

    def lease_lost(self) -> bool:
        """Whether another owner is known to have taken over. Blocks the loop for one read."""


class IntakeStore(Protocol):
    """Accepts runs and events; knows which claims and cooldowns are taken."""

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        """Which of the trigger's claims are taken by a waiting event or, unless expired, by a live or completed run.

        `at` replaces the store's own time (for a virtual clock).
        """

    async def cooling(self, trigger: str, *, at: float) -> Mapping[str, Refusal]:
        """The trigger's cooldown keys that are taken at this time."""

    def accept(self, batch: Acceptance) -> Awaitable[Mapping[str, Refusal]]:
        """Store the batch. Returns the refused runs and waiting events by id; everything else is stored.

        Claims and cooldowns are taken in the same transaction: of two runs with one claim, exactly one is accepted.
        Waiting events take their claims too; the claims of released ones are free for runs of the same batch. A run is
        refused for a claim of its members as for its own. Events that would leave with a run whose values cannot be
        stored keep waiting, so that none is lost.
        """

    async def waiting(self, triggers: Sequence[str]) -> Sequence[WaitingEvent]:
        """These triggers' waiting events, oldest first."""


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
        """Begin an attempt of a waiting run; the attempt is counted before it runs. Always takes the cooldown."""

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
        """End an attempt. With `retry_at` the run waits until then. Durable as with `append`."""

    async def load(self, run_id: str) -> StoredRun | None:
        """The run with its records; None if the id is unknown."""


class DecisionStore(LeasedStore, IntakeStore, JournalStore, Protocol):
    """The part that deciding events and executing runs needs."""

    url: str
    traits: ClassVar[StoreTraits]


class DeadLetterStore(Protocol):
    """Keeps dead letters until they are settled, then for their retention."""

    async def letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        """The open dead letters with these ids, in their original order."""

    async def letters_after(self, number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
        """Dead letters after `number`, open or settled, in order of arrival, each with its number."""

    async def settle_letters(self, ids: Sequence[str], state: str, reason: str) -> int:
        """Mark open dead letters as `redriven` or `discarded`; returns how many were open."""


class OutboxStore(Protocol):
    """Keeps publications until a broker has them. Refused ones are parked and not published."""

    async def publications(self, limit: int) -> Sequence[tuple[int, Publication]]:
        """This owner's pending publications, oldest first, each with its number."""

    async def published(self, numbers: Sequence[int]) -> None:
        """Remove publications that the broker has."""

    async def park_refused(self, refused: Sequence[tuple[int, DeadLetter]]) -> None:
        """Park refused publications, given by number, and keep their dead letters.

        A dead letter's event has the publication's id.
        """

    async def park_behind(self, rows: Sequence[tuple[int, str]]) -> Collection[str]:
        """Park those of these publications (number, run) whose run has a parked one; returns these runs."""

    async def parked_runs(self) -> Collection[str]:
        """The runs with a parked refused publication."""

    async def settle_refused(
        self, ids: Sequence[str], state: str, reason: str, *, payloads: Mapping[str, bytes] | None = None
    ) -> Collection[str]:
        """Settle those of these open dead letters that belong to parked publications; returns their ids.

        A `redriven` publication becomes pending for this owner, with its new payload in `payloads` if given (by dead
        letter id); a `discarded` one is dropped. The publications parked behind either become pending.
        """


class ViewStore(Protocol):
    """Reads without an owner, also while the store is closed, without waiting for its writes."""

    def revisions(self, saga: str, newest: int | None = None) -> Sequence[RevisionRow]:
        """Oldest first; all, or the `newest` N."""

    def run(self, run_id: str) -> StoredRun | None:
        """The same as `load`."""

    def about(
        self, event_id: str, claims: Collection[str], run_ids: Collection[str] = (), *, everywhere: bool = False
    ) -> tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]]:
        """The event's rows of "outcomes", and the rows of "runs" named by these or by `run_ids`.

        Includes runs with one of these claims, and runs with the event's id among the newest few thousand (with
        `everywhere`, among all). A run that left a dead letter has the dead letter's error.
        """

    def rows(
        self, frame: str, limit: int | None, *, before: str | None = None, status: str | None = None
    ) -> tuple[Sequence[str], Sequence[Sequence[Any]]]:
        """Columns and rows of "runs", "steps", "outcomes", "dead_letters", "causes", "events" or pending
        "publications", newest first; or of "claims", the number taken by runs per trigger.

        "dead_letters" has open ones only, older than `before` if given; "causes" counts them by cause, the most
        frequent first. `status` filters "runs".
        """


class Store(DecisionStore, DeadLetterStore, OutboxStore, ViewStore, Protocol):
    """Keeps runs, claims, dead letters, revisions and positions. All writes are fenced by the owner's lease.

    Every method raises `StoreUnavailable` if the store cannot answer and `LeaseLost` once another owner has taken
    over. What a method changes, it changes in one transaction. Times are seconds since the epoch.

    No claim, key, counted reason or name of a position that it is given exceeds 1,600 bytes of UTF-8 and a few
    characters of a mark before it; no name of a saga or trigger and no id of a run exceeds 1,000.

    A store may have `run_logs`, with `write(run_id, text)` and `read(run_id)` from any thread, to keep the logs of runs
    for as long as the runs; without it a log is gone with its process.
    """

    async def open(self, owner_name: str) -> Owner:
        """Create the schema if missing and take a lease. Raises `StoreTooNew`, `StoreUnavailable`."""

    async def close(self) -> None:
        """Write what is queued and release the lease. Idempotent."""

    async def put_clock_right(self, now: float) -> tuple[float, Mapping[str, int]]:
        """Shorten what a fast clock left in the future, so that each lasts its own length from `now`.

        Concerns cooldowns and claims of runs started after `now`, and events that have waited since after `now`. Such
        a run is moved as if it had ended (if live: started) now. Returns how many seconds the clock was ahead and how
        many of each kind were changed.
        """

    async def own_triggers(self, names: Sequence[str]) -> float | None:
        """Make this owner run exactly these triggers. Raises `TriggersOwned` naming a live owner.

        This fences off owners whose lease has ended: they can write nothing more. Returns how many seconds ago, to a
        few seconds, any of the triggers was last run by any owner; None if never.
        """

    async def left_waiting(self) -> Mapping[str, int]:
        """The number of waiting events by trigger, without the triggers of other live owners.

        An unreadable name appears as its `repr`.
        """

    async def interrupted(self, choose: Choose | None = None) -> Sequence[StoredRun]:
        """Take over the live and `needs_code` runs of owners whose lease has ended, and fence these off; oldest first.

        Runs not selected by `choose` remain for a later call of any owner, or for `adopt`.
        """

    async def adopt(self, run_id: str) -> bool:
        """Make an ended or held run live again under this owner. False if another live owner has it."""

    async def forget(self, trigger: str, key: str | None = None) -> int:
        """Free one claim or cooldown, or all of the trigger; returns how many. Waiting events keep waiting."""

    async def save_revision(self, row: RevisionRow) -> bool:
        """Save a revision. False if its number is taken by one with another digest, which stays."""

    def positions(self) -> Positions: ...


class Codec(Protocol):
    """Writes values of certain types to files of one format."""

    name: str
    suffix: str

    def accepts(self, value: Any) -> bool: ...

    def dump(self, value: Any, path: Path) -> None: ...

    def load(self, path: Path) -> Any: ...
