"""Pending runs."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Mapping, Sequence
from contextvars import Context
from types import MappingProxyType
from typing import Any

from sagaz_lab.abc import NewRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import History, Outcome, RunStatus

NOTHING: Mapping[str, Any] = MappingProxyType({})


class PendingRun(NewRun, eq=False):
    """A run that the store is to accept or has accepted, and that starts in its turn.

    `key` is its concurrency key, `pace_key` the key of its rate or throttle; `behind` is the next run in its lane, and
    `place` its order of arrival among all that wait. It `has_outcome` when it has started or never will, and `final`,
    if anything awaits it, is resolved. A waiting run of attempt 1 has not started yet. `hold`: it is held on failure,
    whatever its saga says. If `event` is a window's list, `alone` is the last event by itself, like its `members`; None
    if only the store has them. `origin` is the context in which a run that waits will execute; None if it comes from
    the store.
    """

    status: RunStatus = RunStatus.WAITING
    key: str | None = None
    pace_key: str | None = None
    attempt: int = 1
    compensate_only: bool = False
    hold: bool = False
    behind: PendingRun | None = None
    place: int = 0
    history: History | None = None
    final: Future[Outcome] | None = None
    has_outcome: bool = False
    left_id: str = ""
    alone: Event | None = None
    origin: Context | None = None

    @property
    def event_id(self) -> str:
        return self.left_id if self.event is None else self.event.id

    @property
    def size(self) -> int:
        """Number of events that started it."""
        return 1 + len(self.members)

    def events(self) -> Sequence[Event]:
        """The single events that started it, as far as they are in memory."""
        return [event for event, _ in self.claimed()]

    def claimed(self) -> Sequence[tuple[Event, str | None]]:
        """`events`, each with the claim of its id."""
        last = self.alone or self.event
        own = [] if last is None else [(last, self.claim)]
        return [*((member.event, member.claim) for member in self.members), *own]

    def leave_to_store(self) -> None:
        """Keep only what the queue needs; the store has the event and the context."""
        if self.event is not None and self.alone is None:
            self.left_id = self.event.id
            self.event = None
            self.context = NOTHING

    @property
    def queued(self) -> bool:
        """Whether it stands in a lane."""
        return self.behind is not None

    @property
    def left(self) -> bool:
        return self.event is None and bool(self.left_id)
