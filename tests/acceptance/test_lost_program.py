"""`sagaz-lab run` ends when another process has taken its triggers."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sagaz_lab.cli import FAILED
from sagaz_lab.errors import TriggersOwned
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from tests.acceptance.test_cli import SLOW, running, wait_for


async def test_a_program_whose_triggers_were_taken_ends_as_failed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "600"))
    path = tmp_path / ".sagaz_lab" / "lab.db"
    with running(tmp_path, "slow") as process:
        wait_for((tmp_path / "started").exists)
        other = SqlStore(SqliteDriver(path))
        await other.open("another")
        taken = False
        while not taken:  # its heartbeat may come between the two
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute("UPDATE owners SET heartbeat_at = heartbeat_at - 60 WHERE epoch = 1")
            with suppress(TriggersOwned):
                await other.own_triggers(["slow.on_tick"])
                taken = True
        assert process.wait(30) == FAILED
        assert "another process has taken over" in process.stderr.read()
        await other.close()
