"""`stop` ends the Lab wherever it is asked for, and whoever asked is cancelled; a start that goes on is given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

from sagaz_lab import Debounce, Lab, Saga, SagaListener, action, compensate, trigger
from sagaz_lab.abc import Delivery, Event, SourceTraits
from sagaz_lab.engines.local import engine
from sagaz_lab.errors import DefinitionError, LabClosed
from sagaz_lab.runtime import service
from sagaz_lab.runtime.intake.intake import Intake
from sagaz_lab.runtime.lifetime import tasks
from sagaz_lab.runtime.outbox.relay import Relay
from sagaz_lab.runtime.recovery.recovery import Recovery
from sagaz_lab.runtime.triggers.stored_params import ParamsInStore
from tests.unit.tools import assert_adds_up, settle, until

PLACES = ["action", "thread", "compensation", "trigger", "listener", "on_saga_start", "source", "report", "decode"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (service, tasks, engine):
        monkeypatch.setattr(module, "CLOSE_S", 0.2)


@pytest.fixture
async def closed_lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A Lab that is current and not open."""
    lab = Lab(f"sqlite:///{tmp_path}/lab.db")
    with lab.activate():
        yield lab
    await lab.stop()


class Fed:
    """A source of the user's own that gives one event, after it has called `within`."""

    name = "fed"
    traits = SourceTraits()

    def __init__(self, within: Any = None) -> None:
        self._within, self._given = within, False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def receive(self, limit: int) -> list[Delivery]:
        if self._given:
            await asyncio.sleep(3600)
        self._given = True
        if self._within is not None:
            await self._within()
        return [Delivery(Event(b"{}", id="e1", source="fed"), 1)]

    async def settle(self, deliveries: Any, outcomes: Any) -> None: ...

    async def nack(self, deliveries: Any, *, delay_s: float = 0.0) -> None: ...

    async def keep_alive(self, deliveries: Any) -> None: ...


def saga_that(lab: Lab, place: str, call: Any) -> None:
    """A saga of which this place awaits `call()`, once."""
    called = False

    async def once() -> None:
        nonlocal called
        if not called:
            called = True
            await call()

    async def told(kind: str, text: str) -> None:
        if kind == "probe":
            await once()

    async def decode(raw: bytes) -> dict[str, Any]:
        if place == "decode":
            await once()
        return {}

    class Hears(SagaListener):
        async def on_trigger_received(self, *_: Any) -> None:
            if place == "listener":
                await once()

        async def on_saga_start(self, *_: Any) -> None:
            if place == "on_saga_start":
                await once()

    class Calls(Saga):
        listeners = (Hears(),)

        @trigger(source=Fed(once if place == "source" else None), decode=decode)
        async def on_event(self, event):
            if place == "trigger":
                await once()
            return {}

        if place == "thread":

            @action()
            def work(self, ctx):
                asyncio.run(once())

        else:

            @action()
            async def work(self, ctx):
                if place == "action":
                    await once()
                if place == "report":
                    lab.report("probe", "now")

        @action(depends_on=["work"])
        async def fail(self, ctx):
            if place == "compensation":
                raise ValueError("undo")

        @compensate("work")
        async def undo(self, ctx):
            if place == "compensation":
                await once()

    lab.on_report(told)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("place", PLACES)
async def test_user_code_may_stop_the_lab_it_runs_in(closed_lab: Lab, place: str, isolated: bool) -> None:
    lab, errors = closed_lab, list[LabClosed]()
    called = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def stop() -> None:
        loop.call_soon_threadsafe(called.set)
        try:
            await lab.stop(grace_s=0.05)
        except LabClosed as error:
            errors.append(error)

    saga_that(lab, place, stop)
    lab.start(isolated=isolated)
    await asyncio.wait_for(called.wait(), 20)
    if place == "thread" and not isolated:  # its thread has another loop than the Lab
        await until(lambda: errors)
        assert "on another event loop than the Lab" in str(errors.pop())
        await lab.stop(grace_s=0.05)
    await until(lambda: not lab.is_open)
    async with asyncio.timeout(20):
        await lab.stop()
        await lab.start(isolated=isolated)
        assert lab.status().started
        await lab.stop()
    assert not errors


