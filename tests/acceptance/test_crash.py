"""A process is killed at every record boundary; the next one goes on, and the world outside cannot tell."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

import pytest

from sagaz_lab.stores import open_store
from tests.services.postgres import PostgresServer

CHILD = Path(__file__).with_name("crash_child.py")


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """The address of the folder's store."""
    if request.param == "sqlite":
        return sqlite_address
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return cache(lambda folder: server.fresh())


def sqlite_address(folder: Path) -> str:
    return f"sqlite:///{folder / 'lab.db'}"


def child(
    folder: Path, kill_at: int, when: str, mode: str, store: str | None = None
) -> subprocess.CompletedProcess[str]:
    where, ledger = store or sqlite_address(folder), folder / "ledger"
    command = [sys.executable, str(CHILD), where, str(ledger), str(kill_at), when, mode]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def effects(folder: Path) -> list[str]:
    ledger = folder / "ledger"
    return [line.split()[0] for line in ledger.read_text().splitlines()] if ledger.exists() else []


def once(names: list[str]) -> list[str]:
    """A ledger that knows the idempotency key enters each effect once."""
    return list(dict.fromkeys(names))


def finished(store: str) -> set[str]:
    """The actions that the journal has as finished."""
    columns, rows = open_store(store).rows("steps", None)
    facts = [dict(zip(columns, row, strict=True)) for row in rows]
    return {f["action"] for f in facts if f["kind"] == "action" and f["status"] == "completed"}


@pytest.mark.parametrize("mode", ["ok", "fails"])
def test_killed_at_a_record_boundary_a_run_ends_as_if_it_had_not_been(
    tmp_path: Path, mode: str, address: Callable[[Path], str]
) -> None:
    """With SQLite at every boundary, with PostgreSQL at some: what follows from them is the same code."""
    whole = tmp_path / "whole"
    whole.mkdir()
    told = child(whole, 0, "after", mode, address(whole))
    boundaries = int(told.stdout.split()[-1])
    uncrashed = effects(whole)
    assert boundaries >= 13, told.stderr
    for kill_at in range(1, boundaries + 1, 1 if address is sqlite_address else 5):
        for when in ("before", "after"):
            folder = tmp_path / f"{when}-{kill_at}"
            folder.mkdir()
            store = address(folder)
            assert child(folder, kill_at, when, mode, store).returncode == -signal.SIGKILL
            done_before = finished(store)
            at_kill = effects(folder)
            resumed = child(folder, 0, "after", "resume", store)
            assert resumed.returncode == 0, resumed.stderr
            ledger = effects(folder)
            if not at_kill and not ledger:
                assert when == "before"  # the event itself had not been accepted
                continue
            same = {"b": "b or c", "c": "b or c"}  # these two run at the same time, in either order
            assert [same.get(e, e) for e in once(ledger)] == [same.get(e, e) for e in uncrashed], (kill_at, when)
            assert all(ledger.count(name) == 1 for name in done_before), (kill_at, when, ledger)


def test_the_journal_of_a_killed_process_is_whole(tmp_path: Path) -> None:
    child(tmp_path, 5, "after", "ok")
    with closing(sqlite3.connect(tmp_path / "lab.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
