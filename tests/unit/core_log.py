"""A log of inputs, played into the core by a plain loop: no store, no clock, no task."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sagaz_lab.abc import Refusal, WaitingEvent
from sagaz_lab.model.event import Event
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import RunStatus
from sagaz_lab.model.trigger import Gates
from sagaz_lab.runtime.gates.admission import Slots
from sagaz_lab.runtime.gates.core import Core, Rules
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.reservation import WAITS_IN_WINDOW, Left, Reservation, Verdict
from sagaz_lab.runtime.gates.window_policies import Closing, Policy

DAY_S = 86400.0
_AT = datetime(2026, 1, 1, tzinfo=UTC)


class KeptClaims(dict[str, Refusal | str]):
    """Claims that are never forgotten, but for those of declared keys whose run has failed."""

    def take(self, run: PendingRun) -> None:
        for claim in _claims(run):
            self[claim] = run.run_id

    def wait(self, event: WaitingEvent) -> None:
        for claim in _claims(event):
            self[claim] = event.id

    def leave(self, event: WaitingEvent | PendingRun, *, spent: bool) -> None:
        if event.claim is not None:
            if spent:
                self[event.claim] = Refusal(spent=True)
            else:
                self.pop(event.claim, None)
        if event.declared is not None:
            self.pop(event.declared, None)


def _claims(one: WaitingEvent | PendingRun) -> list[str]:
    members = one.members if isinstance(one, PendingRun) else ()
    found = [one.claim, one.declared, *(claim for it in members for claim in (it.claim, it.declared))]
    return [claim for claim in found if claim is not None]


class Arrives(NamedTuple):
    """An event. `keep` is what the trigger method would say."""

    at: float
    id: str
    key: str
    part: int = 0
    keep: bool = True


class Ends(NamedTuple):
    """The run ends that has lived longest, if one does; where it fails its declared key is free again."""

    at: float
    fails: bool = False


Input = Arrives | Ends


class Player:
    """Plays inputs; `outcomes` has (moment, event id, outcome, reason) in the order in which they were decided."""

    def __init__(self, gates: Gates, policy: Policy | None = None, config: TriggerConfig | None = None) -> None:
        config = config or TriggerConfig()
        cooldown_s = None if gates.cooldown is None else float(gates.cooldown)  # type: ignore[arg-type]
        self._keyed = gates.concurrency_key is not None or gates.singleton is not None
        rules = Rules("t", gates, policy, cooldown_s, None, config.queue_size, config.backpressure_strategy)
        self.core = Core(rules, Slots())
        self.claims = KeptClaims()
        self.batch = Reservation(self.claims)
        self.live: deque[PendingRun] = deque()
        self.outcomes: list[tuple[float, str, str, str]] = []
        self.now = 0.0
        self._number = 0

    def play(self, log: Iterable[Input]) -> None:
        for one in log:
            self.until(one.at)
            if isinstance(one, Ends):
                self._end(one)
            else:
                self._arrive(one)

    def until(self, at: float) -> None:
        """What is due comes before an input of the same moment."""
        while (due_at := self.core.next_due()) is not None and due_at <= at:
            self._due(max(due_at, self.now))
        self.now = at

    def commit(self, refused: Sequence[str] = ()) -> None:
        """The store has what was decided since the last time."""
        self.core.commit(self.batch, refused)
        self.batch = Reservation(self.claims)

    def _due(self, now: float) -> None:
        self.now = now
        self._begin()
        self.core.due(self.batch, now)
        self._close()

    def _begin(self) -> None:
        for one in self.core.begins(self.now):
            if isinstance(one, Left):
                assert isinstance(one.waited, PendingRun)
                self._say(one.waited.event_id, one.verdict)
            else:
                one.status = RunStatus.RUNNING
                self.live.append(one)
                self._started(one)

    def _end(self, one: Ends) -> None:
        if self.live:
            run = self.live.popleft()
            if one.fails:
                self.claims.pop(run.declared or "", None)
            self.core.ended(run)
        self._begin()

    def _arrive(self, event: Arrives) -> None:
        claim, declared = event.id, f"\x1f{event.key}" if event.part == 0 and event.key.startswith("d") else None
        if claim in self.claims or declared in self.claims:
            self.outcomes.append((self.now, event.id, "duplicate", ""))
            return
        sent = Event({"keep": event.keep}, event.id, "memory", None, timestamp=_AT)
        waiting = WaitingEvent(self._next("h"), "t", event.key, event.part, sent, claim, self.now, declared)
        if (verdict := self.core.arrive(self.batch, waiting, self.now)) is not None:
            if verdict is not WAITS_IN_WINDOW:
                self._say(event.id, verdict)
            self._close()
            return
        self._decide(sent, event.key, claim, declared)

    def _close(self) -> None:
        """Windows that are due or full, and what left one."""
        while self.batch.closed:
            closing: Closing = self.batch.closed.pop(0)
            for one in closing.events:
                self.claims.leave(one, spent=False)
                self.batch.waiting.pop(one.id, None)
            last = closing.events[-1]
            self._decide(last.event, last.key or "", last.claim, last.declared)
        for left in self.batch.left:
            id = left.waited.event_id if isinstance(left.waited, PendingRun) else left.waited.event.id
            self._say(id, left.verdict)
        self.batch.left = []

    def _decide(self, event: Event, key: str, claim: str | None, declared: str | None) -> None:
        if not event["keep"]:
            self.outcomes.append((self.now, event.id, "filtered", "returned None"))
            return
        run = PendingRun(self._next("r"), "s", "t", 1, event, {}, self.now, True, RunStatus.RUNNING, claim)
        run.declared, run.key, run.pace_key = declared, key if self._keyed else None, key
        if (verdict := self.core.offer(self.batch, run, self.now)) is not None:
            self._say(event.id, verdict)
        elif run.status is RunStatus.RUNNING:
            self.live.append(run)
            self._started(run)
        for _, cancelled in self.batch.replaced:  # its end comes by the log
            assert any(run.run_id == cancelled for run in self.live)
        self.batch.replaced = []
        self._close()

    def _started(self, run: PendingRun) -> None:
        self.outcomes.append((self.now, run.event_id, "started", ""))

    def _say(self, id: str, verdict: Verdict) -> None:
        self.outcomes.append((self.now, id, verdict.kind.value, verdict.reason))

    def _next(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"
