"""Which file the address of a SQLite store names, and in which folder a store keeps its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagaz_lab import Lab, Saga, action
from sagaz_lab.errors import DefinitionError, StoreError
from sagaz_lab.stores import open_store


@pytest.mark.parametrize("path", [":memory:", "file::memory:", "/:memory:"])
def test_sqlite_in_memory_is_refused(path: str) -> None:
    with pytest.raises(StoreError, match=r"is not supported; write 'memory'"):
        open_store(f"sqlite:///{path}")


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("sqlite:///~/x.db").driver.path == tmp_path / "x.db"  # type: ignore[attr-defined]
    assert str(open_store("sqlite:///a~/x.db").driver.path).endswith("a~/x.db")  # type: ignore[attr-defined]


def test_an_unknown_users_home_is_refused() -> None:
    with pytest.raises(StoreError, match=r"the home of '~nobody-here' is unknown"):
        open_store("sqlite:///~nobody-here/x.db")


async def test_large_values_go_to_the_folder_that_the_lab_names(tmp_path: Path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db", artifacts=tmp_path / "files") as lab:
        with lab.activate():

            class Large(Saga):
                @action("make")
                def make(self, ctx: object) -> bytes:
                    return b"x" * 100_000

            await Large().run({})
    assert [path.stat().st_size for path in (tmp_path / "files").rglob("*.bin")] == [100_000]
    assert not (tmp_path / "artifacts").exists()


def test_a_store_that_is_given_has_its_folder_already() -> None:
    with pytest.raises(DefinitionError, match="artifacts= goes with the address of a store"):
        Lab(open_store("memory"), artifacts="files")
