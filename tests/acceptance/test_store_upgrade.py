"""A store of an older version is upgraded where it lies, with all that it has."""

import json
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.abc import KEY_MARK, Acceptance, NewRun, Refusal
from sagaz_lab.errors import StoreTooNew, StoreUnavailable
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import RunStatus
from sagaz_lab.runtime.triggers.compiled import claim_of
from sagaz_lab.stores.sql import sqlite_driver
from sagaz_lab.stores.sql.sqlite_driver import VERSION, SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from sagaz_lab.testing.clock import VirtualClock

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
            claims = {"claim": f"order-{n}"}
            if version > 3:  # an event's id and its declared key are claimed apart
                claims = {"claim": f"e{n}", "declared": KEY_MARK + f"order-{n}"}
            insert(connection, "runs", seq=n, run_id=f"r{n}", saga="orders", revision=1, trigger=TRIGGER, status=status,
                   attempt=1, owner=1, event_id=f"e{n}", event=event(f"e{n}"), context=b"{}", started_at=AT,
                   ended_at=ended_at, **claims)  # fmt: skip
            for name, claim in claims.items():
                kind = {"kind": "id" if name == "claim" else "key"} if version > 3 else {}
                insert(connection, "claims", trigger=TRIGGER, claim=claim, run_id=f"r{n}", **kind)
        insert(connection, "records", seq=2 << 20, attempt=1, kind="action_finished", action="a", trial=1, at=AT,
               value=b"7")  # fmt: skip
        for id, state in (("d1", "redriven"), ("d2", "open")):
            insert(connection, "dead_letters", id=id, event_id=id, event=event(id), trigger=TRIGGER, saga="orders",
                   cause="KeyError", error="KeyError: n", traceback="", attempts=1, revision=1, at=AT,
                   state=state)  # fmt: skip
        if version > 3:
            insert(connection, "claims", trigger=TRIGGER, claim="d2", run_id="d2", orphan=1, kind="letter")
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


@pytest.fixture(params=[1, 2, 3, 4])
def path(tmp_path, request):
    make_old(tmp_path / "lab.db", request.param)
    return tmp_path / "lab.db"


async def test_runs_claims_and_letters_of_an_old_version_are_there_after_the_upgrade(path):
    store = SqlStore(SqliteDriver(path))
    await store.open("this notebook")
    (left,) = await store.interrupted()
    assert (left.run_id, left.event.payload, [it.value for it in left.records]) == ("r2", {"n": 1}, [7])
    first, second = Refusal("r1", RunStatus.COMPLETED), Refusal("r2", RunStatus.RUNNING)
    one, two, three = (KEY_MARK + f"order-{n}" for n in (1, 2, 3))
    assert await store.seen(TRIGGER, [one, two, three]) == {one: first, two: second}
    assert await store.seen(TRIGGER, ["e1", "e2", "e3"], at=AT) == {"e1": first, "e2": second}
    assert await store.seen(TRIGGER, ["d2"], at=AT) == {"d2": Refusal(letter="d2")}
    assert [(it.id, it.redriven) for it in await store.letters(["d1", "d2"])] == [("d2", 0)]
    assert [letter.id for _, letter in await store.letters_after(0, 10)] == ["d1", "d2"]
    await store.heartbeat()
    assert "low" in [row[0] for row in store.rows("events", None)[1]]
    assert ("low", "filtered") in [(row[0], row[2]) for row in store.rows("outcomes", None)[1]]
    await store.accept(Acceptance(runs=[NewRun(run_id="r3", saga="orders", revision=1, trigger=TRIGGER, context={},
                                               event=Event({}, "e-r3"), at=AT, cooldown=("k", AT + 9))]))  # fmt: skip
    assert list(await store.cooling(TRIGGER, at=AT)) == ["k"]
    await store.close()


# --- events that wait, which were called held ---


