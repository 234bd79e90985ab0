"""A process that is killed loses nothing that was acknowledged, and what it was at is resumed at once."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sagaz_lab.errors import TriggersOwned
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore

WRITER = """
import asyncio, os, sys
from sagaz_lab.abc import Acceptance, Ending, NewRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Publication, Record, RecordKind, RunStatus
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def saga(store, prefix, number):
    run_id = f"{prefix}-{number:06}"
    event = Event({"n": number}, run_id)
    await store.accept(Acceptance(runs=[NewRun(run_id=run_id, saga="s", revision=1, trigger="s.t", event=event,
                                               context={"n": number}, at=1.0, claim=run_id, started=("a",))]))
    say("started", run_id)
    value = b"x" * 5000 if number % 50 == 0 else {"n": number}
    outbox = [Publication(run_id, "topic", b"{}", None, run_id)]
    await store.append([Record(run_id, 1, RecordKind.ACTION_FINISHED, "a", 1, 2.0, ("b",), outbox, value)])
    say("recorded", run_id)
    await store.end(run_id, Ending(RunStatus.COMPLETED, None,
                                   [Record(run_id, 1, RecordKind.ACTION_FINISHED, "b", 1, 3.0)]), attempt=1, at=3.0)
    say("ended", run_id)

async def main(path, prefix):
    store = SqlStore(SqliteDriver(path))
    await store.open(prefix)
    await store.own_triggers([f"{prefix}.t"])
    say("open")
    numbers = iter(range(10**9))
    async def sagas():
        for number in numbers:
            await saga(store, prefix, number)
    await asyncio.gather(*(sagas() for _ in range(30)))

asyncio.run(main(*sys.argv[1:]))
"""


def start_writer(path: Path, prefix: str) -> subprocess.Popen[bytes]:
    with (path.parent / f"{prefix}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-c", WRITER, path, prefix], stdout=log)


def acknowledged(path: Path, prefix: str) -> dict[str, set[str]]:
    said: dict[str, set[str]] = {"started": set(), "recorded": set(), "ended": set()}
    for line in (path.parent / f"{prefix}.log").read_text().splitlines():
        word, _, run_id = line.partition(" ")
        if run_id:
            said[word].add(run_id)
    return said


def wait_for(path: Path, prefix: str, runs: int) -> None:
    deadline = time.monotonic() + 30
    while len(acknowledged(path, prefix)["ended"]) < runs:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed_while_writing(path: Path, prefix: str, after_s: float) -> None:
    writer = start_writer(path, prefix)
    wait_for(path, prefix, 20)
    time.sleep(after_s)
    writer.send_signal(signal.SIGKILL)
    writer.wait()


@pytest.mark.parametrize("kill", range(5))
async def test_every_acknowledged_record_survives_a_kill_and_nothing_is_half(kill, tmp_path):
    path = tmp_path / "lab.db"
    await asyncio.to_thread(killed_while_writing, path, "w", 0.05 * kill)
    said = acknowledged(path, "w")
    store = SqlStore(SqliteDriver(path))
    await store.open("the next notebook")
    left = {run.run_id: run for run in await store.interrupted()}
    outbox = {publication.run_id for _, publication in await store.publications(10**6)}
    for run_id in said["started"]:
        run = await store.load(run_id)
        records = [f"{record.kind}:{record.action}" for record in run.records]
        assert len(records) in (1, 3, 4), "the two records of one call are there together"
        assert len(records) >= (4 if run_id in said["ended"] else 3 if run_id in said["recorded"] else 1)
        assert (run_id in outbox) == (len(records) > 1), "a record and what it publishes are there together"
        assert (run.status == "completed") == (len(records) == 4) == (run_id not in left)
        value = run.records[1].value if len(records) > 1 else None
        assert not hasattr(value, "load") or value.load() == b"x" * 5000
    assert len(left) <= 30
    await store.close()


async def test_a_killed_process_is_followed_at_once_but_a_live_one_is_left_alone(tmp_path):
    path = tmp_path / "lab.db"
    writers = {name: start_writer(path, name) for name in ("first", "second")}
    for name in writers:
        await asyncio.to_thread(wait_for, path, name, 20)
    store = SqlStore(SqliteDriver(path))
    await store.open("the next notebook")
    try:
        assert await store.interrupted() == []
        with pytest.raises(TriggersOwned, match=r"first\.t is already run by first"):
            await store.own_triggers(["first.t"])
        writers["first"].kill()
        writers["first"].wait()
        left = await store.interrupted()
        assert left
        assert {run.run_id.partition("-")[0] for run in left} == {"first"}
        await store.own_triggers(["first.t"])
        before = len(acknowledged(path, "second")["ended"])
        await asyncio.to_thread(wait_for, path, "second", before + 20)
    finally:
        for writer in writers.values():
            writer.kill()
            writer.wait()
        await store.close()
