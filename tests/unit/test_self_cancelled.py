"""An action whose own task a library cancels has failed, like any other; only a stop abandons its run."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Lab, Permanent, Saga, SagaListener, TriggerConfig, action, compensate, trigger
from sagaz_lab.errors import RunError
from tests.unit.tools import Taps, counted, statuses, until


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


async def after_a_time_out() -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(3)
    await asyncio.sleep(0)
    await escapes()


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


# --- what else the Lab calls ---


def define_decider(began: list[int], way: Any, gate: asyncio.Event | None = None, **options: Any) -> None:
    """The method goes that way, for an odd event, unless there is a gate, which holds up the runs."""

    class Decides(Saga):
        first = gate is not None

        @trigger(source="memory", topic="t", **options)
        async def on(self, event):
            event = event[-1] if isinstance(event, list) else event
            if event["odd"] and not self.first:
                await way()
            return {"n": event["n"]}

        @action("work")
        async def work(self, ctx):
            began.append(ctx["n"])
            if gate is not None:
                await gate.wait()


@pytest.mark.parametrize("how", ["source", "window", "queue"])
@pytest.mark.parametrize("way", [*WAYS, after_a_time_out])
async def test_a_trigger_method_that_cancels_its_task_leaves_a_dead_letter(tmp_path: Path, way: Any, how: str) -> None:
    began, taps, gate = list[int](), Taps(), asyncio.Event()
    options: dict[str, Any] = {"max_concurrent_sagas": 1} if how == "queue" else {}
    if how == "window":
        options = {"batch": Batch(9, 0.05)}
    async with Lab(f"sqlite:///{tmp_path}/lab.db", sources={"memory": taps}) as lab:
        define_decider(began, way, gate if how == "queue" else None, **options)
        await lab.start()
        for n in (1, 2, 3):
            await taps["t"].put({"n": n, "odd": n == 2}, id=f"e{n}")
            await until(lambda n=n: sum(counted(lab, "Decides.on").get(it, 0) for it in DECIDED[how]) == n)
        if how == "queue":  # those that wait are decided again
            define_decider(began, way, **options)
            gate.set()
        await until(lambda: 3 in began)
        assert began == [1, 3]
        assert counted(lab, "Decides.on") == {"received": 3, "started": 2, "dead": 1}
        assert list(lab.dead_letters()["error"]) == ["CancelledError"]
        assert lab.status().sources[0].state == "connected"


DECIDED = {"source": ["started", "dead"], "window": ["started", "dead"], "queue": ["started", "waiting"]}


@pytest.mark.parametrize("where", ["method", "key", "decode", "listener"])
async def test_a_cancelling_that_is_heard_of_later_ends_nothing(tmp_path: Path, where: str) -> None:
    """The code returns at once, and a store that is awaited comes next."""

    def cancels(name: str, value: Any) -> Any:
        if name == where:
            cancel_this_task()
        return value

    class Listens(SagaListener):
        def on_trigger_received(self, source, event):
            cancels("listener", None)

    began, taps = list[int](), Taps()
    async with Lab(f"sqlite:///{tmp_path}/lab.db", sources={"memory": taps}) as lab:

        class Calls(Saga):
            listeners = [Listens()]

            @trigger(source="memory", topic="t", idempotency_key=lambda event: cancels("key", str(event["n"])),
                     decode=lambda raw: cancels("decode", json.loads(raw)))  # fmt: skip
            def on(self, event):
                return cancels("method", {"n": event["n"]})

            @action("work")
            async def work(self, ctx):
                began.append(ctx["n"])

        await lab.start()
        for n in range(3):
            await taps["t"].put(json.dumps({"n": n}).encode(), id=f"e{n}")
            await until(lambda n=n: began == list(range(n + 1)))
        assert lab.status().sources[0].state == "connected"
        (outcome,) = await lab.fire("Calls.on", json.dumps({"n": 3}).encode())
        assert outcome.kind == "started"
        await asyncio.sleep(0.01)  # in the caller's task, too, nothing is left of it


@pytest.mark.parametrize("way", [escapes, raises_itself, after_a_time_out])
async def test_the_caller_of_fire_is_not_cancelled_by_a_method_that_cancels_its_task(each_lab: Lab, way: Any) -> None:
    define_decider([], way)
    (outcome,) = await each_lab.fire("Decides.on", {"n": 1, "odd": True})
    assert (outcome.kind, outcome.reason) == ("dead", "CancelledError")
    await asyncio.sleep(0.01)


async def test_who_fires_may_be_cancelled_while_the_method_waits(each_lab: Lab) -> None:
    entered = asyncio.Event()

    class Waits(Saga):
        @trigger(source="memory")
        async def on(self, event):
            entered.set()
            await asyncio.Event().wait()

        @action("work")
        async def work(self, ctx): ...

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await each_lab.fire("Waits.on", {})
    assert entered.is_set()
    assert counted(each_lab, "Waits.on") == {}
