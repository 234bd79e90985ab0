"""What a start finds after nobody had run the triggers, and which interrupted runs it resumes."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sagaz_lab import Lab, RunStatus, Saga, action, compensate, trigger
from sagaz_lab.errors import RunError, UnknownName
from sagaz_lab.runtime.recovery.start_report import spoken
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import until


class World:
    """One process after the other on one store: each leaves its runs in `work`, until `may_end`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.done: list[str] = []
        self.may_end = False

    def lab(self, **options) -> Lab:
        return Lab(self.address, **options)

    def define(self, name: str = "work") -> type[Saga]:
        world = self

        class Work(Saga):
            saga_name = name

            @trigger(source="memory", topic=name, max_concurrent_sagas=2)
            def on_event(self, event):
                return {"n": event["n"]}

            @action("first")
            async def first(self, ctx):
                world.done.append(f"first {ctx['n']}")

            @compensate("first")
            async def undo(self, ctx):
                world.done.append(f"undo {ctx['n']}")

            @action("second", depends_on="first")
            async def second(self, ctx):
                if not world.may_end:
                    await asyncio.Event().wait()
                world.done.append(f"second {ctx['n']}")

        return Work

    async def leave(self, *names: str, runs: int = 2) -> list[str]:
        """A process runs the triggers and is gone, with so many runs of each under way."""
        async with self.lab() as lab:
            for name in names:
                self.define(name)
            await lab.start()
            before = len(self.done)
            ids = [
                (await lab.fire(f"{name}.on_event", {"n": n}, wait=False))[0].run_id
                for name in names
                for n in range(runs)
            ]
            await until(lambda: len(self.done) == before + min(runs, 2) * len(names))
            await lab.stop(grace_s=0)
        return [id or "" for id in ids]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(f"sqlite:///{tmp_path}/lab.db")


def found(lab: Lab) -> tuple[list[str], list[str], int]:
    away = lab.status().away
    assert away is not None
    return list(away.resumed), list(away.left), away.events_waited


# --- resume= ---


async def test_by_default_all_interrupted_runs_go_on(world: World) -> None:
    left = await world.leave("work")
    world.may_end = True
    async with world.lab() as lab:
        world.define()
        await lab.start()
        await lab.drain()
        assert found(lab) == (left, [], 0)
        assert list(lab.runs()["status"]) == ["completed"] * 2
    assert world.done == ["first 0", "first 1", "second 0", "second 1"]


async def test_last_takes_up_the_newest_of_each_saga_once(world: World) -> None:
    left = await world.leave("work", "other")
    world.may_end = True
    async with world.lab() as lab:
        world.define("work")
        world.define("other")
        await lab.start(resume="last")
        await lab.drain()
        assert found(lab) == ([left[1], left[3]], [left[0], left[2]], 0)
        await lab.start(resume="last")
        world.define("work")
        await lab.drain()
        assert found(lab) == ([], [left[0], left[2]], 0)
    assert sorted(world.done[4:]) == ["second 1", "second 1"]


async def test_none_leaves_all_as_they_are_until_they_are_asked_for(world: World) -> None:
    left = await world.leave("work", runs=3)  # the third waits for its turn
    world.may_end = True
    async with world.lab() as lab:
        world.define()
        await lab.start(resume="none")
        world.define()
        await lab.drain()
        assert found(lab) == ([], left, 0)
        assert list(lab.runs()["status"]) == ["waiting", "running", "running"]
        assert await lab.resume_run(left[0]) is RunStatus.COMPLETED
        with pytest.raises(RunError, match=f"run {left[0]} is completed; only a run that is held"):
            await lab.resume_run(left[0])
        assert await lab.compensate_run(left[1]) is RunStatus.CANCELLED
        assert world.done[2:] == ["second 0", "undo 1"]
        await lab.start()
        await lab.drain()
        assert found(lab) == ([], [], 1)
        assert world.done[4:] == ["first 2", "second 2"]


async def test_what_was_left_is_left_to_the_next_process_too(world: World) -> None:
    left = await world.leave("work")
    async with world.lab() as lab:
        world.define()
        await lab.start(resume="none")
    world.may_end = True
    async with world.lab() as lab:
        world.define()
        await lab.start()
        await lab.drain()
        assert found(lab) == (left, [], 0)


async def test_a_run_that_waits_for_its_turn_can_be_resumed_or_cancelled_by_name(world: World) -> None:
    left = await world.leave("work", runs=4)
    world.may_end = True
    async with world.lab() as lab:
        world.define()
        await lab.start(resume="none")
        assert await lab.compensate_run(left[3]) is RunStatus.CANCELLED
        # It is not waited for, as it waits for its turn itself: which comes at once here, sooner or later than this.
        assert await lab.resume_run(left[2]) in (RunStatus.WAITING, RunStatus.RUNNING, RunStatus.COMPLETED)
        await lab.drain()
        assert list(lab.runs()["status"]) == ["cancelled", "completed", "running", "running"]
        assert [one for one in world.done if one.endswith(("2", "3"))] == ["first 2", "second 2"]


async def test_a_run_that_lives_here_or_elsewhere_cannot_be_resumed_by_name(world: World) -> None:
    async with world.lab() as one, world.lab() as two:
        world.define()
        with one.activate():
            world.define()
        await one.start()
        (outcome,) = await one.fire("work.on_event", {"n": 0})
        for lab in (one, two):
            with pytest.raises(RunError, match="is running; only a run that is held can be resumed"):
                await lab.resume_run(outcome.run_id or "")
        await one.stop(grace_s=0)
        world.may_end = True
        assert await two.resume_run(outcome.run_id or "") is RunStatus.COMPLETED
    assert world.done == ["first 0", "second 0"]


