"""A plain model of what a trigger's gates promise: events in, outcomes out.

It has no tasks, no store and no clock: it is told what came and what was seen, each with its time. What is left open by
the promises it leaves open too, as which of several keys is next: a start that was seen is only checked to be allowed,
and `check` says what should have started and has not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sagaz_lab import Batch, Debounce, Throttle, TriggerConfig

EPSILON_S = 1e-6
RETRY_S = 4.0
SPENT_S = 86400.0
"""How long the id of an event stays taken that a later one outdid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a trigger is defined. With `keyed` its runs have a concurrency key."""

    keyed: bool = False
    limit: int | None = None
    rate: float | None = None
    throttle: Throttle | None = None
    cooldown_s: float | None = None
    singleton: Any = None
    window: Debounce | Batch | None = None
    claim: str | None = None
    until: Any = None
    ttl_s: float | None = None
    strategy: Any = "block"
    size: int = 1000
    retries: int = 1

    def options(self) -> dict[str, Any]:
        """The same for `trigger`."""
        is_batch = isinstance(self.window, Batch)
        config = TriggerConfig(max_retries=self.retries, retry_backoff_seconds=(RETRY_S,), queue_size=self.size,
                               backpressure_strategy=self.strategy)  # fmt: skip
        return {
            "concurrency_key": "k" if self.keyed else None,
            "max_concurrent_sagas": self.limit,
            "rate_limit_per_second": self.rate,
            "throttle": self.throttle,
            "cooldown": self.cooldown_s,
            "singleton": self.singleton,
            "debounce": None if is_batch else self.window,
            "batch": self.window if is_batch else None,
            "idempotency_key": self.claim,
            "until": self.until,
            "idempotency_ttl": self.ttl_s,
            "config": config,
        }

    @property
    def interval_s(self) -> float | None:
        if self.throttle is not None:
            return float(self.throttle.per) / self.throttle.limit  # type: ignore[arg-type]
        return None if self.rate is None else 1 / self.rate

    @property
    def reads_a_key(self) -> bool:
        """Whether an event without a key is a dead letter."""
        of_throttle = self.throttle is not None and self.throttle.key is not None
        return (
            self.keyed or self.claim is not None or of_throttle or (self.window is not None and bool(self.window.key))
        )

    @property
    def leads(self) -> bool:
        return isinstance(self.window, Debounce) and self.window.mode == "leading"


class Arrival(NamedTuple):
    """An event that came: `serial` is its own, `id` may be another's too."""

    serial: int
    id: str | None
    key: str
    verdict: str
    at: float


@dataclass(slots=True, eq=False)
class ModelRun:
    """A run: waiting, live, retrying or ended."""

    arrivals: list[Arrival]
    key: str | None
    pace_key: str | None
    state: str = "waiting"
    attempt: int = 1
    due_at: float = 0.0
    started_at: float = -1.0
    begun: bool = False
    doomed: bool = False
    completed: bool = False
    serials: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        self.serials = tuple(arrival.serial for arrival in self.arrivals)


@dataclass(slots=True)
class Claim:
    """Taken by a run, or (None) by an event in its window, a dead letter or (`spent`) nobody; `until` may be far away.

    An id is claimed for good, whatever became of the event.
    """

    run: ModelRun | None
    until: float = float("inf")
    in_window: bool = False


