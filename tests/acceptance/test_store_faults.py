"""What goes wrong with a store's file is one clear error, loses nothing, and ends when its cause does."""

import asyncio
import resource
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from sagaz_lab.abc import KEY_MARK, Acceptance, Ending, Member, NewRun, Publication, WaitingEvent
from sagaz_lab.errors import LeaseLost, StoreTooNew, StoreUnavailable
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Record, RecordKind, RunStatus
from sagaz_lab.stores import open_store
from sagaz_lab.stores.sql.sqlite_driver import SqliteConnection, SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from sagaz_lab.stores.values.encoding import is_ref

AT = 1_700_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lab.db"


@pytest.fixture
async def store(path):
    store = SqlStore(SqliteDriver(path))
    await store.open("this notebook")
    yield store
    await store.close()


async def start(store, run_id: str, **fields) -> None:
    run = NewRun(run_id=run_id, saga="orders", revision=1, trigger="orders.on_order", event=Event({}, f"e-{run_id}"),
                 context={}, at=AT, **fields)  # fmt: skip
    assert await store.accept(Acceptance(runs=[run])) == {}


def finished(run_id: str, value=None) -> Record:
    return Record(run_id, 1, RecordKind.ACTION_FINISHED, "reserve", 1, AT, value=value)


def change(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)


@contextmanager
def files_of_at_most(size: int):
    """A disk that is full: no file can grow beyond this."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_the_file_and_its_folder_are_the_users_own(tmp_path):
    async def open_and_close():
        store = open_store(f"sqlite:///{tmp_path}/.sagaz_lab/lab.db")
        await store.open("this notebook")
        await store.close()

    asyncio.run(open_and_close())
    folder = tmp_path / ".sagaz_lab"
    assert (folder.stat().st_mode & 0o777, (folder / "lab.db").stat().st_mode & 0o777) == (0o700, 0o600)


async def test_after_a_full_disk_the_store_goes_on(store, path):
    await start(store, "r1")
    big = [finished("r1", "x" * 3_000_000), finished("r1", "small")]
    with files_of_at_most(path.stat().st_size + 1_000_000):
        results = await asyncio.gather(*(store.append([record]) for record in big), return_exceptions=True)
    assert isinstance(results[0], StoreUnavailable)
    assert results[1] is None, "what still fits is not spoiled"
    await store.append([finished("r1", "later")])
    assert [record.value for record in (await store.load("r1")).records] == ["small", "later"]


async def test_after_a_full_disk_artifacts_are_written_again(store):
    await start(store, "r1")
    with files_of_at_most(100_000), pytest.raises(StoreUnavailable, match="artifacts"):
        await store.append([finished("r1", b"x" * 1_000_000)])
    await store.append([finished("r1", b"y" * 1_000_000)])
    (record,) = (await store.load("r1")).records
    assert record.value.load() == b"y" * 1_000_000


class Small(SqliteDriver):
    """Its file cannot grow beyond a few pages."""

    def connect(self) -> SqliteConnection:
        connection = super().connect()
        connection.execute("PRAGMA max_page_count = 60")
        return connection


async def test_a_full_database_is_told_as_one(path):
    store = SqlStore(Small(path))
    await store.open("this notebook")
    await start(store, "r1")
    with pytest.raises(StoreUnavailable, match="disk is full; free some space"):
        await store.append([finished("r1", "x" * 1_000_000)])
    await store.append([finished("r1")])
    await store.close()


async def test_a_file_of_a_newer_version_is_left_alone(path):
    change(path, "PRAGMA user_version = 7")
    change(path, "PRAGMA application_id = 0x5361676C")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew, match=r"version 7 .* knows version 5.*upgrade"):
        await SqlStore(SqliteDriver(path)).open("this notebook")
    with pytest.raises(StoreTooNew):
        SqlStore(SqliteDriver(path)).rows("runs", None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"a letter to my aunt" * 1000, b"SQLite format 3\x00" + b"\xff" * 9000])
async def test_a_file_that_is_no_database_is_left_alone(path, content):
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"lab.db: .*(not a SQLite database|damaged)"):
        await SqlStore(SqliteDriver(path)).open("this notebook")
    assert path.read_bytes() == content


async def test_another_programs_database_is_left_alone(path):
    change(path, "CREATE TABLE photos (name)")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match="another program's"):
        await SqlStore(SqliteDriver(path)).open("this notebook")
    assert path.read_bytes() == before


async def test_a_file_that_is_gone_is_told_until_it_is_back(store, path):
    await start(store, "r1")
    path.rename(path.with_suffix(".away"))
    with pytest.raises(StoreUnavailable, match="is gone"):
        await store.append([finished("r1")])
    path.with_suffix(".away").rename(path)
    await store.append([finished("r1")])
    assert len((await store.load("r1")).records) == 1


async def test_a_missing_store_has_empty_frames(path):
    assert SqlStore(SqliteDriver(path)).rows("steps", None)[1] == []
    assert not path.exists()


async def test_another_process_that_writes_for_long_is_told(path, monkeypatch):
    monkeypatch.setattr("sagaz_lab.stores.sql.sqlite_driver.BUSY_MS", 100)
    store = SqlStore(SqliteDriver(path))
    await store.open("this notebook")
    with closing(sqlite3.connect(path, isolation_level=None)) as another:
        another.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="another process has been writing"):
            await start(store, "r1")
        another.execute("ROLLBACK")
    await start(store, "r1")
    await store.close()


READ_ONLY = """
import asyncio, os, sys
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.sql.sqlite_driver import SqliteConnection, SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
if os.getuid() == 0:
    os.setuid(65534)
