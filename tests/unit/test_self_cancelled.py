"""An action whose own task a library cancels has failed, like any other; only a stop abandons its run."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Permanent, Saga, TriggerConfig, action, compensate, trigger
from sagaz_lab.errors import RunError
from tests.unit.tools import statuses, until


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def escapes() -> None:
    cancel_this_task()
    await asyncio.sleep(3)


async def later() -> None:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    await asyncio.sleep(3)


async def ends_first() -> None:
    """It is heard of where the engine waits next, if it does."""
    cancel_this_task()


async def raises_itself() -> None:
    cancel_this_task()
    raise asyncio.CancelledError


WAYS = [escapes, later, raises_itself]


def define(done: list[str], way: Any, shape: str, retries: int = 0) -> type[Saga]:
    class Odd(Saga):
        @trigger(source="memory", concurrency_key=lambda event: "k", config=TriggerConfig(max_retries=0))
        def on(self, event):
            return {"odd": event["odd"]}

        @action()
        async def first(self, ctx):
            done.append("first")

        @compensate("first")
        async def undo_first(self, ctx):
            done.append("undo first")

        @action(depends_on=["first"], timeout_s=5 if shape == "timed" else None, max_retries=retries, retry_backoff_s=0)
        async def odd(self, ctx):
            done.append("odd")
            if ctx["odd"] and done.count("odd") <= max(1, retries):
                await way()

        if shape == "beside":

            @action(depends_on=["first"])
            async def beside(self, ctx):
                await asyncio.sleep(0.05)

    return Odd


@pytest.mark.parametrize("shape", ["chain", "timed", "beside"])
@pytest.mark.parametrize("way", WAYS)
async def test_it_is_the_actions_failure_and_the_next_run_of_the_key_comes_after_it(
    each_lab: Lab, way: Any, shape: str
) -> None:
    done: list[str] = []
    define(done, way, shape)
    await each_lab.fire("Odd.on", {"odd": True}, wait=False)
    await each_lab.fire("Odd.on", {"odd": False}, wait=False)
    await each_lab.drain()
    assert statuses(each_lab) == ["compensated", "completed"]
    assert done == ["first", "odd", "undo first", "first", "odd"]
    assert list(each_lab.dead_letters()["error"]) == ["RunError: action 'odd' raised CancelledError by itself"]


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_tried_again(each_lab: Lab, way: Any) -> None:
    done: list[str] = []
    define(done, way, "chain", retries=1)
    await each_lab.fire("Odd.on", {"odd": True}, wait=False)
    await each_lab.drain()
    assert (statuses(each_lab), done) == (["completed"], ["first", "odd", "odd"])


@pytest.mark.parametrize("shape", ["chain", "timed", "beside"])
async def test_a_cancelling_that_comes_after_the_action_leaves_no_run_behind(each_lab: Lab, shape: str) -> None:
    done: list[str] = []
    define(done, ends_first, shape)
    await each_lab.fire("Odd.on", {"odd": True}, wait=False)
    await each_lab.fire("Odd.on", {"odd": False}, wait=False)
    await each_lab.drain()
    assert statuses(each_lab)[0] in ("completed", "compensated")
    assert statuses(each_lab)[1] == "completed"
    assert done.count("odd") == 2


async def test_a_compensation_that_cancels_its_task_is_tried_again(each_lab: Lab) -> None:
    undone: list[int] = []

    class Undoes(Saga):
        @action()
        async def work(self, ctx):
            pass

        @compensate("work", max_retries=1)
        async def undo(self, ctx):
            undone.append(1)
            if len(undone) == 1:
                await escapes()

        @action(depends_on=["work"])
        async def fail(self, ctx):
            raise Permanent("no")

    with pytest.raises(Permanent):
        await Undoes().run({})
    assert (len(undone), statuses(each_lab)) == (2, ["compensated"])


async def test_other_runs_of_the_task_go_on(lab: Lab) -> None:
    class Some(Saga):
        @trigger(source="memory", config=TriggerConfig(max_retries=0))
        def on(self, event):
            return {"n": event["n"]}

        @action()
        async def work(self, ctx):
            if ctx["n"] % 3 == 1:
                await raises_itself()

    await asyncio.gather(*(lab.fire("Some.on", {"n": n}, wait=False) for n in range(9)))
    await lab.drain()
    assert statuses(lab) == ["completed", "compensated", "completed"] * 3


async def test_a_run_by_hand_raises_the_actions_error(lab: Lab) -> None:
    saga = define([], escapes, "chain")
    with pytest.raises(RunError, match="raised CancelledError by itself"):
        await saga().run({"odd": True})
    assert statuses(lab) == ["compensated"]


def test_the_end_of_the_loop_abandons_a_run(tmp_path: Path) -> None:
    done: list[str] = []

    async def program() -> None:
        lab = Lab(f"sqlite:///{tmp_path}/lab.db")
        await lab.open()

        async def for_long() -> None:
            await asyncio.sleep(60)

        with lab.activate():
            define(done, for_long, "beside")
        await lab.fire("Odd.on", {"odd": True}, wait=False)
        await until(lambda: "odd" in done)

    asyncio.run(program())
    with closing(sqlite3.connect(tmp_path / "lab.db")) as connection, connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("running",)]
    assert done == ["first", "odd"]