@dataclass(slots=True)
class GateModel:
    """One trigger. `queue` has what waits, each run of a key behind those it must not overtake."""

    name: str
    rules: Rules
    queue: list[ModelRun] = field(default_factory=list)
    runs: list[ModelRun] = field(default_factory=list)
    claims: dict[str, Claim] = field(default_factory=dict)
    windows: dict[str | None, list[Arrival]] = field(default_factory=dict)
    leading: dict[str | None, tuple[float, float]] = field(default_factory=dict)
    cooling: dict[str, float] = field(default_factory=dict)
    starts: list[tuple[float, str | None]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    finals: Counter[tuple[int, str]] = field(default_factory=Counter)
    letters: int = 0

    # --- views ---

    def of(self, *states: str) -> list[ModelRun]:
        return [run for run in self.runs if run.state in states]

    def holding_turn(self, key: str | None) -> ModelRun | None:
        """The run whose turn of the key it is."""
        if key is None:
            return None
        return next((run for run in self.of("live", "retrying") if run.key == key), None)

    def waiting(self) -> int:
        """Places taken: of runs that wait, and of events in windows."""
        return len(self.queue) + sum(len(events) for events in self.windows.values())

    def has_room(self) -> bool:
        """Whether a source that can wait would be asked for more."""
        if self.rules.strategy != "block":
            return True
        if not self.queue and not self.windows and len(self.of("live")) < self._limit():
            return True
        return self.waiting() < self.rules.size

    def _limit(self) -> int:
        return self.rules.limit or 100

    def pace_opens(self, key: str | None) -> float:
        """When the next start is allowed: any n starts in a row take (n - 1 - burst) intervals at least."""
        interval_s = self.rules.interval_s
        if interval_s is None:
            return 0.0
        burst = self.rules.throttle.burst if self.rules.throttle else 0
        mine = [at for at, of in self.starts if of == key]
        return max((at + (len(mine) - i - burst) * interval_s for i, at in enumerate(mine)), default=0.0)

    def hindrance(self, run: ModelRun, at: float) -> str | None:
        """Why this run may not start now."""
        if len(self.of("live")) >= self._limit():
            return "no slot is free"
        if (holder := self.holding_turn(run.key)) is not None and holder is not run:
            return f"it is the turn of {holder.serials}"
        lane = [
            other for other in self.queue if self._lane(other) == self._lane(run) and not self._is_just_due(other, at)
        ]
        if lane and lane[0] is not run and run.attempt == 1:
            return f"{lane[0].serials} is before it"
        if self.pace_opens(run.pace_key) > at + EPSILON_S:
            return "the pace does not let it"
        return None

    @staticmethod
    def _is_just_due(run: ModelRun, at: float) -> bool:
        """A retry that is due at this very moment need not be the first to be told so."""
        return run.state == "retrying" and run.due_at > at - EPSILON_S

    @staticmethod
    def _lane(run: ModelRun) -> str | None:
        return run.key if run.key is not None else run.pace_key

    # --- in ---

    def arrive(self, arrival: Arrival) -> str:
        """The outcome that the event has at once."""
        self.counts["received"] += 1
        if any(self._is_taken(claim, arrival.at) for claim in self._claims_of(arrival)):
            return self._final(arrival, "duplicate")
        if self.rules.leads:
            if not self._opens_period(arrival):
                return self._final(arrival, "filtered")
        elif self.rules.window is not None:
            return self._into_window(arrival)
        return self._decide([arrival], arrival.at)

    def arrive_without_key(self, arrival: Arrival) -> str:
        """An event whose key cannot be read."""
        self.counts["received"] += 1
        return self._final(arrival, "dead")

    def _claims_of(self, arrival: Arrival) -> list[str]:
        """Its id and its declared key, as far as it has them."""
        ids = [] if arrival.id is None else [f"id {arrival.id}"]
        return [*ids, f"key {arrival.key}"] if self.rules.claim else ids

    def _is_taken(self, claim: str, at: float) -> bool:
        holder = self.claims.get(claim)
        if holder is None or holder.until <= at:
            return False
        run = holder.run
        if claim.startswith("id "):
            return True
        return run is None or run.state != "ended" or (run.completed and self.rules.until is None)

    def _give_up_claims(self, arrival: Arrival, spent_until: float | None = None) -> None:
        """Those of an event that does not wait any more. Its id may be spent."""
        for claim in self._claims_of(arrival):
            self.claims.pop(claim, None)
        if spent_until is not None and arrival.id is not None:
            self.claims[f"id {arrival.id}"] = Claim(None, spent_until)

    def _opens_period(self, arrival: Arrival) -> bool:
        policy = self.rules.window
        assert isinstance(policy, Debounce)
        opened, last = self.leading.get(arrival.key, (arrival.at, float("-inf")))
        over = min(opened + policy.max_wait, last + policy.period) <= arrival.at  # type: ignore[operator]
        self.leading[arrival.key] = (arrival.at if over else opened, arrival.at)
        return over

    def _into_window(self, arrival: Arrival) -> str:
        rules, policy = self.rules, self.rules.window
        if self.waiting() >= rules.size:
            if rules.strategy == "reject":
                return self._final(arrival, "dead")
            if rules.strategy == "drop_newest":
                return self._final(arrival, "dropped")
            if rules.strategy == "drop_oldest":
                self._supersede(next(iter(self.windows.values())), 0, "dropped", arrival.at)
                self.windows = {key: events for key, events in self.windows.items() if events}
        self.counts["waiting"] += 1
        for claim in self._claims_of(arrival):
            self.claims[claim] = Claim(None, in_window=True)
        key = arrival.key if policy is not None and policy.key else None
        events = self.windows.setdefault(key, [])
        events.append(arrival)
        if isinstance(policy, Batch):
            if len(events) == policy.max_size:
                return self._close(key, arrival.at)
        elif isinstance(policy, Debounce) and policy.mode == "trailing" and len(events) == 3:
            self._supersede(events, 1, "filtered", arrival.at)
        return "waiting"

    def _supersede(self, events: list[Arrival], place: int, kind: str, at: float) -> None:
        """An event leaves its window without starting anything."""
        gone = events.pop(place)
        self.counts["waiting"] -= 1
        self._give_up_claims(gone, at + SPENT_S)
        self._final(gone, kind)

    def _due_at(self, events: list[Arrival]) -> float:
        policy = self.rules.window
        if isinstance(policy, Batch):
            return events[0].at + policy.timeout  # type: ignore[operator]
        assert policy is not None
        return min(events[-1].at + policy.period, events[0].at + policy.max_wait)  # type: ignore[operator]

    def _close(self, key: str | None, at: float) -> str:
        events = self.windows.pop(key)
        if isinstance(self.rules.window, Debounce) and self.rules.window.mode == "trailing":
            while len(events) > 1:
                self._supersede(events, 0, "filtered", at)
        self.counts["waiting"] -= len(events)
        for arrival in events:
            self._give_up_claims(arrival)
        return self._decide(events, at)

    def _decide(self, arrivals: list[Arrival], at: float) -> str:
        """The trigger method, and what comes after it."""
        last, rules = arrivals[-1], self.rules
        if last.verdict != "start":
            return self._finals(arrivals, {"skip": "filtered", "raise": "dead"}[last.verdict])
        key = last.key if rules.keyed else "*" if rules.singleton else None
        if rules.cooldown_s is not None and self.cooling.get(key or "", at) > at:
            return self._finals(arrivals, "filtered")
        run = ModelRun(arrivals, key, last.key if rules.throttle and rules.throttle.key else None)
        if rules.singleton is not None:
            mine = [other for other in self.of("waiting", "live", "retrying") if other.key == key]
            if mine and rules.singleton != "cancel":
                kind = {"skip": "filtered", "return_existing": "duplicate", "error": "dead"}[rules.singleton]
                return self._finals(arrivals, kind)
        else:
            mine = []
        self.queue.append(run)
        hindrance = self.hindrance(run, at)
        self.queue.remove(run)
        if hindrance is not None and rules.strategy in ("drop_newest", "reject") and self.waiting() >= rules.size:
            return self._finals(arrivals, "dropped" if rules.strategy == "drop_newest" else "dead")
        for other in mine:
            self._make_room(other, at)
        self._accept(run, last, at)
        if hindrance is None:
            self._start(run, at)
            return "started"
        if rules.strategy == "drop_oldest" and self.waiting() >= rules.size:
            oldest = next((other for other in self.runs if other.state == "waiting" and other is not run), None)
            if oldest is not None:
                self.turn_away(oldest, "dropped", at + SPENT_S)
        self.counts["waiting"] += len(arrivals)
        self.queue.append(run)
        return "waiting"

    def _make_room(self, other: ModelRun, at: float) -> None:
        """The latest wins."""
        if other.state == "live":
            other.doomed = True
        elif other.state == "retrying":
            other.state = "ended"
            if other in self.queue:
                self.queue.remove(other)
        else:
            self.turn_away(other, "filtered", at + SPENT_S)

    def _accept(self, run: ModelRun, last: Arrival, at: float) -> None:
        self.runs.append(run)
        until = float("inf") if self.rules.ttl_s is None else at + self.rules.ttl_s
        for arrival in run.arrivals:
            for claim in self._claims_of(arrival):
                self.claims[claim] = Claim(run, float("inf") if claim.startswith("id ") else until)

    def turn_away(self, run: ModelRun, kind: str, spent_until: float | None = None) -> None:
        """A run that waited never starts. Its ids are spent if a later one has taken its place."""
        run.state = "ended"
        self.queue.remove(run)
        self.counts["waiting"] -= len(run.arrivals)
        self._finals(run.arrivals, kind)
        for claim in [claim for claim, holder in self.claims.items() if holder.run is run]:
            if spent_until is not None and claim.startswith("id "):
                self.claims[claim] = Claim(None, spent_until)
            else:
                del self.claims[claim]

    def _final(self, arrival: Arrival, kind: str) -> str:
        self.counts[kind] += 1
        self.finals[arrival.serial, kind] += 1
        self.letters += kind == "dead"
        if kind == "dead" and arrival.id is not None:
            self.claims[f"id {arrival.id}"] = Claim(None)  # the letter's
        return kind

    def _finals(self, arrivals: list[Arrival], kind: str) -> str:
        for arrival in arrivals:
            self._final(arrival, kind)
        return kind

    # --- out ---

    def _start(self, run: ModelRun, at: float) -> None:
        if run.attempt == 1:
            self._finals(run.arrivals, "started")
            if self.rules.cooldown_s is not None:
                self.cooling[run.key or ""] = at + self.rules.cooldown_s
        run.state, run.started_at, run.begun = "live", at, False
        self.starts.append((at, run.pace_key))

    def pass_until(self, at: float) -> None:
        """What happens by itself up to that time."""
        while due := [(self._due_at(events), key) for key, events in self.windows.items()]:
            due_at, key = min(due, key=lambda pair: pair[0])
            if due_at > at + EPSILON_S:
                break
            self._close(key, due_at)
        for run in self.of("retrying"):
            if run.due_at <= at + EPSILON_S and run not in self.queue:
                self._queue_first(run)
        for run in self._ready(at):
            if run.attempt == 1 and self.cooling.get(run.key or "", at) > at:
                self.turn_away(run, "filtered")

    def _queue_first(self, run: ModelRun) -> None:
        """Before all others of its lane; the lanes themselves have no order."""
        self.queue.insert(0, run)

    def _ready(self, at: float) -> Iterator[ModelRun]:
        if self.rules.cooldown_s is None:
            return
        while ready := [run for run in self.queue if self.hindrance(run, at) is None]:
            yield ready[0]
            if ready[0] in self.queue:
                return

    def saw_begin(self, serials: tuple[int, ...], attempt: int, at: float) -> None:
        """An attempt has begun to work."""
        self.pass_until(at)
        run = next((it for it in self.runs if it.serials == serials and it.state != "ended"), None)
        assert run is not None, f"{self.name}: {serials} is no run that may begin"
        if run.state != "live":
            hindrance = self.hindrance(run, at) if run in self.queue else "it is not due"
            assert hindrance is None, f"{self.name}: {serials} has started at {at}, but {hindrance}"
            self.queue.remove(run)
            if run.attempt == 1:
                self.counts["waiting"] -= len(run.arrivals)
            self._start(run, at)
        assert not run.begun, f"{self.name}: {serials} has begun twice"
        assert run.attempt == attempt, f"{self.name}: {serials} began attempt {attempt}, not {run.attempt}"
        assert abs(run.started_at - at) < EPSILON_S, f"{self.name}: {serials} began at {at}, not {run.started_at}"
        run.begun = True

    def end(self, run: ModelRun, how: str, at: float) -> None:
        """It was let go on, or cancelled."""
        if how == "fail" and run.attempt <= self.rules.retries:
            run.state, run.due_at = "retrying", at + RETRY_S
            run.attempt += 1
            return
        run.state, run.completed = "ended", how == "ok"
        self.letters += how in ("fail", "permanent")

    def end_doomed(self) -> None:
        for run in self.of("live"):
            if run.doomed:
                run.state = "ended"

    def forget(self) -> None:
        """All claims but those of events in windows, all cooldowns, the pace and the leading periods."""
        self.claims = {claim: holder for claim, holder in self.claims.items() if holder.in_window}
        self.cooling.clear()
        self.starts.clear()
        self.leading.clear()

    def reopen(self, at: float) -> None:
        """The process has gone and another goes on with what the store has: the counters, the pace and the leading
        periods begin anew."""
        self.counts.clear()
        self.finals.clear()
        self.starts.clear()
        self.leading.clear()
        waiting = len(self.of("waiting")) + sum(len(events) for events in self.windows.values())
        self.counts.update(received=waiting, waiting=waiting)
        for run in self.of("waiting"):
            run.arrivals = run.arrivals[-1:]
        for run in self.of("live"):
            run.begun, run.started_at = False, at

    # --- what must hold when nothing more happens by itself ---

    def check(self, at: float) -> None:
        self.pass_until(at)
        for run in self.queue:
            assert self.hindrance(run, at) is not None, f"{self.name}: {run.serials} waits at {at} for nothing"
        for run in self.of("live"):
            assert run.begun, f"{self.name}: {run.serials} was started and has not begun"
        keys = [run.key for run in self.of("live") if run.key is not None]
        assert len(keys) == len(set(keys)), f"{self.name}: two live runs of one key: {sorted(keys)}"
        assert max(self.finals.values(), default=1) == 1, f"{self.name}: an event has two outcomes"
        final = sum(self.counts[kind] for kind in ("started", "filtered", "duplicate", "dropped", "dead"))
        assert self.counts["received"] == final + self.counts["waiting"], (self.name, self.counts)
