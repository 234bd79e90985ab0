"""A stream goes on in order when its process is stopped or killed, and whoever wakes up too late starts nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.acceptance.lease_child import LOST
from tests.services.redis import RedisServer, running_redis

CHILD = Path(__file__).with_name("lease_child.py")
EVENTS, KEYS = 9_000, 150


class Line(NamedTuple):
    pid: int
    what: str
    step: str
    run: str
    key: str
    n: int


class Flow:
    """A Redis stream, two processes that may run its triggers, and the ledger in which they write."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self._store = folder / "lab.db"
        self._command = [
            sys.executable, str(CHILD), f"sqlite:///{self._store}", server.url, str(folder / "ledger"),
        ]  # fmt: skip
        (folder / "ledger").touch()
        self._ledger = (folder / "ledger").open()
        self._unread = ""
        self._lines: list[Line] = []
        self._done: set[int] = set()
        self._log = (folder / "log").open("ab")
        self._server = server
        self._added = 0
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def add_process(self) -> None:
        process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)
        self._processes[process.pid] = process

    def add_events(self, count: int) -> None:
        with self._server.client() as client:
            pipe = client.pipeline(transaction=False)
            for n in range(self._added, self._added + count):
                pipe.xadd("flow", {"payload": json.dumps({"n": n, "key": f"k{n % KEYS}"})})
            pipe.execute()
        self._added += count

    def lines(self) -> list[Line]:
        self._unread += self._ledger.read()
        *whole, self._unread = self._unread.split("\n")  # the last one may still be being written
        for pid, what, step, run, key, n in map(str.split, whole):
            line = Line(int(pid), what, step, run, key, int(n))
            self._lines.append(line)
            if (what, step) == ("end", "b"):
                self._done.add(line.n)
        return self._lines

    def owner(self) -> subprocess.Popen[bytes]:
        """Who has written the last line."""
        return self._processes[self.lines()[-1].pid]

    def strike(self, process: subprocess.Popen[bytes], fault: signal.Signals) -> None:
        """One that stands still within a transaction keeps the file locked, so that nobody can take over."""
        process.send_signal(fault)
        while fault is signal.SIGSTOP:
            os.waitpid(process.pid, os.WUNTRACED)
            with closing(sqlite3.connect(self._store, timeout=0, isolation_level=None)) as connection:
                try:
                    connection.execute("BEGIN IMMEDIATE")
                    return
                except sqlite3.OperationalError:
                    process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
            process.send_signal(fault)

    def wait_until_done(self, count: int, by_another_than: int = 0) -> None:
        def done() -> bool:
            lines = self.lines()
            return len(self._done) >= count and lines[-1].pid != by_another_than

        _wait(done)

    def end(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._log.close()
        self._ledger.close()


def _wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "nothing more has happened"
        time.sleep(0.05)


@contextmanager
def flowing(folder: Path) -> Iterator[Flow]:
    with ExitStack() as stack:
        flow = Flow(folder, stack.enter_context(running_redis(folder)))
        stack.callback(flow.end)
        yield flow


def test_two_stops_and_two_kills_leave_order_and_history_as_they_should_be(tmp_path: Path) -> None:
    with flowing(tmp_path) as flow:
        flow.add_process()
        flow.add_process()
        for number, fault in enumerate([signal.SIGSTOP, signal.SIGKILL, signal.SIGSTOP, signal.SIGKILL]):
            flow.add_events(EVENTS // 4)
            flow.wait_until_done(number * EVENTS // 4 + EVENTS // 10)
            struck = flow.owner()
            flow.strike(struck, fault)
            flow.wait_until_done(number * EVENTS // 4 + EVENTS // 8, by_another_than=struck.pid)
            struck.send_signal(signal.SIGCONT)
            assert struck.wait(30) == (LOST if fault is signal.SIGSTOP else -signal.SIGKILL)
            flow.add_process()
        flow.wait_until_done(EVENTS)
        lines = flow.lines()
    starts = [line for line in lines if line.what == "start"]
    assert {line.n for line in starts} == set(range(EVENTS))
    assert len({line.run for line in starts}) == EVENTS, "each event has one run"
    assert (disorder(starts), overlaps(starts), run_again(starts)) == ([], [], [])


def disorder(starts: Sequence[Line]) -> list[Line]:
    """Runs that began after a later event of their key."""
    latest: dict[str, int] = defaultdict(int)
    seen, found = set(), []
    for line in starts:
        if line.run not in seen:
            seen.add(line.run)
            if line.n < latest[line.key]:
                found.append(line)
            latest[line.key] = max(latest[line.key], line.n)
    return found


def overlaps(starts: Sequence[Line]) -> list[Line]:
    """Actions of a run that began after a later run of the same key."""
    current: dict[str, str] = {}
    over, found = set(), []
    for line in starts:
        before = current.get(line.key)
        if before != line.run:
            over.add(before)
            current[line.key] = line.run
        if line.run in over:
            found.append(line)
    return found


def run_again(starts: Sequence[Line]) -> list[Line]:
    """Actions that began although the next one had begun: their end was in the journal."""
    reached: dict[str, str] = defaultdict(str)
    found = []
    for line in starts:
        if line.step < reached[line.run]:
            found.append(line)
        reached[line.run] = max(reached[line.run], line.step)
    return found


@pytest.mark.parametrize(
    ("check", "line"),
    [(disorder, Line(1, "start", "a", "r0", "k", 0)), (overlaps, Line(1, "start", "b", "r1", "k", 1)),
     (run_again, Line(1, "start", "a", "r2", "k", 2))],
)  # fmt: skip
def test_the_checks_find_what_they_are_for(check: Callable[[Sequence[Line]], list[Line]], line: Line) -> None:
    good = [Line(1, "start", step, f"r{n}", "k", n) for n in (1, 2) for step in "ab"]
    assert check(good) == []
    assert check([*good, line]) == [line]
