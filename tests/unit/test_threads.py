"""Plain `def` steps share a bounded number of threads; who waits for one is seen, and who keeps one is named."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sagaz_lab import Lab, RunStatus, Saga, SagaContext, TriggerConfig, action, compensate, trigger
from sagaz_lab.engines.local import calls, threads
from sagaz_lab.errors import ActionTimeout, DefinitionError
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import statuses, until


class Gate:
    """Holds threads until it is opened."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self.entered = 0

    def hold(self) -> None:
        self.entered += 1
        self._open.wait(60)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with ExitStack() as stack:
        gate = Gate()
        stack.callback(gate.open)
        yield gate


def holds(gate: Gate) -> type[Saga]:
    class Holds(Saga):
        @action("hold")
        def hold(self, ctx):
            gate.hold()

    return Holds


async def test_a_time_out_begins_when_the_function_does(gate: Gate) -> None:
    async with Lab("memory", threads=1):

        class Quick(Saga):
            @action("work", timeout_s=0.5)
            def work(self, ctx):
                return {"told": ctx.cancelled}

        holding = asyncio.create_task(holds(gate)().run())
        await until(lambda: gate.entered)
        asyncio.get_running_loop().call_later(0.7, gate.open)
        assert (await Quick().run())["told"] is False
        await holding


async def test_waiting_for_a_thread_is_a_state_that_one_sees(gate: Gate) -> None:
    async with Lab("memory", threads=1) as lab:

        class Quick(Saga):
            @action("work")
            def work(self, ctx): ...

        holding = asyncio.create_task(holds(gate)().run(run_id="first"))
        await until(lambda: gate.entered)
        waiting = asyncio.create_task(Quick().run(run_id="second"))
        await until(lambda: "waiting for a thread" in str([run.actions for run in lab.status().runs]))
        assert [run.actions["work"] for run in lab.status().runs if run.saga == "Quick"]
        gate.open()
        await asyncio.gather(holding, waiting)
        assert statuses(lab) == ["completed", "completed"]


async def test_who_keeps_others_waiting_for_a_thread_is_named(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WAITED_S", 0.02)
    async with Lab("memory", threads=2) as lab:
        runs = [asyncio.create_task(holds(gate)().run()) for _ in range(3)]
        await until(lambda: lab.status().warnings)
        (told,) = lab.status().warnings
        assert "1 plain `def` step(s) wait for a thread" in told
        assert "all 2 are taken, 2 by Holds.hold" in told
        gate.open()
        await asyncio.gather(*runs)


async def test_a_thread_that_does_not_return_is_replaced(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STUCK_S", 0.01)
    async with Lab("memory", threads=2) as lab:

        class Stuck(Saga):
            @action("hang", timeout_s=0.01)
            def hang(self, ctx):
                gate.hold()

        class Fine(Saga):
            @action("work")
            def work(self, ctx):
                return 7

        stuck = [asyncio.create_task(Stuck().run()) for _ in range(5)]
        await until(lambda: gate.entered == 5)
        assert (await Fine().run())["work"] == 7
        await until(lambda: ["stopping" in run.actions.get("hang", "") for run in lab.status().runs] == [True] * 5)
        assert "Stuck.hang was stopped but its thread has not returned" in lab.status().warnings[0]
        gate.open()
        ends = await asyncio.gather(*stuck, return_exceptions=True)
        assert {type(end) for end in ends} == {ActionTimeout}
        before = threading.active_count()
        assert before >= 2
        await asyncio.gather(*(Fine().run() for _ in range(10)))
        assert threading.active_count() <= before, "threads beyond the number were kept"


async def test_what_is_cancelled_while_it_waits_for_a_thread_never_runs(gate: Gate) -> None:
    done = []

    async with Lab("memory", threads=1) as lab:

        class Late(Saga):
            @action("work")
            def work(self, ctx):
                done.append("worked")

            @compensate("work")
            async def undo(self, ctx):
                done.append("undone")

        holding = asyncio.create_task(holds(gate)().run(run_id="first"))
        await until(lambda: gate.entered)
        late = asyncio.create_task(Late().run(run_id="late"))
        await until(lambda: lab.status().runs_in_flight == 2)
        assert await lab.compensate_run("late") is RunStatus.CANCELLED
        gate.open()
        await asyncio.gather(holding, late, return_exceptions=True)
        assert "worked" not in done


async def test_a_stop_starts_nothing_that_waits_for_a_thread(gate: Gate) -> None:
    done = []
    lab = Lab("memory", threads=1)
    with lab.activate():

        class Work(Saga):
            trigger_config = TriggerConfig(max_retries=0)

            @trigger(source="memory", topic="work")
            def on_work(self, event):
                return {}

            @action("work")
            def work(self, ctx: SagaContext) -> None:
                done.append(ctx.run_id)
                gate.hold()

    await lab.start()
    first, second = [(await lab.fire("Work.on_work", {}, wait=False))[0] for _ in range(2)]
    await until(lambda: done)
    await lab.stop(grace_s=0)
    gate.open()
    await until(lambda: threading.active_count() >= 1)
    assert done == [first.run_id] != [second.run_id]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "4"])
def test_a_number_of_threads_that_is_none_is_refused(number: object) -> None:
    with pytest.raises(DefinitionError, match="threads="):
        Lab("memory", threads=number)  # type: ignore[arg-type]


def test_threads_are_the_built_in_engines(clock: VirtualClock) -> None:
    with pytest.raises(DefinitionError, match="engine="):
        Lab("memory", engine=object(), threads=4)  # type: ignore[arg-type]