store = SqlStore(SqliteDriver(sys.argv[1]))
try:
    asyncio.run(store.open("a reader"))
except StoreUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_file_or_folder_is_told_with_the_cure(what, path):
    asyncio.run(_make(path) if what == "file" else asyncio.sleep(0))
    for folder in (path.parent, *list(path.parents)[:3]):
        folder.chmod(0o755)
    if what == "file":
        path.chmod(0o444)
    shown = subprocess.run([sys.executable, "-c", READ_ONLY, path], check=False, capture_output=True, text=True)
    assert str(path) in shown.stdout, shown.stderr
    assert "writable" in shown.stdout


async def _make(path: Path) -> None:
    store = SqlStore(SqliteDriver(path))
    await store.open("the writer")
    await store.close()


async def test_an_owner_that_was_silent_too_long_goes_on_if_nobody_took_over(store, path):
    await start(store, "r1")
    change(path, "UPDATE owners SET heartbeat_at = heartbeat_at - 60")
    await store.append([finished("r1")])
    await store.heartbeat()


async def test_an_owner_whose_loop_is_held_up_keeps_its_runs(store, path, monkeypatch):
    await start(store, "r1")
    monkeypatch.setattr("sagaz_lab.stores.sql.writer.BEAT_S", 0.05)
    await store.heartbeat()
    change(path, "UPDATE owners SET heartbeat_at = heartbeat_at - 60")
    time.sleep(2)  # as a cell does
    other = SqlStore(SqliteDriver(path))
    await other.open("another notebook")
    assert await other.interrupted() == []
    await store.append([finished("r1")])
    await other.close()


async def test_an_owner_whose_runs_were_taken_over_writes_nothing_more(store, path):
    await start(store, "r1")
    change(path, "UPDATE owners SET heartbeat_at = heartbeat_at - 60")
    other = SqlStore(SqliteDriver(path))
    await other.open("another notebook")
    assert [run.run_id for run in await other.interrupted()] == ["r1"]
    with pytest.raises(LeaseLost, match="taken over"):
        await store.append([finished("r1", "mine")])
    with pytest.raises(LeaseLost):
        await store.heartbeat()
    await other.append([finished("r1", "theirs")])
    assert [record.value for record in (await other.load("r1")).records] == ["theirs"]
    await other.close()


async def test_what_has_outlived_its_retention_goes_with_all_that_is_its(path):
    store = SqlStore(SqliteDriver(path), retention_days=1)
    await store.open("this notebook")
    for run_id, until in (("old", None), ("claimed", AT + 1e10), ("live", None)):
        await start(store, run_id, claim=run_id, claim_until=until)
        await store.append([finished(run_id, b"x" * 10_000)])
        if run_id != "live":
            await store.end(run_id, Ending(RunStatus.COMPLETED), attempt=1, at=AT)
    await store.heartbeat()
    assert [await store.load(run_id) is None for run_id in ("old", "claimed", "live")] == [True, True, False]
    assert [folder.name for folder in (path.parent / "artifacts").iterdir()] == ["live"]
    taken = await store.seen("orders.on_order", ["old", "claimed", "live"])
    assert list(taken) == ["claimed", "live"]
    await store.close()


async def closed_run(store, run_id: str, status: RunStatus = RunStatus.COMPLETED, **fields) -> None:
    await start(store, run_id, **fields)
    await store.end(run_id, Ending(status), attempt=1, at=AT)


