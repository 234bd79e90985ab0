"""What a batch takes from one trigger's gates, and how it is undone; the verdicts of gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.model.run import OutcomeKind
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.window_policies import IN_WINDOW, Closing


class Verdict(NamedTuple):
    """A gate's verdict on an event.

    If the store refuses the run `run_id` of the same batch, the verdict is void and the event is decided again. `error`
    is the dead letter's.
    """

    kind: OutcomeKind
    reason: str
    facts: Mapping[str, Any] | None = None
    run_id: str | None = None
    error: Exception | None = None


WAITS_IN_WINDOW = Verdict(OutcomeKind.WAITING, IN_WINDOW)


class Left(NamedTuple):
    """A waiting event or queued run that will start nothing. `stored`: the store has had it since before this batch."""

    waited: WaitingEvent | PendingRun
    verdict: Verdict
    stored: bool


class ClaimPort(Protocol):
    """Who holds which claim, answered at once: from the store's answer for the batch, else from memory."""

    def __contains__(self, claim: object, /) -> bool: ...

    def take(self, run: PendingRun) -> None:
        """The run holds the claims of its events."""

    def wait(self, event: WaitingEvent) -> None:
        """An event that waits in its window holds its claims."""

    def leave(self, event: WaitingEvent | PendingRun, *, spent: bool) -> None:
        """A waiting event or run gives up its claims; if `spent`, its id stays claimed."""


class Savepoint(NamedTuple):
    """A moment within a batch."""

    undone: int
    lists: Sequence[list[Any]]
    dicts: Sequence[dict[str, Any]]


class Reservation:
    """What a batch took from one trigger's gates: kept once the batch is stored, else rolled back.

    `starts` are its runs by id, running or queued; `waiting` are its events that stay in windows, and `left` those that
    no longer wait. `closed` are windows to be decided before anything else. `replaced` pairs runs of `starts` with the
    live ones that make room for them.
    """

    __slots__ = ("_undo", "claims", "closed", "left", "replaced", "starts", "waiting")

    def __init__(self, claims: ClaimPort) -> None:
        self.claims = claims
        self.starts: dict[str, PendingRun] = {}
        self.waiting: dict[str, WaitingEvent] = {}
        self.left: list[Left] = []
        self.closed: list[Closing] = []
        self.replaced: list[tuple[str, str]] = []
        self._undo: list[tuple[Callable[..., object], tuple[Any, ...]]] = []

    def undo_by(self, undo: Callable[..., object], *args: Any) -> None:
        """Register a call for the rollback."""
        self._undo.append((undo, args))

    def savepoint(self) -> Savepoint:
        """The moment to which `rollback` can return."""
        lists, dicts = (self.left, self.closed, self.replaced), (self.starts, self.waiting)
        return Savepoint(len(self._undo), [list(it) for it in lists], [dict(it) for it in dicts])

    def rollback(self, to: Savepoint | None = None) -> None:
        """The batch was not stored: restore the gates, or only what was taken after the savepoint."""
        undone = 0 if to is None else to.undone
        while len(self._undo) > undone:
            undo, args = self._undo.pop()
            undo(*args)
        if to is not None:
            self.left[:], self.closed[:], self.replaced[:] = to.lists
            self.starts.clear()
            self.starts.update(to.dicts[0])
            self.waiting.clear()
            self.waiting.update(to.dicts[1])
