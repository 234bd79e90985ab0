"""A store with many runs: what is asked about one is found without a look at all, and what is old goes in time."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Lab, Saga, SagaContext, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Event
from sagaz_lab.cli import main
from sagaz_lab.stores.sql.retention import AT_ONCE
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from tests.unit.tools import until

RUNS = 6000


def define(lab: Lab, **gates: Any) -> None:
    with lab.activate():

        class S(Saga):
            saga_name = "s"
            trigger_config = TriggerConfig(max_retries=0)

            @trigger(source="memory", topic="in", **gates)
            def on_event(self, event: Any) -> dict[str, Any]:
                return {} if isinstance(event, list) else dict(event.payload)

            @action()
            async def work(self, ctx: SagaContext) -> None:
                if ctx.get("fails"):
                    raise ValueError("no")


def copy_runs(path: Path, count: int) -> None:
    """Add so many runs like the first one, each with an event and a claim of its own."""
    with closing(sqlite3.connect(path)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        first = connection.execute("SELECT * FROM runs ORDER BY seq LIMIT 1").fetchone()
        claim = connection.execute("SELECT * FROM claims LIMIT 1").fetchone()
        names = [row[1] for row in connection.execute("PRAGMA table_info(claims)")]
        for n in range(count):
            own = {"seq": 1000 + n, "run_id": f"copy-{n}", "event_id": f"copied-{n}", "claim": f"copied-{n}"}
            values = [own.get(name, value) for name, value in zip(columns, first, strict=True)]
            connection.execute(f"INSERT INTO runs VALUES ({','.join('?' * len(columns))})", values)
            theirs = {"claim": f"copied-{n}", "run_id": f"copy-{n}"}
            values = [theirs.get(name, value) for name, value in zip(names, claim, strict=True)]
            connection.execute(f"INSERT INTO claims VALUES ({','.join('?' * len(names))})", values)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "lab.db"
    async with Lab(f"sqlite:///{path}") as lab:
        define(lab)
        await lab.fire("s.on_event", {"n": 1}, id="first")
        await lab.fire("s.on_event", {"fails": True}, id="failed")
        await lab.drain()
    copy_runs(path, RUNS)
    return path


def steps_of(path: Path, question: Any) -> int:
    """How many thousand instructions of the database the question takes: what it costs, on any machine."""
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return 0

    real = sqlite3.connect

    def connect(*args: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = real(*args, **options)
        connection.set_progress_handler(tick, 1000)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect)
        question()
    return ticks


async def test_why_costs_the_same_however_many_runs_there_are(path: Path) -> None:
    lab = Lab(f"sqlite:///{path}", offline=True)
    few = steps_of(path, lambda: lab.why("copied-5"))
    assert [(it.trigger, it.kind, it.run_id) for it in lab.why("copied-5").outcomes] == [
        ("s.on_event", "started", "copy-5")
    ]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM runs WHERE run_id LIKE 'copy-%' AND seq > 1000 + 4000")
    assert steps_of(path, lambda: lab.why("copied-5")) == pytest.approx(few, abs=10)


async def test_why_tells_a_failed_run_in_the_words_of_its_letter(path: Path) -> None:
    lab = Lab(f"sqlite:///{path}", offline=True)
    [outcome] = lab.why("failed").outcomes
    assert outcome.kind == "started"
    assert lab.why("failed").runs[0]["error"] == "ValueError: no"
    assert lab.why("nowhere").outcomes == []


async def test_the_list_of_runs_reads_a_page(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert steps_of(path, lambda: main(["runs", "--limit", "5", "--store", f"sqlite:///{path}"])) < 5
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [f"copy-{n}" for n in range(RUNS - 1, RUNS - 6, -1)]
    main(["runs", "--status", "compensated", "--store", f"sqlite:///{path}"])
    assert len(capsys.readouterr().out.splitlines()) == 2


async def test_why_finds_the_run_that_an_event_started_with_others(each_lab: Lab) -> None:
    define(each_lab, batch=Batch(3, timeout="1h"))
    for n in range(3):
        await each_lab.fire("s.on_event", Event({"n": n}, id=f"member-{n}"), wait=False)
    await each_lab.drain()
    await asyncio.sleep(0)
    [run_id] = each_lab.runs()["run_id"]
    another = Lab(each_lab.store)  # which knows only what is stored
    for n in range(3):
        assert [it.run_id for it in another.why(f"member-{n}").outcomes] == [run_id]


async def test_an_event_without_an_id_of_its_own_is_found_among_all(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET event_id = 'e-0123abcd-7', claim = NULL WHERE run_id = 'copy-1'")
    [outcome] = Lab(f"sqlite:///{path}", offline=True).why("e-0123abcd-7").outcomes
    assert outcome.run_id == "copy-1"


async def test_what_has_outlived_its_retention_goes_batch_by_batch_until_nothing_is_left(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET ended_at = ?", (time.time() - 10 * 86_400,))
    store = SqlStore(SqliteDriver(path), retention_days=1)
    await store.open("one")
    calls = 1
    while await store.heartbeat():
        calls += 1
    assert store.rows("runs", None)[1] == []
    assert calls == pytest.approx(RUNS / AT_ONCE, abs=2)
    await store.close()


async def test_a_lab_drops_what_is_old_faster_than_a_batch_with_each_heartbeat(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE runs SET ended_at = ?", (time.time() - 40 * 86_400,))
    monkeypatch.setattr("sagaz_lab.runtime.heartbeat.HEARTBEAT_S", 0.5)
    beats = []

    class Beating(SqlStore):
        def accept(self, batch: Acceptance) -> Any:  # once with each heartbeat, since nothing else happens
            beats.append(batch)
            return super().accept(batch)

    async with Lab(Beating(SqliteDriver(path))) as lab:
        await until(lambda: not len(lab.runs()))
        assert 1 <= len(beats) < RUNS // AT_ONCE
