"""The kernel's life - cells that are interrupted or block, restarts, deaths, a closed laptop - while events flow.

The events are numbered and come from a Redis stream outside. Each run notes its number in a file outside of the kernel,
with the key that it would give to whatever it calls: one key for each number means that each was started once.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.kernel import LOAD, Kernel, Result, saga
from tests.services.redis import RedisServer, running_redis

BLOCKED_S = float(os.environ.get("SAGAZ_LAB_TEST_BLOCKED_S", "4"))
"""How long a cell blocks the kernel."""

CELL = """%%saga --quiet
import asyncio

class Counting(Saga):
    @trigger(source="redis", stream="numbers", url="{url}", idempotency_key="n", claim_idle_ms=1000,
             max_concurrent_sagas=50)
    def on_number(self, event):
        return {{"n": event["n"]}}

    @action("wait")
    async def wait(self, ctx):
        await asyncio.sleep(0.05)
        return {{"waited": True}}

    @action("note", depends_on="wait")
    def note(self, ctx):
        with open("noted", "a") as file:
            file.write(f"{{ctx['n']}} {{ctx.idempotency_key}}\\n")
"""
START = "handle = %triggers start\nawait handle;"


class Numbers:
    """Adds numbered events to the stream, whatever the kernel does meanwhile."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._feed)
        self.given = 0

    def _feed(self) -> None:
        with self._server.client() as client:
            while not self._ended.wait(0.01):
                client.xadd("numbers", {"payload": json.dumps({"n": self.given})})
                self.given += 1

    def __enter__(self) -> Numbers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


