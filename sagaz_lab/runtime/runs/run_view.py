"""A view of a run: its facts and the trials of its actions, from its history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from sagaz_lab.abc import StoredRun, ViewStore
from sagaz_lab.errors import RunError
from sagaz_lab.model.event import Event
from sagaz_lab.model.log import Displayed, LogLine, RunLog, lines_of
from sagaz_lab.model.run import LIVE, STEP_ENDS, STEP_STARTS, Record, RunStatus

LOOKED_THROUGH = 1000
"""The number of newest runs searched for the id nearest to an unknown one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """One trial of an action or a compensation.

    `status` is running, completed, failed or cut_off; `attempt` is the run's number, `trial` the step's own (from 1).
    Without an end `duration_s` is None. `result` may be a reference to a file: `load()` reads it.
    """

    action: str
    kind: str
    status: str
    attempt: int
    trial: int
    started_at: float
    duration_s: float | None = None
    result: Any = None
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run as of `seen_at`. Read-only; `steps` are oldest first, of all attempts.

    `context` holds its initial values. `log` has the last lines of its log, failures included, and `displays` the
    displays of its actions, as far as they are stored. `progress` has the progress reports of actions of a run in this
    process.
    """

    run_id: str
    saga: str
    revision: int
    trigger: str | None
    status: RunStatus
    attempt: int
    started_at: float
    ended_at: float | None
    retry_at: float | None
    error: str | None
    event: Event | None
    context: Mapping[str, Any]
    steps: Sequence[StepView]
    seen_at: float
    progress: Mapping[str, str]
    log: Sequence[LogLine] = ()
    displays: Sequence[Displayed] = ()

    @property
    def is_live(self) -> bool:
        return self.status in LIVE

    @property
    def duration_s(self) -> float:
        """From its start to its end, or to `seen_at`."""
        until = self.ended_at if self.ended_at is not None and not self.is_live else self.seen_at
        return max(until - self.started_at, 0.0)

    @property
    def results(self) -> Mapping[str, Any]:
        """The results of the finished actions of the current attempt."""
        done = (s for s in self.steps if (s.kind, s.status, s.attempt) == ("action", "completed", self.attempt))
        return {step.action: step.result for step in done}

    def __repr__(self) -> str:
        error = f", {self.error}" if self.error else ""
        return f"RunView({self.run_id}, {self.saga} r{self.revision}, {self.status}, {len(self.steps)} steps{error})"


def run_view(run: StoredRun, now: float, progress: Mapping[str, str], log: RunLog | None) -> RunView:
    steps = tuple(steps_of(run.records))
    return RunView(
        run_id=run.run_id,
        saga=run.saga,
        revision=run.revision,
        trigger=run.trigger,
        status=run.status,
        attempt=run.attempt,
        started_at=run.started_at,
        ended_at=run.ended_at,
        retry_at=run.retry_at,
        error=run.error or run.damage,
        event=run.event,
        context=run.context,
        steps=steps,
        seen_at=now,
        progress=progress,
        log=list(_failures(steps)) if log is None else log.lines(),
        displays=() if log is None else tuple(log.displays),
    )


def _failures(steps: Iterable[StepView]) -> Iterable[LogLine]:
    """The log of a run that wrote nothing itself, or whose log was lost with its process."""
    for step in steps:
        if step.traceback and step.status != "running":
            yield from lines_of(step.action, step.traceback, "ERROR", step.started_at + (step.duration_s or 0.0))


def steps_of(records: Iterable[Record]) -> Iterable[StepView]:
    """One view per trial, in order of start."""
    steps: dict[tuple[int, str, str, int], StepView] = {}
    for record in records:
        if kind := STEP_STARTS.get(record.kind):
            key = (record.attempt, kind, record.action, record.trial)
            steps[key] = StepView(action=record.action, kind=kind, status="running", attempt=record.attempt,
                                  trial=record.trial, started_at=record.at)  # fmt: skip
        else:
            kind, status = STEP_ENDS[record.kind]
            key = (record.attempt, kind, record.action, record.trial)
            if begun := steps.get(key):
                result = record.value if status == "completed" else None
                steps[key] = replace(begun, status=status, duration_s=max(record.at - begun.started_at, 0.0),
                                     result=result, error=record.error, traceback=record.traceback)  # fmt: skip
    return steps.values()


def unknown_run(store: ViewStore, run_id: str) -> RunError:
    """The error for an unknown run id, with the nearest id among the newest runs."""
    columns, rows = store.rows("runs", LOOKED_THROUGH)
    id_at = columns.index("run_id")
    near = get_close_matches(str(run_id), [row[id_at] for row in rows], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return RunError(f"no run {run_id!r} is kept; {hint}lab.runs() lists those that are")
