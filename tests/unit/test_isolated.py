"""A Lab on a loop of its own: it goes on while this thread blocks, and all its methods work from here."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, action, compensate, default_lab, trigger
from sagaz_lab.abc import Delivery, Event, SourceTraits
from sagaz_lab.errors import LabClosed, SourceNotReady, TriggersOwned, UnknownName
from sagaz_lab.hosting.isolated import THREAD
from sagaz_lab.runtime.runs.attempt import StoredAttempt
from tests.unit.tools import assert_adds_up, statuses, until

EVENTS = 200


class Numbers:
    """A source of numbered events, a few at a time, made on one thread and read on another."""

    name, traits = "numbers", SourceTraits()

    def __init__(self, last: int = EVENTS) -> None:
        self.given = 0
        self.last = last

    async def __aenter__(self) -> Numbers:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def receive(self, limit: int) -> list[Delivery]:
        await asyncio.sleep(0.001)
        if self.given == self.last:
            await asyncio.Event().wait()
        first, self.given = self.given, min(self.given + 3, self.last)
        return [Delivery(Event({"n": n}, id=str(n), source="numbers")) for n in range(first, self.given)]

    async def settle(self, deliveries: Any, outcomes: Any) -> None: ...

    async def nack(self, deliveries: Any, *, delay_s: float = 0.0) -> None:
        raise RuntimeError("given back")

    async def keep_alive(self, deliveries: Any) -> None: ...


@pytest.fixture(params=["memory", "sqlite"])
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """Not opened yet; its thread is gone in the end."""
    lab = Lab("memory" if request.param == "memory" else f"sqlite:///{tmp_path}/lab.db")
    with lab.activate():
        yield lab
    await lab.stop()
    assert threads() == 0


def threads() -> int:
    return sum(thread.name == THREAD for thread in threading.enumerate())


def wait_blocking(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """This thread's loop does nothing meanwhile."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def orders() -> list[tuple[int, str]]:
    """A saga "orders"; what it has done: the number and the thread's name."""
    done: list[tuple[int, str]] = []

    class Orders(Saga):
        saga_name = "orders"

        @trigger(source="memory", topic="orders", idempotency_key="n", params={"least": 0})
        def on_order(self, event):
            return {"n": event["n"]} if event["n"] >= self.params["least"] else None

        @action("ship")
        async def ship(self, ctx):
            if ctx["n"] == 13:
                raise ValueError("thirteen")
            assert default_lab().status().isolated
            done.append((ctx["n"], threading.current_thread().name))

    return done


def numbered(source: Numbers, done: list[int], text: str = "") -> type[Saga]:
    class Numbered(Saga):
        saga_name = "numbered"

        @trigger(source=source)
        def on_number(self, event):
            return {"n": event["n"], "text": text}

        @action("note")
        async def note(self, ctx):
            done.append(ctx["n"])

    return Numbered


# --- what it is for ---


async def test_events_are_handled_while_this_thread_blocks(lab):
    done: list[int] = []
    numbered(Numbers(), done)
    lab.start(isolated=True)
    wait_blocking(lambda: len(done) == EVENTS)
    await lab.drain()
    assert sorted(done) == list(range(EVENTS))
    assert statuses(lab) == ["completed"] * EVENTS
    assert_adds_up(lab)


def test_it_needs_no_loop_here(tmp_path):
    done: list[int] = []
    lab = Lab(f"sqlite:///{tmp_path}/lab.db")
    with lab.activate():
        numbered(Numbers(), done)
        lab.start(isolated=True)
        wait_blocking(lambda: len(done) == EVENTS)
        wait_blocking(lambda: lab.status().runs_in_flight == 0)
    asyncio.run(lab.stop())
    assert threads() == 0


async def test_a_class_is_registered_again_and_again_while_events_flow(lab):
    done: list[int] = []
    source = Numbers(last=1000)
    numbered(source, done)
    await lab.start(isolated=True)
    n = 0
    while source.given < source.last:
        n += 1
        numbered(source, done, f"version {n}")
        lab.rollback("numbered", lab.sagas["numbered"].revision)
        await asyncio.sleep(0.01)
    await until(lambda: lab.counters()["numbered.on_number"]["received"] == 1000)
    await lab.drain()
    assert sorted(done) == list(range(1000))
    assert lab.sagas["numbered"].revision > 2
    assert lab.runs(limit=None)["revision"].nunique() > 1
    assert_adds_up(lab)


# --- from here to there ---


