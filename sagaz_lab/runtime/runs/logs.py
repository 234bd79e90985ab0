"""The logs of runs: in memory while the runs live and for a while after, and in the store as long as the run."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Condition, Thread
from typing import Protocol

import msgspec

from sagaz_lab.errors import describe
from sagaz_lab.model.log import Displayed, LogLine, RunLog
from sagaz_lab.model.run import Run
from sagaz_lab.runtime.lifetime.tasks import Report

KEPT = 100
"""Ended runs with output whose logs stay in memory; the oldest are dropped first."""

PENDING = 1000
"""Logs that wait to be written. If the disk is slower than the runs print, the oldest of them are dropped."""


class LogStore(Protocol):
    """A store's logs, one text per run, kept as long as the run."""

    def write(self, run_id: str, text: bytes) -> None:
        """Replaces any earlier text. Raises `OSError`."""

    def read(self, run_id: str) -> bytes | None:
        """None if there is none."""


class Logs:
    """Logs by run id, in the order in which the runs ended."""

    def __init__(self) -> None:
        self.ended: dict[str, RunLog] = {}
        self._keeper: Keeper | None = None

    def keep_in(self, files: LogStore | None, report: Report) -> None:
        """Where logs are written from now on; without `files` they stay in memory."""
        self._keeper = None if files is None else Keeper(files, report)

    def keep(self, run_id: str, log: RunLog) -> None:
        log.end_lines()
        self.ended[run_id] = log
        if len(self.ended) > KEPT:
            del self.ended[next(iter(self.ended))]
        if self._keeper is not None and log.written:
            self._keeper.put(run_id, log)

    def keep_live(self, live: Iterable[Run]) -> None:
        """Have the store write what is new since the last call: lines of live runs and figures of ended ones."""
        if self._keeper is not None:
            for run_id, log in {**self.ended, **{run.run_id: run.ctx.log_lines for run in live}}.items():
                if log is not None and log.written:
                    self._keeper.put(run_id, log)

    def flush(self, within_s: float) -> None:
        """Returns when all is written or the time is over. Blocks."""
        if self._keeper is not None:
            self._keeper.flush(within_s)

    def with_those_of(self, live: Iterable[Run]) -> dict[str, list[LogLine]]:
        """A copy of the lines by run id, ended runs first."""
        logs = {**self.ended, **{run.run_id: run.ctx.log_lines for run in live}}
        return {run_id: log.lines() for run_id, log in logs.items() if log is not None}

    def of(self, run_id: str, live: Run | None) -> RunLog | None:
        """The log of any run: live, in memory, or in the store."""
        if live is not None and live.ctx.log_lines is not None:
            return live.ctx.log_lines
        ended = self.ended.get(run_id)
        return self._stored(run_id) if ended is None else ended

    def take(self, run_id: str, *, stored: bool = False) -> RunLog | None:
        """The log of a run that is retried or resumed. `stored`: it may be in the store only."""
        log = self.ended.pop(run_id, None)
        return self._stored(run_id) if log is None and stored else log

    def _stored(self, run_id: str) -> RunLog | None:
        return None if self._keeper is None else self._keeper.read(run_id)


class Keeper:
    """Writes logs in its own thread, which lives while there is something to write."""

    def __init__(self, files: LogStore, report: Report) -> None:
        self._files = files
        self._report = report
        self._waiting: dict[str, RunLog] = {}
        self._written: dict[str, int] = {}
        self._changed = Condition()
        self._thread: Thread | None = None

    def put(self, run_id: str, log: RunLog) -> None:
        given_up = None
        with self._changed:
            if self._written.get(run_id) == log.written:
                return
            self._waiting[run_id] = log
            if len(self._waiting) > PENDING:
                given_up = next(iter(self._waiting))
                del self._waiting[given_up]
            if self._thread is None:
                self._thread = Thread(target=self._write_all, name="sagaz-lab-logs", daemon=True)
                self._thread.start()
        if given_up is not None:
            self._report("logs", f"the disk is slower than the runs print: the log of run {given_up} is dropped")

    def read(self, run_id: str) -> RunLog | None:
        with self._changed:
            waiting = self._waiting.get(run_id)
        if waiting is not None:
            return waiting
        text = self._files.read(run_id)
        return None if text is None else _decoded(text)

    def flush(self, within_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._thread is None, within_s)

    def _write_all(self) -> None:
        while (found := self._next()) is not None:
            run_id, log = found
            written = log.written
            try:
                self._files.write(run_id, _encoded(log))
            except Exception as error:  # noqa: BLE001  a failed log stops nothing else
                self._report("logs", f"the log of run {run_id} could not be stored: {describe(error)}")
            self._written[run_id] = written
            if len(self._written) > PENDING:
                del self._written[next(iter(self._written))]

    def _next(self) -> tuple[str, RunLog] | None:
        with self._changed:
            if not self._waiting:
                self._thread = None
                self._changed.notify_all()
                return None
            run_id = next(iter(self._waiting))
            return run_id, self._waiting.pop(run_id)


def _encoded(log: RunLog) -> bytes:
    lines = [(line.at, line.level, *line) for line in log.lines()]
    return msgspec.json.encode({"lines": lines, "displays": list(log.displays)})


class _Stored(msgspec.Struct):
    lines: list[tuple[float, str, str, str]]
    displays: list[Displayed]


def _decoded(text: bytes) -> RunLog | None:
    """None if it is not a log."""
    try:
        stored = msgspec.json.decode(text, type=_Stored)
    except msgspec.DecodeError:
        return None
    lines = (LogLine(action, line, level, at) for at, level, action, line in stored.lines)
    return RunLog(lines, stored.displays)
