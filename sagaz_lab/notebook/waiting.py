"""`%triggers wait`: prints background activity in the waiting cell.

A notebook run without a front end loses the output of earlier cells' tasks, so it is repeated here.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from sagaz_lab.hosting.handle import Handle
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import OutcomeKind
from sagaz_lab.notebook.commands import COMMANDS, mistake
from sagaz_lab.notebook.markup import shortened
from sagaz_lab.notebook.reports import CellReports

LOOK_EVERY_S = 0.25
PRINT_EVERY_S, LATER_EVERY_S = 0.5, 5.0
LINES_AT_ONCE = 3
MANY_LINES = 200
"""After this many lines, print less often: a cell's output is saved in the notebook."""

ROWS_AT_ONCE = 10_000
FINAL = tuple(kind for kind in OutcomeKind if kind is not OutcomeKind.WAITING)
_RANK = {"started": 1, "completed": 2, "filtered": 2, "duplicate": 2}
"""Print order if there are too many lines: failures, which have no rank here, come first."""


@dataclass(frozen=True, slots=True)
class Until:
    """The condition that ends the wait; without one, an interrupt or a stop."""

    events: int | None = None
    idle: bool = False

    @classmethod
    def of(cls, words: Sequence[str]) -> Self:
        """Raises `UsageError`."""
        match words:
            case ():
                return cls()
            case ("until", "idle"):
                return cls(idle=True)
            case (number,) | (number, "event" | "events") if number.isdigit() and int(number) > 0:
                return cls(events=int(number))
        raise mistake("wait", f"unexpected {' '.join(words)!r}; usage: {COMMANDS['wait'].usage}")


class Watch:
    """Collects news since the last look. It outlives a wait, so that the next one misses nothing."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._decided = self._before = 0
        self._runs: set[str] = set()
        self.events: set[str] = set()
        self.kinds: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.news: list[tuple[int, str]] = []
        """Pending lines, each with its rank."""

    def begin(self) -> None:
        """Begin a wait: it summarises since the previous one and counts events from now on."""
        self.events.clear()
        self.kinds.clear()
        self.ends.clear()
        self.look()
        self._before = len(self.events)

    def since_begun(self) -> int:
        """Events decided since the wait began."""
        return len(self.events) - self._before

    def look(self) -> None:
        decided = sum(counts[kind] for counts in self._lab.counters().values() for kind in FINAL)
        fresh = decided - self._decided if decided >= self._decided else decided  # a stopped Lab restarts its counts
        self._decided = decided
        if fresh:
            self._read_outcomes(fresh)
        live = {run.run_id for run in self._lab.status().runs}
        if gone := self._runs - live:
            live |= self._read_runs(gone)
        self._runs = live if self._lab.is_open else set()

    def _read_outcomes(self, fresh: int) -> None:
        rows = self._lab.outcomes(limit=min(2 * fresh + 100, ROWS_AT_ONCE))
        for row in rows[rows["outcome"] != "waiting"].head(fresh)[::-1].itertuples():
            self.events.add(row.event_id)
            self.kinds[row.outcome] += 1
            if row.outcome == "started":
                self._runs.add(row.run_id)
            about = row.run_id if row.outcome == "started" else row.reason
            line = f"{row.event_id} -> {row.trigger}: {row.outcome}{f' ({about})' if about else ''}"
            self.news.append((_RANK.get(row.outcome, 0), line))

    def _read_runs(self, gone: set[str]) -> set[str]:
        """Returns the runs whose end is not stored yet."""
        rows = self._lab.runs(limit=ROWS_AT_ONCE)
        found = rows[rows["run_id"].isin(gone)][::-1]
        for row in found[found["status"] != "running"].itertuples():
            self.ends[row.status] += 1
            error = f": {row.error}" if isinstance(row.error, str) and row.error else ""
            self.news.append((_RANK.get(row.status, 0), f"run {row.run_id} of {row.saga}: {row.status}{error}"))
        return set(found["run_id"][found["status"] == "running"])

    def summary(self) -> str:
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
        ends = ", ".join(f"{n} {status}" for status, n in self.ends.items())
        n = len(self.events)
        return f"{n} event{'s' if n != 1 else ''}{kinds and f': {kinds}'}{ends and f'; runs: {ends}'}"


class Printer:
    """Prints a few lines at a time, failures first, and counts the rest."""

    def __init__(self) -> None:
        self._printed = 0
        self._next = 0.0

    def print_news(self, watch: Watch, reports: CellReports, *, last: bool = False) -> None:
        for report in reports.take():
            print(report, file=sys.stderr)
        if not watch.news or (time.monotonic() < self._next and not last):
            return
        news, watch.news = sorted(watch.news, key=lambda one: one[0]), []
        for _, line in news[:LINES_AT_ONCE]:
            print(shortened(" ".join(line.split()), 300))
        if len(news) > LINES_AT_ONCE:
            print(f"... and {len(news) - LINES_AT_ONCE} more")
        self._printed += min(len(news), LINES_AT_ONCE + 1)
        self._next = time.monotonic() + (PRINT_EVERY_S if self._printed < MANY_LINES else LATER_EVERY_S)


async def wait(lab: Lab, handle: Handle | None, watch: Watch, reports: CellReports, until: Until,
               timeout_s: float | None) -> None:  # fmt: skip
    """Wait until `until` is met or the triggers are stopped.

    Raises the error of a start that fails meanwhile, and `UsageError` on time-out. A start that failed before has
    already been reported.
    """
    starting = handle if handle is not None and handle.is_starting else None
    if not lab.is_open and starting is None and (handle is None or not until.idle):
        raise mistake("wait", "no trigger is started; run %triggers start first")
    deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
    printer, was_started = Printer(), False
    watched = [asyncio.ensure_future(_connected(starting))]
    if until.idle:
        watched.append(asyncio.ensure_future(lab.drain()))
    watch.begin()
    try:
        with reports:
            while not _met(watch, until, watched):
                printer.print_news(watch, reports)
                is_started = lab.status().started
                if was_started and not is_started:
                    return None
                was_started = is_started
                if time.monotonic() >= deadline:
                    return _time_is_up(watch, until, timeout_s)
                await asyncio.sleep(LOOK_EVERY_S)
    finally:
        for one in watched:
            one.cancel()
        printer.print_news(watch, reports, last=True)
        print(watch.summary())


async def _connected(handle: Handle | None) -> None:
    if handle is not None:
        await handle


def _met(watch: Watch, until: Until, watched: Sequence[asyncio.Future[None]]) -> bool:
    done = [one.done() for one in watched]
    watch.look()
    for one in watched:
        if one.done():
            one.result()  # raises its error
    return (until.idle and all(done)) or (until.events is not None and watch.since_begun() >= until.events)


def _time_is_up(watch: Watch, until: Until, timeout_s: float | None) -> None:
    if until.events is not None:
        raise mistake("wait", f"{watch.since_begun()} of {until.events} events within {timeout_s:g} s")
    if until.idle:
        raise mistake("wait", f"not idle within {timeout_s:g} s")
