"""Both stores keep the promises of the protocol."""

from pathlib import Path

import pytest

from sagaz_lab.errors import StoreError, UnknownName
from sagaz_lab.stores import open_store
from sagaz_lab.testing.stores import MakeStore, StoreSuite


class TestMemoryStore(StoreSuite):
    shared = False

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return lambda: open_store("memory")


class TestSqliteStore(StoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> MakeStore:
        return lambda: open_store(f"sqlite:///{tmp_path}/lab.db")


def test_an_address_that_names_no_store_says_which_there_are():
    with pytest.raises(UnknownName, match=r"did you mean 'sqlite'.*memory, sqlite"):
        open_store("sqllite:///lab.db")
    with pytest.raises(StoreError, match="not built yet"):
        open_store("postgresql://localhost/lab")
    with pytest.raises(StoreError, match="write 'sqlite"):
        open_store("sqlite:lab.db")