async def test_what_a_store_of_version_4_called_held_waits(tmp_path: Path) -> None:
    make_old(path := tmp_path / "lab.db", 4)
    with closing(sqlite3.connect(path)) as connection, connection:
        insert(connection, "runs", seq=9, run_id="r9", saga="orders", revision=1, trigger=TRIGGER, status="held",
               attempt=1, owner=1, event_id="e9", event=event("e9"), context=b"{}", started_at=AT,
               ended_at=AT)  # fmt: skip
        insert(connection, "held_events", id="h1", trigger=TRIGGER, part=0, claim="e-h1", declared=KEY_MARK + "k",
               event=event("e-h1"), at=AT)  # fmt: skip
        for claim in ("e-h1", KEY_MARK + "k"):
            insert(connection, "claims", trigger=TRIGGER, claim=claim, run_id="h1", kind="held")
        for outcome, count in (("held", 3), ("filtered", 4)):
            insert(connection, "counts", trigger=TRIGGER, outcome=outcome, reason="", count=count)
        insert(connection, "kept_events", event_id="kept", event=event("kept"), trigger=TRIGGER, outcome="held",
               reason="", at=AT, until=1e12)  # fmt: skip
    store = SqlStore(SqliteDriver(path))
    await store.open("this notebook")
    assert sorted(store.rows("counts", None)[1]) == [(TRIGGER, "filtered", "", 4), (TRIGGER, "waiting", "", 3)]
    outcomes = {row[0]: row[2] for row in store.rows("outcomes", None)[1]}
    assert (outcomes["kept"], outcomes["low"]) == ("waiting", "filtered")
    assert [row[0] for row in store.rows("runs", None, status="held")[1]] == ["r9"], "a run's status is as it was"
    claims = ["e-h1", KEY_MARK + "k"]
    assert await store.seen(TRIGGER, claims) == dict.fromkeys(claims, Refusal())
    assert [row[:2] for row in store.about("e-h1", [*claims])[0]] == [("e-h1", TRIGGER)]
    (waiting,) = await store.waiting([TRIGGER])
    assert (waiting.id, waiting.event.id, waiting.claim, waiting.declared) == ("h1", "e-h1", *claims)
    await store.accept(Acceptance(released=["h1"]))
    assert await store.seen(TRIGGER, claims) == {}
    await store.close()


async def test_a_process_of_the_version_before_leaves_an_upgraded_store_alone(path: Path, monkeypatch) -> None:
    assert SqlStore(SqliteDriver(path)).rows("runs", None)[1], "reading upgrades it"
    before = path.read_bytes()
    monkeypatch.setattr(sqlite_driver, "VERSION", VERSION - 1)
    with pytest.raises(StoreTooNew, match=f"has version {VERSION} and this sagaz_lab knows version {VERSION - 1}"):
        await SqlStore(SqliteDriver(path)).open("an old notebook")
    assert path.read_bytes() == before


# --- claims, of which a run had one ---

NOW = time.time()


