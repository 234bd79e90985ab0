"""Two processes on one file: each run has one owner, and who comes second hears who was first."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sagaz_lab import Lab
from sagaz_lab.errors import TriggersOwned
from tests.acceptance.owner_child import define

CHILD = Path(__file__).with_name("owner_child.py")


@pytest.fixture
def first_process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(CHILD), f"sqlite:///{tmp_path / 'lab.db'}", str(tmp_path / "ledger")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        yield process
        process.kill()


async def no_wait() -> None: ...


def second_lab(tmp_path: Path) -> Lab:
    return Lab(store=f"sqlite:///{tmp_path / 'lab.db'}")


async def test_a_second_start_is_refused_with_the_name_of_the_live_owner(
    tmp_path: Path, first_process: subprocess.Popen[str]
) -> None:
    async with second_lab(tmp_path) as lab:
        define(tmp_path / "ledger", no_wait)
        with pytest.raises(TriggersOwned, match=f"process {first_process.pid}"):
            await lab.start()


async def test_beside_a_live_owner_one_can_read_and_fire_but_its_claims_hold(
    tmp_path: Path, first_process: subprocess.Popen[str]
) -> None:
    async with second_lab(tmp_path) as lab:
        define(tmp_path / "ledger", no_wait)
        assert list(lab.runs()["status"]) == ["running"]
        [again] = await lab.fire("shared.on_event", {"n": 1}, id="the-event")
        [other] = await lab.fire("shared.on_event", {"n": 2}, id="another")
        await lab.drain()
        assert (again.kind, other.kind) == ("duplicate", "started")
        assert sorted(lab.runs()["status"]) == ["completed", "running"]


async def test_the_run_of_a_killed_process_is_resumed_by_the_next_start_and_by_nobody_else(
    tmp_path: Path, first_process: subprocess.Popen[str]
) -> None:
    first_process.kill()
    first_process.wait()
    async with second_lab(tmp_path) as lab, second_lab(tmp_path) as third:
        define(tmp_path / "ledger", no_wait)
        with lab.activate():
            define(tmp_path / "ledger", no_wait)
        await lab.start()
        await lab.drain()
        with pytest.raises(TriggersOwned):
            await third.start()
        assert list(lab.runs()["status"]) == ["completed"]
    assert (tmp_path / "ledger").read_text().split() == ["first", "second"]


async def test_an_owner_that_left_cleanly_gives_its_triggers_back(
    tmp_path: Path, first_process: subprocess.Popen[str]
) -> None:
    assert first_process.stdin is not None
    first_process.stdin.write("go on\n")
    first_process.stdin.flush()
    await asyncio.to_thread(first_process.wait)
    async with second_lab(tmp_path) as lab:
        define(tmp_path / "ledger", no_wait)
        await lab.start()
        assert list(lab.runs()["status"]) == ["completed"]
