"""The data of a dashboard: a Lab's current state and its last minutes as series."""

from __future__ import annotations

import asyncio
import math
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from sagaz_lab.errors import StoreError, describe
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import LIVE, Record, RunStatus
from sagaz_lab.notebook import dag
from sagaz_lab.notebook.markup import shortened
from sagaz_lab.notebook.sliders import slider
from sagaz_lab.runtime.gates.admission import CONCURRENCY
from sagaz_lab.runtime.runs.run_view import steps_of
from sagaz_lab.runtime.status import RunProgress, SourceStatus, Status, TriggerStatus
from sagaz_lab.texts import masked_address

POINTS = 300
"""Points kept per series, one a second."""

RATES_OVER_S = 5.0
RUNS, HELD_RUNS, REASONS, CAUSES, REVISIONS, WARNINGS = 12, 20, 12, 50, 20, 5
TEXT = 300
"""Maximum length of an error or a reason."""

LOOKED_THROUGH = 1000
"""Newest runs searched for those that need a person."""

FIELDS = ("received", "filtered", "started", "completed", "dead", "lag_s")
TOTALS = FIELDS[:4]
INTERRUPTED = "interrupted"
"""The shown status of a crashed process's run that the start did not resume."""

_UNKNOWN = (math.nan,) * len(FIELDS)
_STUCK = (RunStatus.HELD, RunStatus.PARTIALLY_COMMITTED, RunStatus.COMPENSATION_FAILED)
T = TypeVar("T")
Numbers = tuple[float, ...]
State = dict[str, Any]


class Point(NamedTuple):
    """Each trigger's counts at a moment and its rates since the previous point: see `FIELDS`."""

    at: float
    counts: Mapping[str, Numbers]
    rates: Mapping[str, Numbers]


