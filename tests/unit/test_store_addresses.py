"""Which file the address of a SQLite store names."""

from __future__ import annotations

from pathlib import Path

import pytest

from sagaz_lab.errors import StoreError
from sagaz_lab.stores import open_store


@pytest.mark.parametrize("path", [":memory:", "file::memory:", "/:memory:"])
def test_sqlite_in_memory_is_refused(path: str) -> None:
    with pytest.raises(StoreError, match=r"keeps nothing; write 'memory'"):
        open_store(f"sqlite:///{path}")


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_store("sqlite:///~/x.db").driver.path == tmp_path / "x.db"  # type: ignore[attr-defined]
    assert str(open_store("sqlite:///a~/x.db").driver.path).endswith("a~/x.db")  # type: ignore[attr-defined]


def test_an_unknown_users_home_is_refused() -> None:
    with pytest.raises(StoreError, match=r"no home of '~nobody-here'"):
        open_store("sqlite:///~nobody-here/x.db")