def count(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


async def test_the_claims_of_its_members_outlive_a_run_until_their_time_and_not_for_ever(path):
    store = SqlStore(SqliteDriver(path), retention_days=1)
    await store.open("this notebook")
    members = {run_id: [Member(Event({}, str(n)), f"{run_id}-{n}") for n in range(3)] for run_id in ("a", "b", "c")}
    await closed_run(store, "a", members=members["a"])
    await closed_run(store, "b", members=members["b"], claim_until=AT + 1e10)
    keys = {run_id: [Member(Event({}), None, KEY_MARK + f"{run_id}-{n}") for n in range(3)] for run_id in "cde"}
    await closed_run(store, "c", members=keys["c"], declared_until=AT + 1e10, declared_ends=True)
    await closed_run(store, "d", members=keys["d"], declared_until=AT + 1e10)
    await closed_run(store, "e", RunStatus.COMPENSATED, members=keys["e"], declared_until=AT + 1e10)
    await closed_run(store, "f", RunStatus.COMPENSATED, members=[Member(Event({}), "f")], claim_until=AT + 1e10)
    await store.heartbeat()
    assert (count(path, "runs"), count(path, "members")) == (0, 0)
    assert count(path, "claims") == 7
    left = ["b-0", "b-1", "b-2", KEY_MARK + "d-0", KEY_MARK + "d-1", KEY_MARK + "d-2", "f"]
    assert list(await store.seen("orders.on_order", left)) == left
    change(path, "UPDATE claims SET until = 1")
    await store.heartbeat()
    assert count(path, "claims") == 0
    await store.close()


async def test_a_cooldown_goes_once_later_runs_have_started(store, path):
    await start(store, "r1", cooldown=("k", AT + 60))
    await store.heartbeat()
    assert count(path, "cooldowns") == 1
    await store.accept(Acceptance(runs=[NewRun(run_id="r2", saga="orders", revision=1, trigger="orders.on_order",
                                               event=None, context={}, at=AT + 60)]))  # fmt: skip
    await store.heartbeat()
    assert count(path, "cooldowns") == 0


async def test_waiting_events_stay_for_any_time_and_their_files_go_with_them(path):
    store = SqlStore(SqliteDriver(path), retention_days=1)
    await store.open("this notebook")
    waiting = [
        WaitingEvent(f"h{n}", "orders.on_order", None, 0, Event(b"x" * 10_000, f"e{n}"), "c", AT) for n in range(2)
    ]
    assert list(await store.accept(Acceptance(waiting=waiting))) == ["h1"]
    await store.heartbeat()
    assert len(list((path.parent / "artifacts").iterdir())) == 1, "the file of the refused one is gone"
    assert [it.event.payload for it in await store.waiting(["orders.on_order"])] == [b"x" * 10_000]
    await store.accept(Acceptance(released=["h0"]))
    await store.heartbeat()
    assert list((path.parent / "artifacts").iterdir()) == []
    await store.close()


async def test_what_a_lost_owner_had_to_publish_goes_to_who_takes_over(store, path):
    await start(store, "r1")
    outbox = [Publication(f"p{n}", "shipped", b"{}", None, "r1") for n in range(2)]
    await store.append([replace(finished("r1"), publications=outbox)])
    change(path, "UPDATE owners SET heartbeat_at = heartbeat_at - 100000")
    other = SqlStore(SqliteDriver(path))
    await other.open("another notebook")
    await other.interrupted()
    await other.heartbeat()
    found = await other.publications(10)
    assert [it.id for _, it in found] == ["p0", "p1"]
    with pytest.raises(LeaseLost):
        await store.published([number for number, _ in found])
    await other.published([number for number, _ in found])
    assert await other.publications(10) == []
    await other.close()


async def test_a_number_of_a_publication_is_never_used_again(store):
    async def number() -> int:
        publication = Publication("p", "shipped", b"{}", None, "r1")
        await store.accept(Acceptance(publications=[publication]))
        ((number, _),) = await store.publications(10)
        await store.published([number])
        return number

    assert [await number() for _ in range(3)] == [1, 2, 3]


async def test_a_large_value_of_one_run_holds_up_no_other(store):
    await start(store, "r1")
    await start(store, "r2")
    done = []

    async def append(run_id, value):
        await store.append([finished(run_id, value)])
        done.append((run_id, len(value)))

    await asyncio.gather(append("r1", b"x" * 20_000_000), append("r1", b"small"), append("r2", b"small"))
    assert done[0] == ("r2", 5)
    assert [is_ref(record.value) for record in (await store.load("r1")).records] == [True, False]