class Feed:
    """Use it on the Lab's loop, except `series` and `totals`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._points: deque[Point] = deque(maxlen=POINTS + 1)
        self._actions: dict[str, list[State]] = {}
        self._held: list[State] = []
        self._letters: State = {"open": 0, "causes": []}
        self._sagas: list[State] = []
        self._sagas_of: object = None
        self._ended = -1
        self._unread = ""

    async def now(self, *, sample: bool, look: bool, refresh: bool) -> State:
        """The current state, after adding a point (`sample`) and reading the store (`look`) if due."""
        status = self._lab.status()
        if sample and self._lab.is_open:
            self._sample(status)
        if (look or refresh) and self._lab.is_open:
            try:
                await self._look(status, refresh=refresh)
                self._unread = ""
            except StoreError as error:
                if (told := describe(error)) != self._unread:
                    self._unread = told
                    self._lab.report("dashboard", f"the dashboard shows older data: {told}")
        return self._state(status)

    # --- series ---

    def _sample(self, status: Status) -> None:
        """Add a point to the series."""
        now, counts = self._lab.clock.now(), {t.name: _numbers(t) for t in status.triggers}
        before = self._points[-1] if self._points else Point(now, counts, {})
        rates = {name: _rates(before, now, name, numbers) for name, numbers in counts.items()}
        self._points.append(Point(now, counts, rates))

    @property
    def newest(self) -> float:
        return self._points[-1].at if self._points else 0.0

    def series(self, after: float = 0.0) -> tuple[State, bytes]:
        """The points after this time with their numbers: per point its time, then each trigger's fields."""
        triggers = list(self._points[-1].counts) if self._points else []
        t0, count = self._points[0].at if self._points else 0.0, 0
        numbers = array("f")
        for point in islice(self._points, 1, None):  # the first only serves to compute the second's rates
            if point.at > after:
                numbers.append(point.at - t0)
                for name in triggers:
                    numbers.extend(point.rates.get(name, _UNKNOWN))
                count += 1
        return {"t0": t0, "triggers": triggers, "fields": FIELDS, "points": count}, numbers.tobytes()

    def totals(self) -> dict[str, list[float]]:
        """The total rates of all triggers: the times as `at`, then received, filtered and so on."""
        found: dict[str, list[float]] = {"at": [], **{name: [] for name in TOTALS}}
        for point in islice(self._points, 1, None):
            found["at"].append(point.at)
            for n, name in enumerate(TOTALS):
                found[name].append(sum(of_one[n] for of_one in point.rates.values()))
        return found

    def _rates_now(self) -> Callable[[TriggerStatus], State]:
        """Returns a function from a trigger to its rates over the last seconds."""
        now = self._lab.clock.now()
        since = next((point for point in reversed(self._points) if point.at <= now - RATES_OVER_S), None)
        since = since or (self._points[0] if self._points else Point(now, {}, {}))

        def rates(trigger: TriggerStatus) -> State:
            found = _rates(since, now, trigger.name, _numbers(trigger))
            return {name: round(rate, 3) for name, rate in zip(TOTALS, found, strict=False)}

        return rates

    # --- state ---

    def _state(self, status: Status) -> State:
        """The current state, for JSON. Unchanged `sagas` and `letters` are the same objects."""
        rates = self._rates_now()
        self._renew_sagas()
        return {
            "now": self._lab.clock.now(),
            "lab": _lab(self._lab, status),
            "triggers": [{**_trigger(trigger), "rates": rates(trigger)} for trigger in status.triggers],
            "sources": [_source(source) for source in status.sources],
            "runs": [_run(run, self._actions.get(run.run_id)) for run in _first(status.runs)],
            "more_runs": max(0, len(status.runs) - RUNS),
            "held_runs": self._held,
            "sagas": self._sagas,
            "letters": self._letters,
        }

    async def _look(self, status: Status, *, refresh: bool) -> None:
        """Read the actions of live runs and, if a run has ended or `refresh`, the runs that need a person."""
        lab = self._lab
        runs = list(_first(status.runs))
        stored = await self._read(lambda: {run.run_id: lab.store.run(run.run_id) for run in runs})
        actions = {}
        for run in runs:
            if (kept := stored[run.run_id]) is not None:
                actions[run.run_id] = self._gantt(run, kept.records)
        self._actions = actions
        ended = sum(t.counts["dead"] + sum(n for how, n in t.ends.items() if how != "completed")
                    for t in status.triggers)  # fmt: skip
        if refresh or ended != self._ended:
            self._ended = ended
            await self._read_what_failed(status)

    async def _read_what_failed(self, status: Status) -> None:
        store = self._lab.store
        columns, rows = await self._read(lambda: store.rows("causes", CAUSES))
        causes = [dict(zip(columns, row, strict=True)) for row in rows]
        for cause in causes:
            cause["error"] = shortened(cause["error"] or "", TEXT)
        letters = {"open": sum(cause["count"] for cause in causes), "causes": causes}
        if letters != self._letters:
            self._letters = letters
        names, found = await self._read(lambda: store.rows("runs", LOOKED_THROUGH))
        runs = [dict(zip(names, row, strict=True)) for row in found]
        left = status.away.left if status.away is not None else {}
        live = {run.run_id for run in status.runs}
        for run in runs:
            if run["run_id"] in left and run["status"] in LIVE and run["run_id"] not in live:
                run["status"] = INTERRUPTED
        stuck = [run for run in runs if run["status"] in (*_STUCK, INTERRUPTED)][:HELD_RUNS]
        stored = await self._read(lambda: [store.run(run["run_id"]) for run in stuck])
        self._held = [_held(run, kept.records if kept else ()) for run, kept in zip(stuck, stored, strict=True)]

    async def _read(self, read: Callable[[], T]) -> T:
        """Read in a worker thread if the store allows it."""
        return await asyncio.to_thread(read) if self._lab.store.traits.any_thread else read()

    def _gantt(self, run: RunProgress, records: Iterable[Record]) -> list[State]:
        """The run's steps in action order; those not begun are waiting."""
        definition = self._lab.registry.past(run.saga).get(run.revision)
        order = definition.plan.order if definition else ()
        steps = [step for step in steps_of(records) if step.attempt == run.attempt]
        found: list[State] = []
        for step in steps:
            start = step.started_at - run.started_at
            end = None if step.duration_s is None else start + step.duration_s
            found.append({"name": step.action, "kind": step.kind, "state": step.status.replace("_", " "),
                          "start": start, "end": end})  # fmt: skip
        begun = {step.action for step in steps}
        found += [{"name": name, "kind": "action", "state": "waiting", "start": None, "end": None}
                  for name in order if name not in begun]  # fmt: skip
        return found

    def _renew_sagas(self) -> None:
        registry = self._lab.registry
        if self._sagas_of is not registry.current:
            self._sagas_of = registry.current
            self._sagas = [
                {"name": name, "revision": saga.revision, "svg": dag.svg(saga), "revisions": self._revisions(name)}
                for name, saga in registry.current.items()
            ]

    def _revisions(self, saga: str) -> list[State]:
        current, past = self._lab.registry.current[saga].revision, self._lab.registry.past(saga)
        at = {row.number: row.at for row in self._lab.registry.stored(saga)}
        at.update((number, definition.registered_at) for number, definition in past.items())
        return [{"number": number, "at": at[number], "current": number == current, "kept": number in past}
                for number in sorted(at, reverse=True)[:REVISIONS]]  # fmt: skip


