"""What the PostgreSQL store promises beyond the suite: many writers, lost connections, addresses."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from random import Random

import pytest

from sagaz_lab import Lab, Saga, skip, trigger
from sagaz_lab.abc import Acceptance, Ending, Refusal, Store
from sagaz_lab.errors import LeaseLost, StoreError, StoreTooNew, StoreUnavailable
from sagaz_lab.model.run import RunStatus
from sagaz_lab.runtime import heartbeat
from sagaz_lab.stores import open_store
from sagaz_lab.stores.sql import postgres_driver
from sagaz_lab.stores.sql.postgres_driver import PostgresDriver
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.testing.store_values import (
    AT,
    TRIGGER,
    dead_letter,
    finished,
    frame,
    loaded,
    new_run,
    take,
    waiting_event,
)
from tests.services.postgres import PostgresServer, running_postgres
from tests.services.proxy import Proxy
from tests.unit.tools import until

OWNERS = 4


@pytest.fixture
def address(postgres_server: PostgresServer) -> str:
    return postgres_server.fresh()


@pytest.fixture
async def stores(address: str, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """The same data, opened by several owners."""
    found = [open_store(address, artifacts=tmp_path / "artifacts") for _ in range(OWNERS)]
    for n, store in enumerate(found):
        await store.open(f"owner {n}")
    yield found
    for store in found:
        await store.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    with running_postgres() as server:
        yield server


# --- tables and statements ---


async def test_both_databases_have_the_same_tables_and_columns(
    stores: list[Store], address: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    with postgres_server.client() as client:
        ours = client.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s",
            (address.rpartition("=")[2],),
        ).fetchall()
    with closing(SqliteDriver(tmp_path / "lab.db").connect()) as connection:
        theirs = connection.execute(
            "SELECT tables.name, columns.name FROM sqlite_schema AS tables, pragma_table_info(tables.name) AS columns "
            "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite_%'"
        ).fetchall()
    assert set(ours) - {("sagaz_store", "version")} == set(theirs)


async def test_the_server_understands_every_statement(
    stores: list[Store], address: str, postgres_server: PostgresServer
) -> None:
    sql = PostgresDriver(address).sql
    with postgres_server.client() as client:
        client.execute(f"SET search_path = {address.rpartition('=')[2]}")
        for name, statement in sql.items():
            types = "(bigint, float8, bigint)" if name == "complete_runs" else ""  # of VALUES alone it cannot tell
            client.execute(f"PREPARE {name}_{types} AS {statement}")
        assert client.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (len(sql),)


# --- many writers ---


async def test_of_many_who_claim_the_same_at_once_one_gets_each_claim(stores: list[Store]) -> None:
    async def claim(n: int, store: Store) -> list[str]:
        got: list[str] = []
        for turn in range(15):
            claims = range(8) if n % 2 else reversed(range(8))  # in both directions
            runs = [new_run(f"r{n}-{turn}-{claim}", claim=f"c{turn}-{claim}") for claim in claims]
            refused = await take(store, *runs)
            got += [run.claim or "" for run in runs if run.run_id not in refused]
        return got

    taken = [claim for got in await asyncio.gather(*map(claim, range(OWNERS), stores)) for claim in got]
    assert sorted(taken) == sorted(f"c{turn}-{claim}" for turn in range(15) for claim in range(8))


async def test_of_runs_waiting_events_and_letters_with_one_claim_one_is_accepted(stores: list[Store]) -> None:
    batches = [
        lambda n: Acceptance(runs=[new_run(f"r{n}", claim=f"c{n}")]),
        lambda n: Acceptance(waiting=[waiting_event(f"h{n}", claim=f"c{n}")]),
        lambda n: Acceptance(dead=[dead_letter(f"d{n}", claim=f"c{n}", claim_until=AT + 60)]),
        lambda n: Acceptance(runs=[new_run(f"other{n}", claim=f"c{n}", cooldown=("k", AT))]),
    ]
    for n in range(15):
        answers = await asyncio.gather(*(store.accept(make(n)) for store, make in zip(stores, batches, strict=True)))
        assert sorted(map(len, answers)) == [0, 1, 1, 1]


async def test_of_runs_with_one_cooldown_one_is_accepted(stores: list[Store]) -> None:
    for n in range(15):
        runs = [new_run(f"r{n}-{owner}", cooldown=(f"k{n}", AT + 60)) for owner in range(OWNERS)]
        answers = await asyncio.gather(*(take(store, run) for store, run in zip(stores, runs, strict=True)))
        assert sorted(map(len, answers)) == [0, 1, 1, 1]


async def test_a_trigger_gets_one_owner_and_a_run_one_heir(stores: list[Store], address: str, tmp_path: Path) -> None:
    left = open_store(address, artifacts=tmp_path / "artifacts")
    await left.open("one that stops")
    await take(left, *(new_run(f"r{n}") for n in range(20)))
    await left.close()
    owned = await asyncio.gather(*(store.own_triggers([TRIGGER]) for store in stores), return_exceptions=True)
    assert [isinstance(it, Exception) for it in owned].count(False) == 1
    heirs = await asyncio.gather(*(store.interrupted() for store in stores))
    assert sorted(run.run_id for runs in heirs for run in runs) == sorted(f"r{n}" for n in range(20))
    adopted = await asyncio.gather(*(store.adopt("r0") for store in stores))
    assert adopted.count(True) == 1  # its owner says so too


async def test_whoever_reads_letters_on_misses_none(stores: list[Store]) -> None:
    seen: list[str] = []
    number = 0

    async def read_on() -> None:
        nonlocal number
        for last, letter in await stores[0].letters_after(number, 1000):
            number = last
            seen.append(letter.id)

    async def bury(n: int, store: Store) -> None:
        for turn in range(20):
            await store.accept(Acceptance(dead=[dead_letter(f"d{n}-{turn}")]))

    writing = asyncio.gather(*map(bury, range(OWNERS), stores))
    while not writing.done():
        await read_on()
    await read_on()
    assert len(seen) == OWNERS * 20


async def test_a_fenced_owner_writes_nothing_more(stores: list[Store], postgres_server: PostgresServer) -> None:
    old, new, *_ = stores
    await take(old, new_run("r1"))
    schema = str(old.url).rpartition("=")[2]
    with postgres_server.client() as client:
        client.execute(f"UPDATE {schema}.owners SET heartbeat_at = heartbeat_at - 60 WHERE epoch = 1")
    assert [run.run_id for run in await new.interrupted()] == ["r1"]
    assert old.lease_lost()
    with pytest.raises(LeaseLost):
        await old.append([finished("r1")])
    assert len((await loaded(new, "r1")).records) == 1


async def test_a_writer_that_stands_still_holds_others_up_for_a_while_only(
    stores: list[Store], postgres_server: PostgresServer
) -> None:
    schema = str(stores[0].url).rpartition("=")[2]
    with postgres_server.client() as client:
        client.execute(f"BEGIN; INSERT INTO {schema}.claims (trigger, claim, run_id) VALUES ('{TRIGGER}', 'c', 'r')")
        with pytest.raises(StoreUnavailable, match="another process has been writing the same rows for 5 s"):
            await take(stores[0], new_run("r1", claim="c"))
        client.execute("ROLLBACK")
    assert await take(stores[0], new_run("r1", claim="c")) == {}


# --- the server goes away ---


async def test_what_was_accepted_survives_a_crash_of_the_server_and_all_goes_on(
    own_server: PostgresServer, tmp_path: Path
) -> None:
    address = own_server.fresh()
    store = open_store(address, artifacts=tmp_path / "artifacts")
    await store.open("this notebook")
    await take(store, new_run("r1", started=()))
    own_server.kill()
    with pytest.raises(StoreUnavailable):
        await store.append([finished("r1", "lost")])
    with pytest.raises(StoreUnavailable):
        store.rows("runs", None)
    with pytest.raises(StoreUnavailable):
        await store.load("r1")
    assert not store.lease_lost()
    own_server.start()
    await store.append([finished("r1")])
    assert [it.action for it in (await loaded(store, "r1")).records] == ["reserve"]
    assert len(store.rows("runs", None)[1]) == 1
    await store.end("r1", Ending(RunStatus.COMPLETED), attempt=1, at=AT)
    await store.close()


async def test_after_each_connection_was_cut_the_same_call_goes_through(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with Proxy(postgres_server.port) as proxy:
        address = postgres_server.fresh().replace(str(postgres_server.port), str(proxy.port))
        store = open_store(address, artifacts=tmp_path / "artifacts")
        await store.open("this notebook")
        await take(store, new_run("r1", started=()))
        for n in range(3):
            proxy.reset()
            await store.append([finished("r1", f"a{n}")])
            assert len((await asyncio.to_thread(store.run, "r1")).records) == n + 1  # type: ignore[union-attr]
        await store.close()


async def test_a_network_that_is_gone_does_not_hold_up_the_loop(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    async with Proxy(postgres_server.port) as proxy:
        address = postgres_server.fresh().replace(str(postgres_server.port), str(proxy.port))
        store = open_store(address, artifacts=tmp_path / "artifacts")
        await store.open("this notebook")
        proxy.black_hole()
        appending = asyncio.ensure_future(take(store, new_run("r1")))
        for _ in range(3):
            since = asyncio.get_running_loop().time()
            assert not store.lease_lost()
            assert asyncio.get_running_loop().time() - since < 1
        assert not appending.done()
        proxy.heal()
        assert await appending == {}
        await store.close()


async def test_a_commit_whose_answer_is_lost_is_known_to_have_been_made(
    stores: list[Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = stores[0]
    plain = postgres_driver.PostgresConnection.execute
    cut: list[str] = []

    def execute(self: postgres_driver.PostgresConnection, query: object, *values: object) -> object:
        if query != "COMMIT" or cut:
            return plain(self, query, *values)  # type: ignore[arg-type]
        cut.append("COMMIT")
        plain(self, "COMMIT")
        self.close()
        raise postgres_driver.psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(postgres_driver.PostgresConnection, "execute", execute)
    assert await take(store, new_run("r1")) == {}
    assert cut
    assert await take(store, new_run("r1")) == {"r1": Refusal("r1", RunStatus.RUNNING)}


# --- addresses ---


@pytest.mark.parametrize(
    "address", ["postgresql://lab:C4n4ryPW@127.0.0.1:1/db", "postgresql://127.0.0.1:1/db?user=lab&password=C4n4ryPW"]
)
async def test_a_password_is_never_shown(address: str, tmp_path: Path) -> None:
    store = open_store(address, artifacts=tmp_path / "artifacts")
    with pytest.raises(StoreUnavailable) as caught:
        await store.open("this notebook")
    assert store.url == "postgresql://lab@127.0.0.1:1/db"
    assert "C4n4ry" not in f"{caught.value!r} {store!r} {vars(store)['url']} {store.driver!r}"  # type: ignore[attr-defined]
    assert "127.0.0.1" in str(caught.value)


def test_an_address_that_cannot_be_read_is_refused_without_its_password() -> None:
    with pytest.raises(StoreError, match="cannot be parsed: write postgresql://") as caught:
        open_store("postgresql://lab:C4n4ryPW@localhost/db?sslmoed=require")
    assert "C4n4ry" not in str(caught.value)


async def test_a_database_that_is_not_there_is_named_with_the_cure(address: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist'):
        await open_store(address.replace("/postgres?", "/nowhere?"), artifacts=tmp_path).open("this notebook")


async def test_a_store_of_a_newer_version_is_refused(
    stores: list[Store], address: str, postgres_server: PostgresServer
) -> None:
    with postgres_server.client() as client:
        client.execute(f"UPDATE {address.rpartition('=')[2]}.sagaz_store SET version = 99")
    with pytest.raises(StoreTooNew, match="version 99"):
        await open_store(address).open("this notebook")
    with pytest.raises(StoreTooNew):
        open_store(address).rows("runs", None)


async def test_tables_of_another_program_are_left_alone(
    address: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    schema = address.rpartition("=")[2]
    with postgres_server.client() as client:
        client.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.runs (mine text)")
        with pytest.raises(StoreUnavailable, match="it has a table of another program"):
            await open_store(address, artifacts=tmp_path).open("this notebook")
        assert client.execute(f"SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}'").fetchone() == (1,)


async def test_many_open_a_store_that_nobody_has_made_yet(address: str, tmp_path: Path) -> None:
    assert open_store(address, artifacts=tmp_path).rows("runs", None)[1] == []
    async with AsyncExitStack() as stack:
        found = [open_store(address, artifacts=tmp_path) for _ in range(OWNERS)]
        for store in found:
            stack.push_async_callback(store.close)
        owners = await asyncio.gather(*(store.open("one of many") for store in found))
    assert len({owner.epoch for owner in owners}) == OWNERS


async def test_any_text_comes_back_as_it_was(stores: list[Store]) -> None:
    odd = "nul \0, noncharacters \uffff0 \uffff1, a mark \x1f, an escape \\000 and ☃"
    await take(stores[0], new_run("r1", claim=odd, declared=f"\x1f{odd}"))
    await stores[0].append([finished("r1", error=odd)])
    assert (await loaded(stores[1], "r1")).records[-1].error == odd
    assert list(await stores[1].seen(TRIGGER, [odd, "nul 0"])) == [odd]
    assert await stores[1].forget(TRIGGER, odd) == 2


async def test_texts_of_the_user_that_are_longer_than_a_row_of_an_index_do_not_stop_it(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.05)
    letters = Random(1)

    def text(length: int) -> str:
        return "".join(chr(letters.randrange(0x4E00, 0x9FA6)) for _ in range(length))

    store = open_store(address, artifacts=tmp_path / "artifacts")
    async with Lab(store) as lab:

        class Long(Saga):
            @trigger(source="memory", idempotency_key="order", cooldown="1h", concurrency_key="order")
            def on_event(self, event):
                return skip(event["why"]) if "why" in event.payload else {}

        for n in range(2):
            assert (await lab.fire("Long.on_event", {"order": text(1024)}, id=text(9000)))[0].kind == "started"
            await lab.fire("Long.on_event", {"order": f"k-{n}", "why": text(30_000)})
        await lab.fire("Long.on_event", {"order": "k-3", "why": "too low"})
        await until(lambda: len(frame(store, "counts")) == 3)
        assert sorted((row["count"], len(row["reason"])) for row in frame(store, "counts")) == [
            (1, 7),
            (1, 203),
            (1, 203),
        ]
        assert not lab.status().warnings


def test_without_psycopg_one_error_says_what_to_install() -> None:
    script = """
import sys
sys.modules["psycopg"] = None
from sagaz_lab.stores import open_store
try:
    open_store("postgresql://localhost/lab")
except Exception as error:
    print(type(error).__name__, error)
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.startswith("StoreError a postgresql store needs psycopg: pip install 'sagaz-lab[postgres]'")