@pytest.fixture
def store_3(tmp_path: Path) -> Path:
    """Of a trigger with a declared key, and of one whose events are claimed by their ids."""
    path = tmp_path / "lab.db"
    make_old(path, 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        runs = [("keyed", "a.csv", "completed"), ("keyed", "7", "completed"), ("keyed", "(1, 'x')", "completed"),
                ("keyed", "undone", "compensated"), ("by_id", "i4", "compensated"),
                ("parts", "1:i5", "completed")]  # fmt: skip
        for n, (method, claim, status) in enumerate(runs):
            insert(connection, "runs", seq=10 + n, run_id=f"i{n}-run", saga="old", revision=1, trigger=f"old.{method}",
                   status=status, attempt=1, owner=1, claim=claim, event_id=f"i{n}", event=event(f"i{n}"),
                   context=b"{}", started_at=NOW, ended_at=NOW)  # fmt: skip
            insert(connection, "claims", trigger=f"old.{method}", claim=claim, run_id=f"i{n}-run", until=NOW + 1e6)
        insert(connection, "members", run=10, claim="b.csv")
        insert(connection, "claims", trigger="old.keyed", claim="b.csv", run_id="i0-run", until=NOW + 1e6)
        insert(connection, "claims", trigger="old.keyed", claim="gone", run_id="gone", until=NOW + 1e6, orphan=1)
        insert(connection, "cooldowns", trigger="old.keyed", key="7", run_id="i1-run", until=NOW + 1e6)
        for id, claim in (("h-a-1", "held.csv"), ("h-a-2", "e-h-a-2")):
            insert(connection, "held_events", id=id, trigger="old.keyed", part=0, claim=claim, event=event(f"e-{id}"),
                   at=NOW)  # fmt: skip
            insert(connection, "claims", trigger="old.keyed", claim=claim, run_id=id, kind="held")
    return path


async def test_each_claim_of_version_3_is_an_id_or_a_declared_key(store_3: Path) -> None:
    store = SqlStore(SqliteDriver(store_3))
    await store.open("this notebook")
    keys = ["a.csv", "b.csv", "7", "⟦7⟧", '⟦[1,"x"]⟧', "gone", "held.csv"]
    assert sorted(await store.seen("old.keyed", [KEY_MARK + key for key in [*keys, "undone", "h-a-2"]])) == sorted(
        KEY_MARK + key for key in keys
    )
    ids = ["i0", "i1", "i2", "i3", "gone", "e-h-a-1", "e-h-a-2"]
    assert sorted(await store.seen("old.keyed", [*ids, "a.csv", "7"])) == sorted(ids)
    assert list(await store.seen("old.by_id", ["i4", KEY_MARK + "i4"])) == ["i4"]
    both = ["1:i5", KEY_MARK + "1:i5"]  # nobody can tell which it was
    assert list(await store.seen("old.parts", [*both, "0:i5"])) == both
    assert sorted(await store.cooling("old.keyed", at=NOW)) == ["7", "⟦7⟧"]
    waiting = await store.waiting(["old.keyed"])
    assert [(it.claim, it.declared) for it in waiting] == [
        ("e-h-a-1", KEY_MARK + "held.csv"),
        ("e-h-a-2", KEY_MARK + "e-h-a-2"),
    ]
    await store.accept(Acceptance(released=[it.id for it in waiting]))
    assert await store.seen("old.keyed", ["e-h-a-1", "e-h-a-2", KEY_MARK + "held.csv"]) == {}
    await store.close()


LONG = "x" * 600

ALIKE = {
    "a key that ends like a part's claim": ("order:42", "42", ["42"], ["order:42"]),
    "a key that begins with a number": ("5:42", "42", ["42", "5:42"], ["5:42"]),
    "a key that is the id": ("7", "7", ["7"], ["7"]),
    "a long id": (claim_of(LONG), LONG, [claim_of(LONG)], []),
    "a long id of a part": ("1:" + claim_of(LONG), LONG, ["1:" + claim_of(LONG)], []),
    "a long id with a key": ("k", LONG, [claim_of(LONG)], ["k"]),
    "an id with the mark of keys": (KEY_MARK + "7", KEY_MARK + "7", [claim_of(KEY_MARK + "7")], []),
}


@pytest.mark.parametrize("case", ALIKE)
@pytest.mark.parametrize("status", ["completed", "compensated"])
async def test_where_a_claim_of_version_3_may_be_an_id_or_a_key_it_is_both(
    tmp_path: Path, case: str, status: str
) -> None:
    claim, id, ids, keys = ALIKE[case]
    make_old(path := tmp_path / "lab.db", 3)
    with closing(sqlite3.connect(path)) as connection, connection:
        insert(connection, "runs", seq=10, run_id="r10", saga="old", revision=1, trigger="old.on", status=status,
               attempt=1, owner=1, claim=claim, event_id=id, event=event(id), context=b"{}", started_at=NOW,
               ended_at=NOW)  # fmt: skip
        insert(connection, "members", run=10, claim="member")
        for each in (claim, "member"):
            insert(connection, "claims", trigger="old.on", claim=each, run_id="r10", until=NOW + 1e6)
    store = SqlStore(SqliteDriver(path))
    await store.open("this notebook")
    marked = [KEY_MARK + key for key in keys if status == "completed"]  # what was undone frees its declared key
    assert sorted(await store.seen("old.on", ids + [KEY_MARK + key for key in keys])) == sorted(ids + marked)
    if claim in ids:
        assert list(await store.seen("old.on", ["member"])) == ["member"]
    await store.close()


async def test_what_a_store_of_version_3_had_started_starts_no_second_time(store_3: Path) -> None:
    async with Lab(f"sqlite:///{store_3}") as lab:

        class Old(Saga):
            saga_name = "old"

            @trigger(source="memory", topic="keyed", idempotency_key="k")
            def keyed(self, event):
                return {}

            @trigger(source="memory", topic="by_id")
            def by_id(self, event):
                return {}

        for key, id, kind in [("a.csv", "x1", "duplicate"), (7, "x2", "duplicate"), ("7", "x3", "duplicate"),
                              ([1, "x"], "x4", "duplicate"), ("new", "i1", "duplicate"), ("undone", "i3", "duplicate"),
                              ("undone", "x5", "started")]:  # fmt: skip
            (outcome,) = await lab.fire("old.keyed", {"k": key}, id=id)
            assert (key, outcome.kind) == (key, kind)
        assert (await lab.fire("old.by_id", {}, id="i4"))[0].run_id == "i4-run"


async def test_an_upgraded_store_has_the_tables_of_a_new_one(path, tmp_path):
    for each in (path, tmp_path / "new.db"):
        store = SqlStore(SqliteDriver(each))
        await store.open("this notebook")
        await store.close()
    assert shape(path) == shape(tmp_path / "new.db")


def test_reading_an_old_store_upgrades_it_too(path):
    assert [row[0] for row in SqlStore(SqliteDriver(path)).rows("dead_letters", None)[1]] == ["d2"]
    assert shape(path)["version"] == (VERSION,)


async def test_an_upgrade_that_fails_leaves_the_store_as_it_was(tmp_path):
    path = tmp_path / "lab.db"
    make_old(path, 1)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE publications (mine)")
    before = shape(path)
    with pytest.raises(StoreUnavailable, match="publications already exists"):
        await SqlStore(SqliteDriver(path)).open("this notebook")
    assert shape(path) == before


# --- positions, which triggers shared ---

TO_VERSION_3 = pytest.mark.parametrize("path", [1, 2, 3], indirect=True)


@TO_VERSION_3
async def test_each_trigger_goes_on_where_a_store_of_version_3_had_the_position_of_its_schedule(path: Path) -> None:
    clock = VirtualClock(datetime(2026, 1, 1, 0, 10, 30, tzinfo=UTC))
    with closing(sqlite3.connect(path)) as connection, connection:
        insert(connection, "positions", name="cron * * * * *|UTC", value="2026-01-01T00:07:00+00:00")
        insert(connection, "positions", name="cron of my own", value="7")
        insert(connection, "triggers", name="a.on_tick", owner=1)
        insert(connection, "counts", trigger="b.on_tick", outcome="started", reason="", count=7)
    seen: dict[str, list[str]] = {"a": [], "b": [], "new": []}
    async with Lab(f"sqlite:///{path}", clock=clock) as lab:
        for name in seen:

            class Ticking(Saga):
                saga_name = name

                @trigger(source="cron", schedule="* * * * *", missed="all", overlap="allow")
                def on_tick(self, tick):
                    seen[type(self).saga_name].append(f"{tick.scheduled_for:%H:%M}")
                    return {}

        await lab.start()
        await clock.advance(30)
        await lab.drain()
        assert await lab.store.positions().get("cron of my own") == "7"
        assert await lab.store.positions().get("cron * * * * *|UTC") is None
    assert seen == {
        "a": ["00:08", "00:09", "00:10", "00:11"],
        "b": ["00:08", "00:09", "00:10", "00:11"],
        "new": ["00:11"],
    }


@TO_VERSION_3
async def test_of_several_schedules_a_trigger_has_the_position_of_those_that_it_has_run_on(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for name, value in [("cron 0 3 * * *|UTC", "2026-01-05T03:00:00+00:00"),
                            ("cron 0 4 * * *|UTC", "2026-01-02T04:00:00+00:00"),
                            ("cron @hourly|UTC", "2026-01-09T12:00:00+00:00"),
                            ("dead_letters a.on|", "7"), ("dead_letters |saga", "12")]:  # fmt: skip
            insert(connection, "positions", name=name, value=value)
        for n, trigger_, id in [(20, "edited.on", "0 3 * * *|UTC/2026-01-05T03:00:00Z"),
                                (21, "edited.on", "0 4 * * *|UTC/2026-01-02T04:00:00Z"),
                                (22, "steady.on", "0 4 * * *|UTC/2026-01-01T04:00:00Z")]:  # fmt: skip
            insert(connection, "runs", seq=n, run_id=f"r{n}", saga="s", revision=1, trigger=trigger_, attempt=1,
                   status="completed", owner=1, event_id=id, event=event(id), context=b"{}", started_at=AT)  # fmt: skip
        for name in ("edited.on", "steady.on", "skips.on"):
            insert(connection, "triggers", name=name, owner=1)
    store = SqlStore(SqliteDriver(path))
    await store.open("this notebook")
    found = {name: await store.positions().get(f"cron 0 of {name}.on") for name in ("edited", "steady", "skips")}
    assert found == {
        "edited": "2026-01-05T03:00:00+00:00",
        "steady": "2026-01-02T04:00:00+00:00",
        "skips": "2026-01-09T12:00:00+00:00",
    }
    assert await store.positions().get("dead_letters 0 of skips.on") == "7"
    await store.close()


@TO_VERSION_3
async def test_who_made_a_revision_of_version_3_is_kept_with_it(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for number, maker in ((1, "a, process 7"), (2, None)):
            insert(connection, "revisions", saga="my saga", number=number, digest="d", source_text="code", at=AT)
            if maker:
                insert(connection, "positions", name=f"revision my saga {number}", value=maker)
    store = SqlStore(SqliteDriver(path))
    assert [row.made_by for row in store.revisions("my saga")] == ["a, process 7", ""]
    await store.open("this notebook")
    assert await store.positions().get("revision my saga 1") is None
    await store.close()