async def test_every_method_works_from_here(lab):
    done = orders()
    handle = lab.start(isolated=True)
    assert await handle is handle
    assert handle.status().isolated
    (outcome,) = await lab.fire("orders.on_order", {"n": 1}, id="e1")
    await lab.drain()
    assert done == [(1, THREAD)]
    assert str(lab.why("e1").outcomes[0].kind) == "started"
    assert lab.run(outcome.run_id).status == "completed"
    assert [kind async for kind in kinds_of(lab, {"n": 1})] == ["duplicate"]
    assert (await lab.preview("orders.on_order", {"n": 1})).outcome == "duplicate"
    assert await lab.forget("orders.on_order", 1) == 1
    lab.forget("orders.on_order")
    assert [kind async for kind in kinds_of(lab, {"n": 1})] == ["started"]
    await lab.set_params("orders.on_order", least=5)
    assert (await lab.params("orders.on_order"))["least"] == 5
    assert [kind async for kind in kinds_of(lab, {"n": 2})] == ["filtered"]
    lab.pause("orders.on_order")
    assert lab.status().triggers[0].state == "paused"
    lab.resume("orders.on_order")
    await lab.drain()
    assert lab.status().triggers[0].state == "running"
    assert len(lab.runs()) == len(lab.steps()) == 2
    assert len(lab.outcomes()) == 4
    assert len(lab.events()) == 2
    assert lab.logs() == {}
    assert len(lab.revisions("orders")) == 1
    assert_adds_up(lab)


async def kinds_of(lab: Lab, payload: Any) -> AsyncIterator[str]:
    for outcome in await lab.fire("orders.on_order", payload):
        yield str(outcome.kind)


async def test_dead_letters_are_put_back_from_here(lab):
    orders()
    await lab.start(isolated=True)
    await lab.fire("orders.on_order", {"no": 13}, id="dead")
    (letter,) = lab.dead_letters()["id"]
    (outcome,) = await lab.redrive(letter, fix=lambda payload: {"n": 7})
    assert outcome.kind == "started"
    await lab.fire("orders.on_order", {"no": 14})
    assert await lab.discard(list(lab.dead_letters()["id"]), "a test") == 1


async def test_a_held_run_is_resumed_and_undone_from_here(lab):
    good = []

    class Held(Saga):
        on_failure = "hold"

        @action("first")
        async def first(self, ctx):
            good.append("first")

        @compensate("first")
        async def undo(self, ctx):
            good.append("undone")

        @action("second", depends_on=["first"])
        async def second(self, ctx):
            if len(good) < 3:
                raise ValueError("not yet")

    await lab.start(isolated=True)
    for run_id in ("one", "two"):
        with pytest.raises(ValueError, match="not yet"):
            await Held().run({}, run_id)
    assert await lab.compensate_run("two") == "cancelled"
    assert await lab.resume_run("one") == "completed"
    assert good == ["first", "first", "undone"]


async def test_an_error_comes_here_with_the_line_that_raised_it(lab):
    class Broken(Saga):
        @action("act")
        async def act(self, ctx):
            raise ZeroDivisionError("of the action")

    await lab.start(isolated=True)
    with pytest.raises(ZeroDivisionError, match="of the action") as caught:
        await Broken().run({})
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[0] == "test_an_error_comes_here_with_the_line_that_raised_it"
    assert "act" in frames
    with pytest.raises(UnknownName, match="no trigger or source 'Brocken'"):
        await lab.fire("Brocken", {})
    with pytest.raises(UnknownName, match="no trigger"):
        lab.pause("Broken.on_event")


async def test_the_callers_context_goes_along(lab):
    tenant: ContextVar[str] = ContextVar("tenant")

    class Asks(Saga):
        @action("in_the_loop")
        async def in_the_loop(self, ctx):
            return tenant.get()

        @action("in_a_thread")
        def in_a_thread(self, ctx):
            return tenant.get(), default_lab() is lab

    await lab.start(isolated=True)
    tenant.set("blue")
    context = await Asks().run({})
    assert (context["in_the_loop"], context["in_a_thread"]) == ("blue", ("blue", True))


async def test_cancelling_the_wait_cancels_the_run_and_waits_until_it_is_undone(lab):
    begun, undone = threading.Event(), []

    class Slow(Saga):
        @action("act")
        async def act(self, ctx):
            begun.set()
            await asyncio.sleep(3600)

        @compensate("act")
        async def undo(self, ctx):
            await asyncio.sleep(0.05)
            undone.append(ctx.run_id)

    await lab.start(isolated=True)
    waiting = asyncio.create_task(Slow().run({}, "slow"))
    await until(begun.is_set)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert undone == ["slow"]
    assert lab.run("slow").status == "cancelled"


