"""A store of an older version is upgraded where it lies, with all that it has."""

import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sagaz_lab.abc import Acceptance, NewRun, Refusal
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import RunStatus
from sagaz_lab.stores.sqlite import SqliteStore

AT = 1_700_000_000.0
TRIGGER = "orders.on_order"


def event(id: str) -> bytes:
    return json.dumps([id, "memory", None, None, "2026-01-31T00:00:00+00:00", 1, {"n": 1}]).encode()


def insert(connection: sqlite3.Connection, table: str, **values: object) -> None:
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))


def make_old(path: Path, version: int) -> None:
    """What a process of that version left when it was closed with a run under way."""
    tables = Path(__file__).with_name(f"store_version_{version}.sql").read_text()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(tables)
        connection.execute("PRAGMA application_id = 0x5361676C")
        connection.execute(f"PRAGMA user_version = {version}")
        insert(connection, "owners", epoch=1, id="a", name="old notebook", host="host", pid=1, pid_started="",
               heartbeat_at=AT, closed=1)  # fmt: skip
        for n, status, ended_at in ((1, "completed", AT + 2), (2, "running", None)):
            insert(connection, "runs", seq=n, run_id=f"r{n}", saga="orders", revision=1, trigger=TRIGGER, status=status,
                   attempt=1, owner=1, claim=f"order-{n}", event_id=f"e{n}", event=event(f"e{n}"), context=b"{}",
                   started_at=AT, ended_at=ended_at)  # fmt: skip
            insert(connection, "claims", trigger=TRIGGER, claim=f"order-{n}", run_id=f"r{n}")
        insert(connection, "records", seq=2 << 20, attempt=1, kind="action_finished", action="a", trial=1, at=AT,
               value=b"7")  # fmt: skip
        for id, state in (("d1", "redriven"), ("d2", "open")):
            insert(connection, "dead_letters", id=id, event_id=id, event=event(id), trigger=TRIGGER, saga="orders",
                   cause="KeyError", error="KeyError: n", traceback="", attempts=1, revision=1, at=AT,
                   state=state)  # fmt: skip
        insert(connection, "kept_events", event_id="low", event=event("low"), trigger=TRIGGER, outcome="filtered",
               reason="too low", at=time.time(), **({"until": 1e12} if version > 1 else {}))  # fmt: skip


def shape(path: Path) -> dict[str, object]:
    """All tables with their columns, and all indexes."""
    with closing(sqlite3.connect(path)) as connection:
        names = connection.execute("SELECT type, name FROM sqlite_schema ORDER BY name").fetchall()
        shape = {
            name: connection.execute(f"PRAGMA {'table' if kind == 'table' else 'index'}_xinfo({name})").fetchall()
            for kind, name in names
        }
        return {**shape, "version": connection.execute("PRAGMA user_version").fetchone()}


@pytest.fixture(params=[1, 2])
def path(tmp_path, request):
    make_old(tmp_path / "lab.db", request.param)
    return tmp_path / "lab.db"


async def test_runs_claims_and_letters_of_an_old_version_are_there_after_the_upgrade(path):
    store = SqliteStore(path)
    await store.open("this notebook")
    (left,) = await store.interrupted()
    assert (left.run_id, left.event.payload, [it.value for it in left.records]) == ("r2", {"n": 1}, [7])
    assert await store.seen(TRIGGER, ["order-1", "order-2", "order-3"]) == {
        "order-1": Refusal("r1", RunStatus.COMPLETED), "order-2": Refusal("r2", RunStatus.RUNNING),
    }  # fmt: skip
    assert [(it.id, it.redriven) for it in await store.letters(["d1", "d2"])] == [("d2", 0)]
    assert [letter.id for _, letter in await store.letters_after(0, 10)] == ["d1", "d2"]
    await store.heartbeat()
    assert "low" in [row[0] for row in store.rows("events", None)[1]]
    assert ("low", "filtered") in [(row[0], row[2]) for row in store.rows("outcomes", None)[1]]
    await store.accept(Acceptance(runs=[NewRun(run_id="r3", saga="orders", revision=1, trigger=TRIGGER, context={},
                                               event=Event({}, "e-r3"), at=AT, cooldown=("k", AT + 9))]))  # fmt: skip
    assert list(await store.cooling(TRIGGER, ["k"], at=AT)) == ["k"]
    await store.close()


async def test_an_upgraded_store_has_the_tables_of_a_new_one(path, tmp_path):
    for each in (path, tmp_path / "new.db"):
        store = SqliteStore(each)
        await store.open("this notebook")
        await store.close()
    assert shape(path) == shape(tmp_path / "new.db")


def test_reading_an_old_store_upgrades_it_too(path):
    assert [row[0] for row in SqliteStore(path).rows("dead_letters", None)[1]] == ["d2"]
    assert shape(path)["version"] == (3,)


async def test_an_upgrade_that_fails_leaves_the_store_as_it_was(tmp_path):
    path = tmp_path / "lab.db"
    make_old(path, 1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE publications (mine)")
    before = shape(path)
    with pytest.raises(StoreUnavailable, match="publications already exists"):
        await SqliteStore(path).open("this notebook")
    assert shape(path) == before
