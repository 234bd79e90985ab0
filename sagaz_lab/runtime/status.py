"""The Lab's reports: its status, a preview of an event, the outcome of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sagaz_lab.model.params import Param, Scalar
from sagaz_lab.model.run import Outcome, Run
from sagaz_lab.model.trigger import specs_of
from sagaz_lab.runtime.decisions.preview import GateVerdict, said_by
from sagaz_lab.runtime.intake.pump import Pump
from sagaz_lab.runtime.recovery.start_report import StartReport
from sagaz_lab.runtime.triggers.live_params import LiveParams
from sagaz_lab.runtime.triggers.state import TriggerState


@dataclass(frozen=True, slots=True)
class SourceStatus:
    name: str
    state: str
    since: float
    error: str
    received: int
    read_by: Sequence[str]
    lag_s: float | None
    lost: int = 0
    """Events that the broker had already deleted."""


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """What waits to start, and how it affects its sources. `blocking`: they wait for room now."""

    waiting: int
    size: int
    strategy: str
    blocking: bool
    blocked_s: float


@dataclass(frozen=True, slots=True)
class TriggerStatus:
    """`ends` counts ends of runs by status, `reasons` (outcome, reason) events that started none.

    `resumed` runs were started by an earlier process: started + resumed = running + ends, except those to be retried.
    `params` and `limits` give each one's value and its cell's, `ranges` the bounds of params. `lag_s` is the age of the
    newest event on receipt.
    """

    name: str
    saga: str
    source: str
    state: str
    revision: int
    counts: Mapping[str, int]
    running: int
    ends: Mapping[str, int]
    reasons: Mapping[tuple[str, str], int]
    queue: QueueStatus
    params: Mapping[str, tuple[Scalar, Scalar]]
    limits: Mapping[str, tuple[Scalar, Scalar]]
    lag_s: float | None
    resumed: int = 0
    ranges: Mapping[str, Param] = field(default_factory=dict)

    def __getattr__(self, name: str) -> int:
        try:
            return self.counts[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True, slots=True)
class RunProgress:
    run_id: str
    saga: str
    revision: int
    actions: Mapping[str, str]
    trigger: str | None
    attempt: int
    started_at: float
    parts: Mapping[str, float]
    """Progress by action, as reported by the action."""


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a Lab. `warnings` are the latest problems, newest last; `away` has the findings of the last start.

    `isolated`: the Lab lives on the loop of its own thread.
    """

    started: bool
    sources: Sequence[SourceStatus]
    triggers: Sequence[TriggerStatus]
    runs: Sequence[RunProgress]
    warnings: Sequence[str]
    away: StartReport | None = None
    isolated: bool = False

    @property
    def runs_in_flight(self) -> int:
        return len(self.runs)

    def __repr__(self) -> str:
        sources = ", ".join(f"{s.name} {s.state}" for s in self.sources) or "no source started"
        return f"Status({sources}; {len(self.triggers)} trigger(s), {self.runs_in_flight} run(s) in flight)"


def source_status(pump: Pump, fired: int) -> SourceStatus:
    """`fired` events were fired to it by hand."""
    state = pump.state
    blocking = [s.name for s in pump.states if s.room() == 0 and not s.paused]
    if state == "connected" and blocking:
        state = f"blocked by {', '.join(blocking)}"
    return SourceStatus(
        str(pump.spec),
        state,
        pump.since,
        pump.error,
        pump.received + fired,
        tuple(s.name for s in pump.states),
        pump.lag_s,
        pump.lost,
    )


