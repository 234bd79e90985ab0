"""Whether a run may start now: slots, keys and rate. What may not waits in order, within a bound."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sagaz_lab.abc import NewRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import History, Outcome, RunStatus
from sagaz_lab.model.trigger import Gates

CONCURRENCY = 100
"""Runs of a trigger at one time unless `max_concurrent_sagas` says otherwise: a flood must not exhaust the process."""


_WAITING = RunStatus.WAITING


class Ticket(NewRun):
    """A run on its way in: accepted by the store, started when it is its turn.

    `final` is resolved when it has started or never will. A ticket of attempt 1 that waits has not started yet.
    """

    __slots__ = ("attempt", "compensate_only", "final", "history", "key")

    def __init__(
        self,
        run_id: str,
        saga: str,
        trigger: str | None,
        revision: int,
        event: Event | None,
        context: Mapping[str, Any],
        at: float,
        key: str | None = None,
        claim: str | None = None,
        claim_until: float | None = None,
    ) -> None:
        self.run_id = run_id
        self.saga = saga
        self.trigger = trigger
        self.revision = revision
        self.event = event
        self.context = context
        self.at = at
        self.status = _WAITING
        self.claim = claim
        self.claim_until = claim_until
        self.started: Sequence[str] = ()
        self.key = key
        self.attempt = 1
        self.history: History | None = None
        self.compensate_only = False
        self.final: Future[Outcome] | None = None


class Admission:
    """One trigger's. Runs of one key start one at a time, first in first out; the keys take turns.

    `waiting` counts what waits, `coming` what will as soon as the store has it.
    """

    __slots__ = (
        "_busy",
        "_interval_s",
        "_opens_at",
        "_turns",
        "coming",
        "in_flight",
        "limit",
        "queues",
        "size",
        "waiting",
    )

    def __init__(self, gates: Gates, queue_size: int, *, in_turn: bool = False) -> None:
        self.queues: dict[str | None, deque[Ticket]] = {}
        self._turns: deque[str | None] = deque()
        self._busy: set[str] = set()
        self._opens_at = 0.0
        self.in_flight = 0
        self.waiting = 0
        self.coming = 0
        self.configure(gates, queue_size, in_turn=in_turn)

    def configure(self, gates: Gates, queue_size: int, *, in_turn: bool = False) -> None:
        """Take over changed options; what waits goes on waiting. `in_turn`: one run at a time."""
        rate = gates.rate_limit_per_second
        self.limit = 1 if in_turn else gates.max_concurrent_sagas or CONCURRENCY
        self.size = queue_size
        self._interval_s = 1.0 / rate if rate else 0.0

    def free(self) -> int:
        """How many events may be taken in now: as many as can start, else as many as can wait."""
        slots = self.limit - self.in_flight
        if slots > 0 and not self.waiting:
            return slots if not self._interval_s else min(slots, self.size)
        return self.size - self.waiting

    def full(self) -> bool:
        return self.waiting >= self.size

    def enter(self, key: str | None, now: float) -> bool:
        """True if a run with this key may start now; it then has its slot."""
        if self.in_flight >= self.limit or ((self.waiting or self.coming) and not key) or now < self._opens_at:
            return False
        if key is not None:
            if key in self._busy or self.queues.get(key) or (self.waiting and self._interval_s):
                return False
            self._busy.add(key)
        self.in_flight += 1
        if self._interval_s:
            self._opens_at = max(now, self._opens_at) + self._interval_s
        return True

    def occupy(self, key: str | None) -> None:
        """A run that was started elsewhere goes on here."""
        self.in_flight += 1
        if key is not None:
            self._busy.add(key)

    def wait(self, ticket: Ticket, *, first: bool = False) -> None:
        """Queue it; `first` puts it before all others of its key."""
        queue = self.queues.get(ticket.key)
        if queue is None:
            queue = self.queues[ticket.key] = deque()
            self._turns.append(ticket.key)
        if first:
            queue.appendleft(ticket)
        else:
            queue.append(ticket)
        self.waiting += 1

    def drop_oldest(self) -> Ticket | None:
        """Take the one that has waited longest for its first start out of the queue."""
        for key in list(self._turns):
            queue = self.queues[key]
            if queue and queue[0].attempt == 1:
                ticket = queue.popleft()
                self.waiting -= 1
                if not queue:
                    del self.queues[key]
                    self._turns.remove(key)
                return ticket
        return None

    def next(self, now: float) -> Ticket | None:
        """The next one that may start, with its slot; None if none may."""
        if not self.waiting or self.in_flight >= self.limit or now < self._opens_at:
            return None
        for _ in range(len(self._turns)):
            key = self._turns[0]
            self._turns.rotate(-1)
            queue = self.queues[key]
            if key is not None and key in self._busy:
                continue
            ticket = queue.popleft()
            self.waiting -= 1
            if not queue:
                del self.queues[key]
                self._turns.pop()  # it has just been turned to the end
            if key is not None:
                self._busy.add(key)
            self.in_flight += 1
            if self._interval_s:
                self._opens_at = max(now, self._opens_at) + self._interval_s
            return ticket
        return None

    def leave(self, key: str | None, *, keep_turn: bool = False) -> None:
        """A run has ended and gives its slot back; with `keep_turn` its key stays taken (it waits for its retry)."""
        self.in_flight -= 1
        if key is not None and not keep_turn:
            self._busy.discard(key)

    def reenter(self, ticket: Ticket) -> None:
        """A retry is due: it goes before all others of its key, whose turn it has kept."""
        if ticket.key is not None:
            self._busy.discard(ticket.key)
        self.wait(ticket, first=True)

    def opens_in(self, now: float) -> float | None:
        """Seconds until the rate lets the next waiting run start; None if something else must happen first."""
        if not self.waiting or self.in_flight >= self.limit or not self._interval_s:
            return None
        return max(0.0, self._opens_at - now)

    def verdicts(self, key: str | None, now: float) -> list[tuple[str, str, str]]:
        """What each gate would say to a run with this key: (gate, verdict, numbers)."""
        full = self.in_flight >= self.limit
        found = [("concurrency", "wait" if full else "pass", f"{self.in_flight} of {self.limit} slots used")]
        if key is not None:
            busy = key in self._busy
            queued = len(self.queues.get(key, ()))
            found.append(
                (
                    "concurrency key",
                    "wait" if busy or queued else "pass",
                    f"{key!r}: {int(busy)} running, {queued} waiting",
                )
            )
        if self._interval_s:
            wait_s = self._opens_at - now
            numbers = f"opens in {wait_s:.3f} s" if wait_s > 0 else "open"
            found.append(("rate", "wait" if wait_s > 0 else "pass", f"{1 / self._interval_s:g} a second, {numbers}"))
        if self.waiting:
            found.append(("queue", "wait", f"{self.waiting} of {self.size} places taken"))
        return found