async def test_a_caller_that_is_cancelled_does_not_stop_the_stopping(closed_lab: Lab) -> None:
    lab, gate = closed_lab, asyncio.Event()

    class Waits(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {}

        @action()
        async def work(self, ctx):
            await gate.wait()

    await lab.start()
    await lab.fire("Waits.on_event", {})
    stopping = asyncio.create_task(lab.stop())
    await until(lambda: not lab.is_open)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert not lab.is_open
    gate.set()
    async with asyncio.timeout(20):
        await lab.stop()
    assert list(lab.runs()["status"]) == ["completed"]


async def test_what_runs_fire_while_the_lab_stops_is_taken(closed_lab: Lab) -> None:
    lab, gate = closed_lab, asyncio.Event()

    class Chain(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {"n": event["n"]}

        @action()
        async def work(self, ctx):
            await gate.wait()
            if ctx["n"] == 0:
                await lab.fire("Chain.on_event", {"n": 1})

    await lab.start()
    await lab.fire("Chain.on_event", {"n": 0})
    stopping = asyncio.create_task(lab.stop())
    await until(lambda: not lab.is_open)
    gate.set()
    await stopping
    assert not lab.is_open
    assert list(lab.runs()["status"]) == ["completed", "completed"]


class Slow(Fed):
    """A source that takes its time to connect."""

    async def __aenter__(self) -> Self:
        await asyncio.sleep(3600)
        return self


@pytest.mark.parametrize("isolated", [False, True])
@pytest.mark.parametrize("later_s", [None, 0.0, 0.001, 0.05])
@pytest.mark.parametrize("source", [Fed, Slow])
async def test_a_stop_gives_up_the_start_that_goes_on(
    closed_lab: Lab, source: type[Fed], later_s: float | None, isolated: bool
) -> None:
    lab = closed_lab

    class Watched(Saga):
        @trigger(source=source())
        def on_event(self, event): ...

    handle = lab.start(isolated=isolated)
    if later_s is not None:
        await asyncio.sleep(later_s)
    async with asyncio.timeout(20):
        await lab.stop()
        assert not lab.is_open
        assert not lab.status().started
        if handle.is_starting:
            with pytest.raises(LabClosed, match="stopped"):
                await handle
        await handle.wait()
    assert not lab.is_open


async def test_a_start_that_a_stop_gives_up_is_one_error(closed_lab: Lab) -> None:
    class Watched(Saga):
        @trigger(source=Slow())
        def on_event(self, event): ...

    handle = closed_lab.start()
    waiting = asyncio.ensure_future(handle.begun(20))
    await until(lambda: closed_lab.status().sources)
    await closed_lab.stop()
    for started in (waiting, handle):
        with pytest.raises(LabClosed, match="stopped while it was starting; start it again"):
            await started
    await handle.wait()


async def test_a_start_while_the_lab_stops_comes_after_the_stop(closed_lab: Lab) -> None:
    class Watched(Saga):
        @trigger(source=Fed())
        def on_event(self, event): ...

    await closed_lab.start()
    stopping = asyncio.create_task(closed_lab.stop())
    await asyncio.sleep(0)
    await closed_lab.start()
    assert stopping.done()
    assert closed_lab.status().started


async def test_of_starts_and_stops_the_last_counts(closed_lab: Lab) -> None:
    class Watched(Saga):
        @trigger(source=Fed())
        def on_event(self, event): ...

    stops = []
    for _ in range(5):
        closed_lab.start()
        stops.append(asyncio.create_task(closed_lab.stop()))
        await asyncio.sleep(0)
    await asyncio.gather(*stops)
    assert not closed_lab.is_open
    await closed_lab.start()
    assert closed_lab.status().started


@pytest.mark.parametrize("grace_s", ["30", None, True, -1, float("nan"), [1]])
async def test_a_wrong_grace_is_refused_before_anything_is_stopped(each_lab: Lab, grace_s: Any) -> None:
    class Watched(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event): ...

    handle = await each_lab.start()
    for stop in (each_lab.stop, handle.stop):
        with pytest.raises(DefinitionError, match=r"stop: grace_s=.* must be a number of seconds, 0 or more"):
            await stop(grace_s=grace_s)
    assert each_lab.is_open
    assert each_lab.status().started
    await each_lab.stop(grace_s=float("inf"))


@pytest.mark.parametrize("limit", ["5", "x", -1, 1.5, True, float("nan")])
@pytest.mark.parametrize("table", ["runs", "steps", "events", "outcomes", "dead_letters"])
async def test_a_wrong_limit_is_one_error(each_lab: Lab, table: str, limit: Any) -> None:
    with pytest.raises(DefinitionError, match=f"{table}: limit=.* must be a whole number, 0 or more, or None"):
        getattr(each_lab, table)(limit=limit)


@pytest.mark.parametrize(
    ("part", "method"), [(Intake, "close"), (Recovery, "leave"), (Relay, "close"), (ParamsInStore, "follow")]
)
async def test_a_stop_that_fails_half_way_closes_the_store_and_the_lab_opens_again(
    each_lab: Lab, monkeypatch: pytest.MonkeyPatch, part: type[Any], method: str
) -> None:
    class Calls(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {}

        @action()
        async def work(self, ctx): ...

    async def fails(*_: Any) -> None:
        raise ValueError("half-way")

    await each_lab.start()
    with monkeypatch.context() as patch:
        patch.setattr(part, method, fails)
        with pytest.raises(ValueError, match="half-way"):
            await each_lab.stop()
    assert not each_lab.is_open
    await each_lab.start()
    [outcome] = await each_lab.fire("Calls.on_event")
    assert outcome.kind == "started"
    await each_lab.stop()


@pytest.mark.parametrize(
    "options", [{}, {"debounce": Debounce(0.05, 1)}, {"singleton": "skip"}], ids=["plain", "window", "one"]
)
@pytest.mark.parametrize("way", ["fired", "from its source"])
async def test_nothing_is_started_after_a_trigger_method_has_stopped_the_lab(
    each_lab: Lab, way: str, options: dict[str, Any]
) -> None:
    lab, went, stopped, calls = each_lab, list[str](), asyncio.Event(), 0

    async def decide() -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 1:
            stopping = asyncio.create_task(lab.stop(grace_s=0.05))
            while not stopping.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([stopping])
            stopped.set()
        return {}

    class Stops(Saga):
        @trigger(source="memory", topic="t", **options)
        async def on_event(self, event):
            return await decide()

        @trigger(source=Fed())
        async def on_fed(self, event):
            return await decide() if way == "from its source" else None

        @action()
        async def work(self, ctx):
            went.append(ctx.run_id)

    reports: list[str] = []
    lab.on_report(lambda _, text: reports.append(text))
    with contextlib.suppress(LabClosed):  # the source may give its event while the start goes on
        await lab.start()
    if way == "fired" and "debounce" not in options:
        with pytest.raises(LabClosed, match="the Lab is closing; the event was not taken"):
            await lab.fire("Stops.on_event", {}, id="e1")
    elif way == "fired":
        await lab.fire("Stops.on_event", {}, id="e1", wait=False)
    await asyncio.wait_for(stopped.wait(), 20)
    await until(lambda: not lab.is_open)
    await settle()
    assert went == []
    assert not [text for text in reports if "failed" in text or "LabClosed" in text]
    await lab.start()
    if way == "fired" and "debounce" not in options:
        [outcome] = await lab.fire("Stops.on_event", {}, id="e1")
        assert outcome.kind == "started"
    await until(lambda: len(went) == (way == "fired"))
    await lab.stop()
    assert len(went) == (way == "fired")
    assert_adds_up(lab)
