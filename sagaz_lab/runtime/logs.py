"""The logs of runs that have ended."""

from __future__ import annotations

from collections.abc import Iterable

from sagaz_lab.model.log import RunLog
from sagaz_lab.model.run import Run

KEPT = 100
"""Ended runs whose logs are kept in memory, of those that wrote one; the oldest go first."""


class Logs:
    """By run id, in the order in which the runs ended."""

    def __init__(self) -> None:
        self.ended: dict[str, RunLog] = {}

    def keep(self, run_id: str, log: RunLog) -> None:
        log.end_lines()
        self.ended[run_id] = log
        if len(self.ended) > KEPT:
            del self.ended[next(iter(self.ended))]

    def with_those_of(self, live: Iterable[Run]) -> dict[str, list[tuple[str, str]]]:
        """A copy of the lines, by run id: first those of ended runs."""
        logs = {**self.ended, **{run.run_id: run.ctx.log_lines for run in live}}
        return {run_id: log.lines() for run_id, log in logs.items() if log is not None}

    def take(self, run_id: str) -> RunLog | None:
        """The log of a run that goes on: tried again, or resumed."""
        return self.ended.pop(run_id, None)