async def test_cancelling_it_twice_ends_the_wait_at_once(lab):
    begun, undoing, may_end = threading.Event(), threading.Event(), threading.Event()

    class Slow(Saga):
        @action("act")
        async def act(self, ctx):
            begun.set()
            await asyncio.sleep(3600)

        @compensate("act")
        def undo(self, ctx):
            undoing.set()
            may_end.wait(60)

    await lab.start(isolated=True)
    waiting = asyncio.create_task(Slow().run({}, "slow"))
    await until(begun.is_set)
    waiting.cancel()
    await until(undoing.is_set)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not may_end.is_set()
    may_end.set()
    await lab.drain()
    assert lab.run("slow").status == "cancelled"


async def test_reports_reach_listeners_and_the_status(lab):
    heard: list[str] = []
    lab.on_report(lambda kind, text: heard.append(kind))
    orders()
    await lab.start(isolated=True)
    await lab.fire("orders.on_order", {"n": 13}, id="unlucky")
    lab.report("mine", "told from here")
    await lab.drain()
    assert "mine" in heard
    assert "told from here" in lab.status().warnings


# --- starting and stopping ---


async def test_stopping_ends_the_thread_and_either_way_it_starts_again(lab):
    done = orders()
    first = await lab.start(isolated=True)
    ended = asyncio.create_task(first.wait())
    assert threads() == 1
    await asyncio.gather(lab.stop(), lab.stop())
    assert threads() == 0
    await ended
    assert not lab.is_open
    assert lab.status().isolated is False
    await lab.start()
    assert not lab.status().isolated
    await lab.stop()
    await lab.start(isolated=True)
    await lab.fire("orders.on_order", {"n": 1})
    await lab.drain()
    assert done == [(1, THREAD)]


async def test_it_may_be_stopped_while_it_starts(lab):
    done = orders()
    for _ in range(5):
        lab.start(isolated=True)
        await lab.stop()
        assert threads() == 0
    await lab.start(isolated=True)
    await lab.fire("orders.on_order", {"n": 1})
    await lab.drain()
    assert done == [(1, THREAD)]


async def test_starting_twice_is_starting_once(lab):
    done: list[int] = []
    numbered(Numbers(), done)
    await asyncio.gather(*(lab.start(isolated=True) for _ in range(2)))
    assert threads() == 1
    wait_blocking(lambda: len(done) == EVENTS)
    assert sorted(done) == list(range(EVENTS))


async def test_it_is_started_and_stopped_again_and_again(lab):
    done = []

    class Notes(Saga):
        @trigger(source="memory", topic="notes")
        def on_note(self, event):
            return {"n": event["n"]}

        @action("note")
        async def note(self, ctx):
            await asyncio.sleep(0.001)
            done.append(ctx["n"])

    for cycle in range(12):
        handle = lab.start(isolated=cycle % 3 > 0)
        if cycle % 2:
            await handle
        await asyncio.gather(*(lab.fire("Notes.on_note", {"n": 10 * cycle + n}) for n in range(10)))
        await handle
        await lab.stop()
        assert threads() == 0
    assert sorted(done) == list(range(120))


async def test_a_lab_that_is_open_here_and_does_nothing_moves(lab):
    done = []

    class Notes(Saga):
        @trigger(source="memory", topic="notes", idempotency_key="n")
        def on_note(self, event):
            return {}

        @action("note")
        async def note(self, ctx):
            done.append(threading.current_thread().name)

    async def fired(n: int) -> str:
        (outcome,) = await lab.fire("memory", {"n": n}, topic="notes")
        await lab.drain()
        return str(outcome.kind)

    assert await fired(0) == "started"
    await lab.start(isolated=True)
    assert [await fired(0), await fired(1)] == ["duplicate", "started"]
    await lab.stop()
    assert [await fired(1), await fired(2)] == ["duplicate", "started"]
    here = threading.current_thread().name
    assert done == [here, THREAD, here]
    assert len(lab.runs()) == 3