def _numbers(trigger: TriggerStatus) -> Numbers:
    counts = trigger.counts
    lag_s = math.nan if trigger.lag_s is None else trigger.lag_s
    return (counts["received"], counts["filtered"], counts["started"], trigger.ends.get("completed", 0),
            counts["dead"], lag_s)  # fmt: skip


def _rates(before: Point, now: float, trigger: str, here: Numbers) -> Numbers:
    """Rates per second; a new trigger, or one whose counts restarted, begins at zero."""
    there = before.counts.get(trigger, here)
    took_s = max(now - before.at, 0.001)
    return (*(max(0.0, (now - then) / took_s) for now, then in zip(here[:-1], there[:-1], strict=True)), here[-1])


def _first(runs: Sequence[RunProgress]) -> Iterable[RunProgress]:
    """The oldest runs."""
    return islice(runs, RUNS)


def _lab(lab: Lab, status: Status) -> State:
    warnings = [shortened(" ".join(warning.split()), TEXT) for warning in status.warnings[-WARNINGS:]]
    away = status.away if status.away is not None and status.away.is_worth_reporting else None
    told = None if away is None else [away.headline(), *away.lines()]
    here = masked_address(lab.store.url).replace(f"{os.getcwd()}{os.sep}", "")
    return {"store": here, "started": status.started, "isolated": status.isolated, "live": len(status.runs),
            "away": told, "warnings": warnings}  # fmt: skip


def _trigger(trigger: TriggerStatus) -> State:
    queue, limits = trigger.queue, trigger.limits
    reasons = sorted(trigger.reasons.items(), key=lambda item: -item[1])[:REASONS]
    (concurrency, written), rate = limits["max_concurrent_sagas"], limits["rate_limit_per_second"]
    return {
        "name": trigger.name, "saga": trigger.saga, "source": trigger.source, "state": trigger.state,
        "revision": trigger.revision, "counts": dict(trigger.counts), "ends": _ends(trigger.ends),
        "resumed": trigger.resumed,
        "reasons": [(kind, shortened(reason, TEXT), times) for (kind, reason), times in reasons],
        "in_flight": trigger.running, "lag_s": trigger.lag_s,
        "queue": {"waiting": queue.waiting, "size": queue.size, "strategy": queue.strategy, "blocking": queue.blocking,
                  "blocked_s": round(queue.blocked_s, 1)},
        "limits": {"rate_limit_per_second": {"value": rate[0], "default": rate[1]},
                   "max_concurrent_sagas": {"value": concurrency or CONCURRENCY, "default": written or CONCURRENCY}},
        "params": [{"name": name, "value": value, "default": default,
                    "range": slider(value, default, trigger.ranges.get(name))}
                   for name, (value, default) in trigger.params.items()],
    }  # fmt: skip


def _held(run: State, records: Iterable[Record]) -> State:
    """Add the first failed action."""
    failed = next((step.action for step in steps_of(records) if step.attempt == run["attempt"] and step.error), "")
    facts = {name: run[name] for name in ("run_id", "saga", "revision", "status")}
    return {**facts, "error": shortened(run["error"] or "", TEXT), "failed": failed}


def _ends(ends: Mapping[str, int]) -> State:
    return {"retried" if how == RunStatus.WAITING else str(how): times for how, times in ends.items()}


def _source(source: SourceStatus) -> State:
    return {"name": source.name, "state": source.state, "since": source.since, "received": source.received,
            "error": shortened(source.error, TEXT), "read_by": list(source.read_by)}  # fmt: skip


def _run(run: RunProgress, actions: Sequence[State] | None) -> State:
    """The actions as last read, with the current progress of live ones."""
    by_name = {(it["kind"], it["name"]): dict(it) for it in actions or ()}  # the last trial of each
    known = {name for (_, name), action in by_name.items() if action["end"] is None and action["state"] != "waiting"}
    for name in run.actions:
        if name not in known:  # begun since the last read
            done = by_name.get(("action", name), {}).get("state") == "completed"
            kind = "compensation" if done else "action"
            now: State = {"name": name, "kind": kind, "state": "running", "start": None, "end": None}
            by_name[kind, name] = now
    shown = list(by_name.values())
    for action in shown:
        told = run.actions.get(action["name"]) if action["end"] is None else None
        action["note"] = told if told and told != "running" else ""
        action["progress"] = run.parts.get(action["name"]) if action["end"] is None else None
    return {"run_id": run.run_id, "saga": run.saga, "revision": run.revision, "trigger": run.trigger,
            "attempt": run.attempt, "status": "running", "started_at": run.started_at, "actions": shown}  # fmt: skip