async def test_the_memory_store_leaves_its_runs_in_the_same_way() -> None:
    world = World("memory")
    lab = world.lab()
    with lab.activate():
        world.define()
        await lab.start()
        for n in range(2):
            await lab.fire("work.on_event", {"n": n})
        await lab.stop(grace_s=0)
        world.may_end = True
        await lab.start(resume="last")
        await lab.drain()
        assert world.done == ["first 0", "first 1", "second 1"]
        (left,) = lab.status().away.left
        assert await lab.resume_run(left) is RunStatus.COMPLETED
        await lab.stop()


@pytest.mark.parametrize("limit_s", [None, 60.0], ids=["linear", "timed"])
@pytest.mark.parametrize("parallel", [False, True], ids=["chain", "parallel"])
@pytest.mark.parametrize("fired", [True, False], ids=["fired", "called"])
def test_a_loop_that_is_closed_under_a_run_leaves_it_as_it_stands(
    limit_s: float | None, parallel: bool, fired: bool, caplog: pytest.LogCaptureFixture
) -> None:
    store, done = MemoryStore(), []

    async def begin() -> object:
        lab = Lab(store=store)
        with lab.activate():

            class Work(Saga):
                @trigger(source="memory", topic="work")
                def on_event(self, event):
                    return {}

                @action("first")
                async def first(self, ctx):
                    done.append("first")

                @compensate("first")
                async def undo(self, ctx):
                    done.append("undo")

                @action("second", depends_on=[] if parallel else ["first"], timeout_s=limit_s)
                async def second(self, ctx):
                    done.append("second")
                    await asyncio.Event().wait()

            await lab.start()
            kept = await lab.fire("Work.on_event") if fired else asyncio.create_task(Work().run())
        await until(lambda: len(done) == 2)
        return kept

    loop = asyncio.new_event_loop()
    kept: object = loop.run_until_complete(begin())
    loop.close()
    del kept
    gc.collect()
    ((_, _, _, _, status, *_),) = store.rows("runs", None)[1]
    assert status == RunStatus.RUNNING
    assert sorted(done) == ["first", "second"]
    assert [record.getMessage() for record in caplog.records if record.name == "sagaz_lab"] == []


async def test_another_word_is_refused_before_anything_starts(world: World) -> None:
    async with world.lab() as lab:
        with pytest.raises(UnknownName, match=r"no resume 'lats'; did you mean 'last'"):
            lab.start(resume="lats")


# --- what is told ---


async def test_a_first_start_says_nothing(world: World) -> None:
    told: list[str] = []
    async with world.lab() as lab:
        lab.on_report(lambda kind, text: told.append(text))
        world.define()
        await lab.start()
        assert told == []
        assert lab.status().away.away_s == 0


async def test_an_absence_of_hours_is_told_although_nothing_was_missed(world: World, tmp_path: Path) -> None:
    told: list[str] = []
    async with world.lab() as lab:
        world.define()
        await lab.start()
    with closing(sqlite3.connect(tmp_path / "lab.db")) as connection, connection:
        connection.execute("UPDATE owners SET heartbeat_at = heartbeat_at - 7800")
    async with world.lab() as lab:
        lab.on_report(lambda kind, text: told.append(f"{kind}: {text.partition(' (')[0]}"))
        world.define()
        await lab.start()
        assert told == ["away: away 2 h 10 min: nothing missed, nothing to resume"]
        await lab.start()
        assert len(told) == 1


async def test_runs_without_code_are_told_with_their_saga(world: World) -> None:
    left = await world.leave("work", runs=1)
    async with world.lab() as lab:
        world.define("other")
        await lab.start()
        away = lab.status().away
        assert away.needs_code == {left[0]: "work"}
        assert "1 run waiting for code" in away.headline()
        assert f"waiting for code: {left[0]} (work)" in "\n".join(away.lines())


async def test_missed_ticks_are_told_by_trigger_with_what_was_done_about_them() -> None:
    clock = VirtualClock()
    lab = Lab("memory", clock=clock)
    got = []

    with lab.activate():

        class Nightly(Saga):
            @trigger(source="cron", schedule="0 * * * *")
            def on_hour(self, event):
                got.append(event.scheduled_for)

            @trigger(source="cron", schedule="30 * * * *", missed="all")
            def on_half(self, event): ...

    await lab.start()
    await lab.stop()
    await clock.advance(14 * 3600)
    await lab.start()
    await until(lambda: got)
    away = lab.status().away
    assert {name: tuple(missed) for name, missed in away.missed.items()} == {
        "Nightly.on_hour": (14, 1),
        "Nightly.on_half": (14, 14),
    }
    assert away.ticks_missed == 28
    assert "28 ticks missed" in away.headline()
    told = list(away.lines())
    assert told[0].startswith("Nightly.on_hour: 14 ticks missed, the last one delivered now; its trigger's missed=")
    assert "all delivered now" in told[1]
    await lab.start()
    assert not lab.status().away.missed
    await lab.stop()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(7800, "2 h 10 min"), (59.6, "1 min"), (3600, "1 h"), (2, "2 s"), (90061, "1 d 1 h"), (86405, "1 d")],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