def trigger_status(state: TriggerState, started: bool, lag_s: float | None, now: float) -> TriggerStatus:
    stands = "removed" if state.removed else "paused" if state.paused else "running" if started else "stopped"
    trigger = state.compiled.trigger
    return TriggerStatus(
        name=state.name,
        saga=state.compiled.definition.name,
        source=", ".join(map(str, specs_of(trigger))),
        state=stands,
        revision=state.compiled.definition.revision,
        counts=state.counters.as_dict(),
        running=state.core.admission.in_flight,
        ends=dict(state.counters.ends),
        reasons=dict(state.counters.reasons),
        queue=_queue_status(state, now),
        params=_now_and_written(state.params),
        limits=_now_and_written(state.limits),
        lag_s=lag_s,
        resumed=state.counters.resumed,
        ranges=trigger.ranges,
    )


def _queue_status(state: TriggerState, now: float) -> QueueStatus:
    admission, since = state.core.admission, state.blocked_since
    blocked_s = state.blocked_s + (0.0 if since is None else now - since)
    blocking = since is not None and state.room() == 0
    return QueueStatus(
        admission.all_waiting(), admission.size, state.compiled.config.backpressure_strategy, blocking, blocked_s
    )


def _now_and_written(live: LiveParams) -> Mapping[str, tuple[Scalar, Scalar]]:
    return {name: (value, live.defaults[name]) for name, value in live.values.items()}


def run_progress(run: Run, now: float) -> RunProgress:
    actions, parts = {}, {}
    for step in list(run.steps.values()):
        if step.stopping_since is not None:
            actions[step.name] = f"has been stopping for {now - step.stopping_since:.0f} s: a thread cannot be killed"
        elif (since := step.waiting_since) is not None:
            actions[step.name] = f"has been waiting for a thread for {now - since:.0f} s"
        elif step.progress is not None:
            done, total, note = step.progress
            actions[step.name] = f"{done:g}" + (f" of {total:g}" if total else "") + (f" {note}" if note else "")
            if total:
                parts[step.name] = min(1.0, max(0.0, done / total))
        else:
            actions[step.name] = "running"
    return RunProgress(
        run.run_id,
        run.definition.name,
        run.definition.revision,
        actions,
        run.trigger,
        run.attempt,
        run.started_at,
        parts,
    )


@dataclass(frozen=True, slots=True)
class Why:
    """What became of an event, for each trigger that saw it, and of its runs."""

    event_id: str
    outcomes: Sequence[Outcome]
    runs: Sequence[Mapping[str, Any]]
    verdicts: Sequence[Sequence[GateVerdict]] = ()
    """Every gate's verdict per outcome; empty for a removed trigger."""
    is_run: bool = False
    """A run's id was asked for; `runs` has that run."""

    def __repr__(self) -> str:
        if not self.outcomes and not self.is_run:
            return f"Why({self.event_id}: not seen here, or filtered longer ago than outcomes are kept)"
        return "Why(" + self.event_id + ": " + "; ".join(self.lines()) + ")"

    def lines(self) -> list[str]:
        if self.is_run:
            return [_is_a_run(self.runs[0])]
        ends = {run["run_id"]: run for run in self.runs}
        lines = []
        for i, outcome in enumerate(self.outcomes):
            facts = "".join(f", {name}={value!r}" for name, value in (outcome.facts or {}).items())
            line = f"{outcome.trigger} r{outcome.revision}: {outcome.kind}"
            line += f" ({outcome.reason}{facts})" if outcome.reason or facts else ""
            if outcome.run_id and (run := ends.get(outcome.run_id)):
                line += f", run {outcome.run_id} {run['status']}" + (f": {run['error']}" if run.get("error") else "")
            lines.append(line)
            if i < len(self.verdicts) and self.verdicts[i]:
                lines.append(f"  gates: {said_by(self.verdicts[i])}")
        return lines


def _is_a_run(run: Mapping[str, Any]) -> str:
    run_id, event_id = run["run_id"], run["event_id"]
    error = f": {run['error']}" if run["error"] else ""
    told = f"that is a run, of {run['saga']} r{run['revision']}: {run['status']}{error}"
    by = f"; its event is {event_id}: lab.why({event_id!r})" if event_id else "; no event started it"
    return f"{told}{by}; lab.run({run_id!r}) shows its steps"
