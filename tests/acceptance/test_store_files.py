"""A file of the store that vanishes or is replaced while it is open is reported at once, and intake stops."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from sagaz_lab.errors import StoreUnavailable
from tests.unit.tools import Taps, until


def delete(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.rename(file)


def define() -> type[Saga]:
    class Flow(Saga):
        saga_name = "flow"

        @trigger(source="memory", topic="flow", idempotency_key="n")
        def on_event(self, event: Any) -> dict[str, Any]:
            return {"n": event["n"]}

        @action("note")
        async def note(self, ctx: SagaContext) -> None: ...

    return Flow


@pytest.mark.parametrize("harm", [delete, replace])
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_a_file_that_is_not_the_one_that_was_opened_is_reported_and_nothing_more_is_taken(
    tmp_path: Path, suffix: str, harm: Callable[[Path], None]
) -> None:
    file = tmp_path / f"lab.db{suffix}"
    taps, reports = Taps(), list[str]()
    async with Lab(store=f"sqlite:///{tmp_path / 'lab.db'}", sources={"memory": taps}) as lab:
        define()
        lab.on_report(lambda kind, text: reports.append(text) if kind == "store" else None)
        await lab.start()
        await lab.fire("flow.on_event", {"n": 0})
        await lab.drain()
        harm(file)
        await taps["flow"].put({"n": 1})
        await until(lambda: reports)
        assert f"{file} {'is gone' if harm is delete else 'was replaced'}" in reports[0]
        with pytest.raises(StoreUnavailable, match="put it back"):
            await lab.fire("flow.on_event", {"n": 2})
        assert lab.counters()["flow.on_event"]["received"] == 1


async def test_what_had_been_stored_when_the_log_was_deleted_is_in_the_database(tmp_path: Path) -> None:
    path = tmp_path / "lab.db"
    async with Lab(store=f"sqlite:///{path}") as lab:
        define()
        await lab.start()
        await lab.fire("flow.on_event", {"n": 0})
        await lab.drain()
        delete(tmp_path / "lab.db-wal")
        with pytest.raises(StoreUnavailable, match="all stored data is safe"):
            await lab.fire("flow.on_event", {"n": 1})
        (tmp_path / "as-after-a-kill.db").write_bytes(path.read_bytes())
    with closing(sqlite3.connect(tmp_path / "as-after-a-kill.db")) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("completed",)]


async def test_a_log_that_is_put_back_lets_intake_go_on(tmp_path: Path) -> None:
    log, away = tmp_path / "lab.db-wal", tmp_path / "away"
    async with Lab(store=f"sqlite:///{tmp_path / 'lab.db'}") as lab:
        define()
        await lab.start()
        log.rename(away)
        with pytest.raises(StoreUnavailable):
            await lab.fire("flow.on_event", {"n": 0})
        away.rename(log)
        [outcome] = await lab.fire("flow.on_event", {"n": 0})
        assert outcome.kind == "started"
