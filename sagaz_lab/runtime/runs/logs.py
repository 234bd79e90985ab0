"""The logs of runs: in memory while they live and for a while after, and in the store for as long as the run is."""

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
"""Ended runs whose logs are kept in memory, of those that wrote one; the oldest go first."""

PENDING = 1000
"""Logs that wait to be written. Where the disk is slower than the runs print, the oldest of them are given up."""


class LogStore(Protocol):
    """Where a store keeps the logs, one text for each run, for as long as it keeps the run."""

    def write(self, run_id: str, text: bytes) -> None:
        """In place of what there is. Raises `OSError`."""

    def read(self, run_id: str) -> bytes | None:
        """None where there is none."""


class Logs:
    """By run id, in the order in which the runs ended."""

    def __init__(self) -> None:
        self.ended: dict[str, RunLog] = {}
        self._keeper: Keeper | None = None

    def keep_in(self, files: LogStore | None, report: Report) -> None:
        """Where logs go from now on; without `files` to memory only."""
        self._keeper = None if files is None else Keeper(files, report)

    def keep(self, run_id: str, log: RunLog) -> None:
        log.end_lines()
        self.ended[run_id] = log
        if len(self.ended) > KEPT:
            del self.ended[next(iter(self.ended))]
        if self._keeper is not None and log.written:
            self._keeper.put(run_id, log)

    def keep_live(self, live: Iterable[Run]) -> None:
        """Have the store keep what has come since the last call: to live runs, and figures of ended ones."""
        if self._keeper is not None:
            for run_id, log in {**self.ended, **{run.run_id: run.ctx.log_lines for run in live}}.items():
                if log is not None and log.written:
                    self._keeper.put(run_id, log)

    def flush(self, within_s: float) -> None:
        """Returns when all is written, or the time is over. Blocks."""
        if self._keeper is not None:
            self._keeper.flush(within_s)

    def with_those_of(self, live: Iterable[Run]) -> dict[str, list[LogLine]]:
        """A copy of the lines, by run id: first those of ended runs."""
        logs = {**self.ended, **{run.run_id: run.ctx.log_lines for run in live}}
        return {run_id: log.lines() for run_id, log in logs.items() if log is not None}

    def of(self, run_id: str, live: Run | None) -> RunLog | None:
        """The log of any run: a live one's, one in memory, or one in the store."""
        if live is not None and live.ctx.log_lines is not None:
            return live.ctx.log_lines
        ended = self.ended.get(run_id)
        return self._stored(run_id) if ended is None else ended

    def take(self, run_id: str, *, stored: bool = False) -> RunLog | None:
        """The log of a run that goes on: tried again, or resumed. `stored`: it may be in the store only."""
        log = self.ended.pop(run_id, None)
        return self._stored(run_id) if log is None and stored else log

    def _stored(self, run_id: str) -> RunLog | None:
        return None if self._keeper is None else self._keeper.read(run_id)


class Keeper:
    """Writes logs in a thread of its own, which lives as long as there is something to write."""

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
            self._report("logs", f"the disk is slower than the runs print: the log of run {given_up} is not kept")

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
            except Exception as error:  # noqa: BLE001  a log that cannot be kept stops nothing
                self._report("logs", f"the log of run {run_id} is not kept: {describe(error)}")
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
    """None for what is no log."""
    try:
        stored = msgspec.json.decode(text, type=_Stored)
    except msgspec.DecodeError:
        return None
    lines = (LogLine(action, line, level, at) for at, level, action, line in stored.lines)
    return RunLog(lines, stored.displays)