class World:
    """A stream and a folder; kernels come and go."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self.folder = folder
        self.server = server

    def begin(self, kernel: Kernel) -> Result:
        """Load, define, start. Returns what came into the cell that started."""
        assert kernel.run(LOAD).ok
        assert kernel.run(CELL.format(url=self.server.url)).ok
        started = kernel.run(START)
        assert started.ok, started.error or started.stderr
        return started

    def noted(self) -> list[tuple[int, str]]:
        path = self.folder / "noted"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(n), key) for n, key in map(str.split, lines)]

    def wait_for(self, more: int) -> None:
        """Until so many more runs than now have noted their number."""
        goal = len(self.noted()) + more
        until(lambda: len(self.noted()) >= goal)

    def check(self, numbers: Numbers) -> None:
        """Nothing is lost and nothing was started twice."""
        numbers.end()
        until(lambda: len({n for n, _ in self.noted()}) == numbers.given)
        noted = set(self.noted())
        assert sorted(n for n, _ in noted) == list(range(numbers.given))
        with closing(sqlite3.connect(self.folder / ".sagaz_lab" / "lab.db")) as connection:
            (runs, events) = connection.execute("SELECT count(*), count(DISTINCT event_id) FROM runs").fetchone()
        assert (runs, events) == (numbers.given, numbers.given)


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not within a minute"
        time.sleep(0.05)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "redis").mkdir()
    (tmp_path / "lab").mkdir()
    with running_redis(tmp_path / "redis") as server:
        yield World(tmp_path / "lab", server)


def test_interrupting_a_cell_leaves_the_sources_running(world: World) -> None:
    with Kernel(world.folder) as kernel, Numbers(world.server) as numbers:
        world.begin(kernel)
        for cell in ("import time; time.sleep(600)", "await asyncio.sleep(600)", "%triggers wait", "while True: pass"):
            world.wait_for(20)
            request = kernel.send(cell)
            kernel.begins(request)
            time.sleep(0.5)
            kernel.interrupt()
            assert not kernel.result(request).ok
        world.wait_for(20)
        world.check(numbers)
        assert len(world.noted()) == numbers.given
        assert kernel.run("s = %triggers status\ns.started, s.sources[0].state").text == "(True, 'connected')"


@pytest.mark.timeout(120)
def test_a_cell_that_blocks_the_kernel_delays_events_and_loses_none(world: World) -> None:
    with Kernel(world.folder) as kernel, Numbers(world.server) as numbers:
        world.begin(kernel)
        world.wait_for(20)
        blocked = kernel.run(f"import time\ntime.sleep({BLOCKED_S})\nlen(default_lab().runs())", timeout_s=90)
        assert blocked.ok
        world.check(numbers)
        assert len(world.noted()) == numbers.given
        assert kernel.run("s = %triggers status\ns.started, s.sources[0].state").text == "(True, 'connected')"


@pytest.mark.timeout(180)
def test_a_blocked_kernel_keeps_its_runs_from_another_one_beside_it(world: World) -> None:
    with Kernel(world.folder) as kernel, Kernel(world.folder) as other, Numbers(world.server) as numbers:
        world.begin(kernel)
        assert other.run(LOAD).ok
        world.wait_for(20)
        blocked = kernel.send(f"import time\ntime.sleep({BLOCKED_S})")
        time.sleep(BLOCKED_S * 0.7)
        assert other.run("%%saga --quiet\n" + saga("beside")).ok
        beside = other.run(START)
        assert (beside.ok, beside.shown) == (True, [])
        assert kernel.result(blocked, timeout_s=90).ok
        world.check(numbers)
        assert len(world.noted()) == numbers.given


def test_a_restart_goes_on_where_the_kernel_was(world: World) -> None:
    with Kernel(world.folder) as kernel, Numbers(world.server) as numbers:
        world.begin(kernel)
        for _ in range(2):
            world.wait_for(20)
            kernel.restart()
            world.begin(kernel)
        world.wait_for(20)
        world.check(numbers)
        assert len(world.noted()) == numbers.given


def test_a_shutdown_lets_what_runs_finish_and_the_next_kernel_goes_on(world: World) -> None:
    with Numbers(world.server) as numbers:
        with Kernel(world.folder) as kernel:
            world.begin(kernel)
            world.wait_for(20)
            kernel.shut_down()
        noted = len(world.noted())
        time.sleep(1)
        assert len(world.noted()) == noted
        with Kernel(world.folder) as kernel:
            world.begin(kernel)
            world.wait_for(20)
            world.check(numbers)
    assert len(world.noted()) == numbers.given


@pytest.mark.timeout(180)
def test_a_kernel_that_is_killed_is_followed_by_one_that_resumes_its_runs(world: World) -> None:
    with Numbers(world.server) as numbers:
        for _ in range(3):
            with Kernel(world.folder) as kernel:
                world.begin(kernel)
                world.wait_for(30)
                kernel.kill()
        time.sleep(1.0)  # a shorter absence is not worth a word
        with Kernel(world.folder) as kernel:
            card = world.begin(kernel).shown[0]["text/plain"]
            assert card.startswith("kernel was away ")
            assert "resumed: r-" in card
            world.wait_for(20)
            world.check(numbers)


def close_the_lid(kernel: Kernel, folder: Path) -> None:
    """The kernel stands still, and for the store a minute passes: a lease ends after fifteen seconds.

    Not in the midst of a transaction: until it goes on, nobody else could write.
    """
    with closing(sqlite3.connect(folder / ".sagaz_lab" / "lab.db", timeout=0, isolation_level=None)) as connection:
        for _ in range(1000):
            kernel.signal(signal.SIGSTOP)
            try:
                connection.execute("UPDATE owners SET heartbeat_at = heartbeat_at - 60")
                return
            except sqlite3.OperationalError:
                kernel.signal(signal.SIGCONT)
                time.sleep(0.01)
    raise AssertionError("always in a transaction")


def test_a_laptop_that_was_closed_goes_on_as_if_nothing_had_been(world: World) -> None:
    with Kernel(world.folder) as kernel, Numbers(world.server) as numbers:
        world.begin(kernel)
        world.wait_for(20)
        close_the_lid(kernel, world.folder)
        time.sleep(2)
        kernel.signal(signal.SIGCONT)
        world.wait_for(20)
        world.check(numbers)
        assert len(world.noted()) == numbers.given


@pytest.mark.timeout(180)
def test_another_kernel_takes_over_from_a_closed_laptop_which_then_keeps_out_of_its_way(world: World) -> None:
    with Kernel(world.folder) as closed, Numbers(world.server) as numbers:
        started = world.begin(closed)
        world.wait_for(20)
        close_the_lid(closed, world.folder)
        with Kernel(world.folder) as other:
            world.begin(other)
            world.wait_for(20)
            closed.signal(signal.SIGCONT)
            world.wait_for(100)
            world.check(numbers)
            closed.run("pass")
            status = closed.run("s = %triggers status\ns.sources[0].state, s.runs_in_flight").text
        assert status == "('failed', 0)"
        assert closed.run("%triggers stop").ok
        assert closed.run(START).ok
        assert closed.run("s = %triggers status\ns.sources[0].state").text == "'connected'"
        assert "another process has taken over" in started.stderr
