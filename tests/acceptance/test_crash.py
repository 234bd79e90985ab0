"""A process is killed at every record boundary; the next one goes on, and the world outside cannot tell."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sagaz_lab.stores import open_store

CHILD = Path(__file__).with_name("crash_child.py")


def child(folder: Path, kill_at: int, when: str, mode: str) -> subprocess.CompletedProcess[str]:
    store, ledger = f"sqlite:///{folder / 'lab.db'}", folder / "ledger"
    command = [sys.executable, str(CHILD), store, str(ledger), str(kill_at), when, mode]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def effects(folder: Path) -> list[str]:
    ledger = folder / "ledger"
    return [line.split()[0] for line in ledger.read_text().splitlines()] if ledger.exists() else []


def once(names: list[str]) -> list[str]:
    """A ledger that knows the idempotency key enters each effect once."""
    return list(dict.fromkeys(names))


def finished(folder: Path) -> set[str]:
    """The actions that the journal has as finished."""
    columns, rows = open_store(f"sqlite:///{folder / 'lab.db'}").rows("steps", None)
    facts = [dict(zip(columns, row, strict=True)) for row in rows]
    return {f["action"] for f in facts if f["kind"] == "action" and f["status"] == "completed"}


@pytest.mark.parametrize("mode", ["ok", "fails"])
def test_killed_at_every_record_boundary_a_run_ends_as_if_it_had_not_been(tmp_path: Path, mode: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    told = child(whole, 0, "after", mode)
    boundaries = int(told.stdout.split()[-1])
    uncrashed = effects(whole)
    assert boundaries >= 13, told.stderr
    for kill_at in range(1, boundaries + 1):
        for when in ("before", "after"):
            folder = tmp_path / f"{when}-{kill_at}"
            folder.mkdir()
            assert child(folder, kill_at, when, mode).returncode == -signal.SIGKILL
            done_before = finished(folder)
            at_kill = effects(folder)
            resumed = child(folder, 0, "after", "resume")
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