async def test_an_isolated_lab_that_does_nothing_moves_back(tmp_path):
    first, second = Lab(f"sqlite:///{tmp_path}/lab.db"), Lab(f"sqlite:///{tmp_path}/lab.db")
    with first.activate():
        done = orders()
    second.register(first.sagas["orders"].cls)
    await first.start()
    with pytest.raises(TriggersOwned):
        await second.start(isolated=True)
    assert second.status().isolated
    await first.stop()
    await second.start()
    assert not second.status().isolated
    await until(lambda: threads() == 0)
    (outcome,) = await second.fire("orders.on_order", {"n": -1})
    assert (outcome.kind, done) == ("filtered", [])
    await second.stop()


async def test_a_wrong_name_starts_no_thread(lab):
    orders()
    with pytest.raises(UnknownName, match="did you mean 'orders'"):
        lab.start("order", isolated=True)
    assert threads() == 0


async def test_where_something_is_at_work_it_is_not_moved(lab):
    orders()
    starting = lab.start()
    with pytest.raises(LabClosed, match="stop it first, then start it isolated"):
        lab.start(isolated=True)
    assert threads() == 0
    await starting
    await lab.stop()
    await lab.start(isolated=True)
    with pytest.raises(LabClosed, match=r"start with isolated=True \(--isolated\) too, or stop it first"):
        lab.start()
    assert (await lab.fire("orders.on_order", {"n": 1}))[0].kind == "started"


async def test_a_start_that_fails_says_so(lab):
    class Missing(Saga):
        @trigger(source="kafka", topic="t")
        def on_event(self, event): ...

    lab.start(isolated=True)
    await until(lambda: any("could not be started" in text for text in lab.status().warnings))
    with pytest.raises(SourceNotReady):
        await lab.start(isolated=True)


async def test_an_action_may_stop_the_lab(lab):
    class Last(Saga):
        @trigger(source="memory", topic="last")
        def on_event(self, event):
            return {}

        @action("stop")
        async def stop(self, ctx):
            await lab.stop(grace_s=0.1)

    await lab.start(isolated=True)
    await lab.fire("Last.on_event", None, wait=False)
    await until(lambda: not lab.is_open and threads() == 0)


async def test_what_ends_a_process_does_not_end_the_thread(lab):
    class Leaves(Saga):
        @action("leave")
        async def leave(self, ctx):
            asyncio.get_running_loop().call_soon(sys.exit)
            await asyncio.sleep(0.01)

    await lab.start(isolated=True)
    await Leaves().run({})
    await Leaves().run({})
    assert len(lab.runs()) == 2


async def test_a_lab_that_was_stopped_while_runs_waited_can_be_started_isolated(lab: Lab) -> None:
    class OneByOne(Saga):
        @trigger(source="memory", topic="n", max_concurrent_sagas=1)
        def on_n(self, event):
            return {}

        @action()
        async def hang(self, ctx):
            await asyncio.Event().wait()

    await lab.start()
    for n in range(3):
        await lab.fire("OneByOne.on_n", n, wait=False)
    await lab.stop(grace_s=0.01)
    await lab.start(isolated=True)
    assert lab.status().isolated
    await lab.stop(grace_s=0.01)


async def test_shadows_are_begun_and_ended_on_the_thread_of_the_lab(lab: Lab) -> None:
    made_on: list[str] = []

    def define() -> type[Saga]:
        class Beside(Saga):
            def __init__(self) -> None:
                made_on.append(threading.current_thread().name)

            @trigger(source="memory", topic="n")
            def on_n(self, event):
                return {}

            @action()
            def work(self, ctx): ...

        return Beside

    define()
    await lab.start(isolated=True)
    with lab.registry.staging():
        shadow = define()
    made_on.clear()
    lab.shadows.begin(shadow)
    assert made_on == [THREAD]
    await lab.fire("Beside.on_n", 1)
    await lab.drain()
    assert lab.shadows["Beside"].same == 1
    assert lab.shadows.end("Beside").ended
    assert not lab.shadows


async def test_looking_at_a_run_makes_no_other_run_on_this_thread(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    made_on, really = set(), StoredAttempt.of.__func__

    def made(*args):
        made_on.add(threading.current_thread().name)
        return really(*args)

    monkeypatch.setattr(StoredAttempt, "of", classmethod(made))

    class Many(Saga):
        @trigger(source=Numbers(3000))
        def on_n(self, event):
            return {}

        @action()
        async def work(self, ctx): ...

    await lab.start(isolated=True)
    wait_blocking(lambda: len(lab.runs(limit=1)))
    run_id = lab.runs(limit=1)["run_id"][0]
    for _ in range(200):
        lab.run(run_id)
    assert made_on == {THREAD}
