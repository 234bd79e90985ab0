"""A process whose lease has ended starts nothing before it holds it again, and stops once another has taken over."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, SagaContext, action, skip, trigger
from sagaz_lab.errors import LeaseLost
from sagaz_lab.runtime import heartbeat
from sagaz_lab.runtime.lifetime import lease
from sagaz_lab.stores.sql import writer
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from tests.unit.tools import Taps, until

TRIGGER = "flow.on_event"


class Bench:
    """A Lab whose saga stands still in its first action until it is let go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taps = Taps()
        self.stood_still_s = 0.0
        driver = SqliteDriver(path)
        driver.time = lambda: time.time() + self.stood_still_s  # what it measures its lease with
        self.lab = Lab(store=SqlStore(driver), sources={"memory": self.taps})
        self.go = asyncio.Event()
        self.began: list[str] = []
        self.reports: list[str] = []
        self.lab.on_report(lambda kind, text: self.reports.append(text) if kind == "lease" else None)
        with self.lab.activate():
            self._define()

    def _define(self) -> None:
        bench = self

        class Flow(Saga):
            saga_name = "flow"

            @trigger(source="memory", topic="flow")
            def on_event(self, event: Any) -> Any:
                return skip("not wanted") if event == "skip" else {}

            @action("first")
            async def first(self, ctx: SagaContext) -> None:
                bench.began.append("first")
                await bench.go.wait()

            @action("second", depends_on=["first"])
            def second(self, ctx: SagaContext) -> None:
                bench.began.append("second")

    def stand_still(self) -> None:
        """As a process that was stopped for longer than its lease; its timers are late too."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE owners SET heartbeat_at = heartbeat_at - 60 WHERE epoch = 1")
        self.stood_still_s = 60.0


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> list[lease.Lease]:
    """Those that are watched, in the order of the Labs."""
    found: list[lease.Lease] = []
    watch = lease.Lease.watch

    def noted(it: lease.Lease) -> None:
        found.append(it)
        watch(it)

    monkeypatch.setattr(lease.Lease, "watch", noted)
    return found


@pytest.fixture
async def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leases: list[lease.Lease]
) -> AsyncIterator[Callable[[], Bench]]:
    # The test says when a stopped process goes on, and nothing else renews its lease meanwhile.
    for module, name in ((lease, "LOOK_S"), (heartbeat, "HEARTBEAT_S"), (writer, "BEAT_S")):
        monkeypatch.setattr(module, name, 3600.0)
    made: list[Bench] = []

    def make_one() -> Bench:
        made.append(Bench(tmp_path / "lab.db"))
        return made[-1]

    yield make_one
    for bench in made:
        await bench.lab.stop(0)


@pytest.fixture
async def stale(make: Callable[[], Bench]) -> Bench:
    """One with a run in its first action, which has stood still for longer than its lease."""
    bench = make()
    await bench.lab.start()
    await bench.lab.fire(TRIGGER, {}, wait=False)
    await until(lambda: bench.began)
    bench.stand_still()
    return bench


async def test_who_takes_the_triggers_fences_the_old_owner(tmp_path: Path) -> None:
    old, new = SqlStore(SqliteDriver(tmp_path / "lab.db")), SqlStore(SqliteDriver(tmp_path / "lab.db"))
    await old.open("old")
    await new.open("new")
    await old.own_triggers(["flow.on_event", "other.on_event"])
    with closing(sqlite3.connect(tmp_path / "lab.db")) as connection, connection:
        connection.execute("UPDATE owners SET heartbeat_at = heartbeat_at - 60 WHERE epoch = 1")
    await new.own_triggers(["flow.on_event"])
    with pytest.raises(LeaseLost):
        await old.heartbeat()
    await new.heartbeat()
    await old.close()
    await new.close()


async def test_an_action_does_not_start_after_the_run_went_elsewhere(stale: Bench, make: Callable[[], Bench]) -> None:
    other = make()
    other.go.set()
    await other.lab.start()
    await until(lambda: other.began == ["first", "second"])
    stale.go.set()
    await until(lambda: stale.reports)
    await until(lambda: not stale.lab.status().started)
    assert stale.began == ["first"]


async def test_after_a_gap_that_nobody_has_used_all_goes_on(stale: Bench) -> None:
    stale.go.set()
    await stale.lab.drain()
    assert (stale.began, stale.reports) == (["first", "second"], [])
    assert stale.lab.store.lease_held()


async def test_an_event_that_would_be_filtered_is_not_acked_by_a_stale_process(
    stale: Bench, make: Callable[[], Bench]
) -> None:
    await make().lab.start()
    await stale.taps["flow"].put("skip")
    await until(lambda: stale.reports)
    await until(lambda: stale.taps["flow"].left)  # with the event unsettled
    assert stale.lab.counters()[TRIGGER]["filtered"] == 0


async def test_whoever_lost_its_triggers_stops_all_of_it_and_says_so_once(
    stale: Bench, make: Callable[[], Bench]
) -> None:
    await make().lab.start()
    for _ in range(3):
        with pytest.raises(LeaseLost):
            await stale.lab.fire(TRIGGER, {}, wait=False)
    await until(lambda: not stale.lab.status().runs_in_flight)
    await until(lambda: stale.lab.status().sources[0].state == "failed")
    assert "another process has taken over" in stale.lab.status().sources[0].error
    [report] = stale.reports
    assert "another process has taken over" in report
    assert "1 run(s) that were under way" in report


async def test_a_process_that_goes_on_looks_before_its_actions_do(
    stale: Bench, make: Callable[[], Bench], leases: list[lease.Lease]
) -> None:
    await make().lab.start()
    stale.go.set()  # due, as a timer that has run out meanwhile
    leases[0].watch()
    await until(lambda: not stale.lab.status().runs_in_flight)
    assert (len(stale.reports), stale.began) == (1, ["first"])
