"""All stores keep the promises of the protocol."""

from pathlib import Path

import pytest

from sagaz_lab.abc import Acceptance
from sagaz_lab.errors import StoreError, UnknownName
from sagaz_lab.stores import open_store
from sagaz_lab.testing.store_values import AT, TRIGGER, new_run, publication, take
from sagaz_lab.testing.stores import MakeStore, StoreSuite
from tests.services.postgres import PostgresServer


class TestMemoryStore(StoreSuite):
    shared = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return lambda: open_store("memory")


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: open_store(f"sqlite:///{tmp_path}/lab.db")


class TestPostgresStore(StoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path, postgres_server: PostgresServer) -> MakeStore:
        address = postgres_server.fresh()
        return lambda: open_store(address, artifacts=tmp_path / "artifacts")


async def test_a_memory_store_keeps_so_many_publications_and_says_what_it_loses(monkeypatch, caplog):
    monkeypatch.setattr("sagaz_lab.stores.memory.outbox.PUBLICATIONS", 3)
    store = open_store("memory")
    for n in range(5):
        await store.accept(Acceptance(publications=[publication(f"p{n}")]))
    assert [it.id for _, it in await store.publications(10)] == ["p2", "p3", "p4"]
    assert "1 publications are lost: more than 3 wait for a broker" in caplog.text


async def test_a_memory_store_keeps_so_many_claims_of_a_trigger(monkeypatch):
    monkeypatch.setattr("sagaz_lab.stores.memory.claims.CLAIMS", 2000)
    store = open_store("memory")
    await take(store, *(new_run(f"r{n}", claim=f"c{n}") for n in range(2001)))
    await take(store, new_run("other", trigger="orders.other", claim="c0"))
    assert len(await store.seen(TRIGGER, [f"c{n}" for n in range(2001)])) == 1001
    assert list(await store.seen("orders.other", ["c0"])) == ["c0"]


async def test_a_memory_store_keeps_the_cooldowns_that_are_not_over():
    store = open_store("memory")
    for n in range(100):
        await take(store, new_run(f"r{n}", at=AT + n, cooldown=(f"k{n}", AT + n + 10)))
    assert len(await store.cooling(TRIGGER, at=0.0)) == 10


def test_an_address_that_names_no_store_says_which_there_are():
    with pytest.raises(UnknownName, match=r"did you mean 'sqlite'.*memory, postgresql, sqlite"):
        open_store("sqllite:///lab.db")
    with pytest.raises(StoreError, match="write 'sqlite"):
        open_store("sqlite:lab.db")
