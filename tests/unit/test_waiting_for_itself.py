"""Code that the Lab waits for may call whatever can be awaited of it: that works, or it is one clear error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from sagaz_lab import Debounce, Lab, Saga, SagaListener, TriggerConfig, action, compensate, trigger
from sagaz_lab.abc import Delivery, Event, SourceTraits
from sagaz_lab.engines.local import engine
from sagaz_lab.errors import RunError, SagazLabError
from sagaz_lab.runtime import service
from sagaz_lab.runtime.intake import pump
from sagaz_lab.runtime.lifetime import tasks
from tests.unit.tools import settle, until

IN_ACTIONS = ("action", "thread", "compensation")
IN_LISTENERS = ("on_trigger_received", "on_saga_start", "on_step_enter", "on_step_success", "on_step_failure",
                "on_compensation_start", "on_saga_failed", "on_saga_complete")  # fmt: skip
IN_INTAKE = ("connecting", "receive", "ack", "decode", "trigger", "window", "fired")
PLACES = (*IN_ACTIONS, *IN_LISTENERS, *IN_INTAKE, "report")

CALLS: dict[str, Callable[[Lab, str], Awaitable[Any]]] = {
    "drain": lambda lab, _: lab.drain(),
    "drain in a task": lambda lab, _: asyncio.gather(lab.drain()),
    "stop": lambda lab, _: lab.stop(grace_s=0.05),
    "start": lambda lab, _: _started(lab),
    "start another": lambda lab, _: _started(lab, "Other"),
    "use": lambda lab, _: lab.use("memory"),
    "open": lambda lab, _: lab.open(),
    "fire": lambda lab, _: lab.fire("Calls.on_event", {}),
    "fire into a window": lambda lab, _: lab.fire("Calls.on_window", {}),
    "fire to another": lambda lab, _: lab.fire("Other.on_event", {}),
    "preview": lambda lab, _: lab.preview("Calls.on_event", {}),
    "run another": lambda lab, _: lab.run_saga(lab.sagas["Other"].cls(), {}),
    "compensate": lambda lab, run_id: lab.compensate_run(run_id),
    "resume": lambda lab, run_id: lab.resume_run(run_id),
    "redrive": lambda lab, _: lab.redrive([]),
    "forget": lambda lab, _: lab.forget("Calls.on_event"),
    "forget windows": lambda lab, _: lab.forget("Calls.on_window"),
    "limits": lambda lab, _: lab.set_limits("Other.on_event", max_concurrent_sagas=2),
}


async def _started(lab: Lab, only: str | None = None) -> None:
    await lab.start(only=only)


class Fed:
    """A source that calls `once` in each of its methods, with the place; it gives two events."""

    name = "fed"
    traits = SourceTraits()

    def __init__(self, once: Callable[[str], Awaitable[None]]) -> None:
        self._once, self._given = once, 0

    async def __aenter__(self) -> Self:
        await self._once("connecting")
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def receive(self, limit: int) -> list[Delivery]:
        await self._once("receive")
        if self._given == 2:
            await asyncio.sleep(3600)
        self._given += 1
        return [Delivery(Event(b"{}", id=f"e{self._given}", source="fed"), 1)]

    async def settle(self, deliveries: Any, outcomes: Any) -> None:
        await self._once("ack")

    async def nack(self, deliveries: Any, *, delay_s: float = 0.0) -> None: ...

    async def keep_alive(self, deliveries: Any) -> None: ...


class Probe:
    """Awaits a call in one place of user code, the first time that place is reached."""

    def __init__(self, lab: Lab, place: str, call: str) -> None:
        self.lab, self.place, self.call = lab, place, CALLS[call]
        self.called = False
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.run_id = ""
        self._loop = asyncio.get_running_loop()

    async def __call__(self, place: str, run_id: str = "") -> None:
        if place != self.place or self.called:
            return
        self.called = True
        try:
            await self.call(self.lab, run_id)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self._loop.call_soon_threadsafe(self.ended.set)


def define(lab: Lab, probe: Probe) -> None:
    place = probe.place
    fails = place in ("compensation", "on_step_failure", "on_compensation_start", "on_saga_failed")

    class Hears(SagaListener):
        async def _tell(self, hook: str, *facts: Any) -> None:
            found = [fact.run_id for fact in facts if hasattr(fact, "run_id")]
            await probe(hook, found[0] if found else "")

    def hook(name: str) -> Any:
        async def told(self: Any, *facts: Any) -> None:
            await self._tell(name, *facts)

        return told

    for name in IN_LISTENERS:
        setattr(Hears, name, hook(name))

    async def decode(raw: bytes) -> dict[str, Any]:
        await probe("decode")
        return {}

    class Calls(Saga):
        listeners: ClassVar[Any] = [Hears()] if place in IN_LISTENERS else []
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source=Fed(probe), decode=decode)
        async def on_event(self, event):
            await probe("trigger")
            return {}

        @trigger(source="memory", topic="window", debounce=Debounce("10ms", "1s"))
        async def on_window(self, event):
            await probe("window")
            return {}

        if place == "thread":

            @action()
            def work(self, ctx):
                asyncio.run(probe("thread", ctx.run_id))

        else:

            @action()
            async def work(self, ctx):
                await probe("action", ctx.run_id)
                if place == "report":
                    lab.report("probe", "now")

        @compensate("work")
        async def undo(self, ctx):
            await probe("compensation", ctx.run_id)

        @action(depends_on=["work"])
        async def fail(self, ctx):
            if fails:
                raise ValueError("undo")

    class Other(Saga):
        @trigger(source="memory", topic="other")
        async def on_event(self, event):
            await probe("fired")
            return {}

        @action()
        async def other(self, ctx): ...

    async def told(kind: str, text: str) -> None:
        if kind == "probe":
            await probe("report")

    lab.on_report(told)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (service, tasks, engine, pump):
        monkeypatch.setattr(module, "CLOSE_S", 0.1)
    monkeypatch.setattr("sagaz_lab.runtime.intake.intake.ANSWER_S", 0.1)
    monkeypatch.setattr("sagaz_lab.runtime.intake.intake.SOON_S", 0.1)


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A Lab that is current and not open."""
    lab = Lab(f"sqlite:///{tmp_path}/lab.db")
    with lab.activate():
        yield lab
    await lab.stop(grace_s=0)


async def reach(lab: Lab, probe: Probe, isolated: bool) -> None:
    """Start the Lab, and have the probe's place reached and its call ended."""
    lab.start(isolated=isolated)
    if probe.place in ("window", "fired"):
        target = "Calls.on_window" if probe.place == "window" else "Other.on_event"
        await asyncio.wait([asyncio.ensure_future(lab.fire(target, {}, wait=False))], timeout=10)
    await asyncio.wait_for(probe.ended.wait(), 10)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", PLACES)
async def test_it_works_or_is_one_error_and_the_lab_still_stops_and_starts(lab: Lab, place: str, call: str) -> None:
    probe = Probe(lab, place, call)
    define(lab, probe)
    async with asyncio.timeout(30):
        await reach(lab, probe, isolated=place == "thread")
        if not isinstance(probe.error, asyncio.CancelledError):  # of the stop that it has asked for
            assert probe.error is None or isinstance(probe.error, SagazLabError), probe.error
        await lab.stop(grace_s=0.1)
        await lab.start()
        assert lab.status().started
        await lab.stop(grace_s=0.1)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "report"])
async def test_to_drain_is_refused_wherever_the_lab_waits(lab: Lab, place: str) -> None:
    probe = Probe(lab, place, "drain")
    define(lab, probe)
    await reach(lab, probe, isolated=place == "thread")
    assert isinstance(probe.error, RunError)
    assert "drain() in " in str(probe.error)
    assert "would wait for itself forever; call it where no saga" in str(probe.error)


async def test_a_listener_to_reports_may_drain(lab: Lab) -> None:
    probe = Probe(lab, "report", "drain")
    define(lab, probe)
    await reach(lab, probe, isolated=False)
    assert probe.error is None


@pytest.mark.parametrize("place", ["thread", "compensation", "on_saga_start", "on_saga_failed", "on_saga_complete"])
async def test_to_compensate_ones_own_run_is_refused_where_nothing_can_be_cancelled(lab: Lab, place: str) -> None:
    probe = Probe(lab, place, "compensate")
    define(lab, probe)
    await reach(lab, probe, isolated=place == "thread")
    assert isinstance(probe.error, RunError)
    where = "a listener of run " if place in IN_LISTENERS else "calls.work of run "
    assert f"compensate_run() in {where}" in str(probe.error).replace("Calls", "calls")


async def test_an_action_that_compensates_its_own_run_is_cancelled(lab: Lab) -> None:
    probe = Probe(lab, "action", "compensate")
    define(lab, probe)
    await reach(lab, probe, isolated=False)
    assert isinstance(probe.error, asyncio.CancelledError)
    await until(lambda: "cancelled" in list(lab.runs()["status"]))


async def test_a_window_cannot_wait_for_an_event_that_it_would_hold(lab: Lab) -> None:
    probe = Probe(lab, "window", "fire into a window")
    define(lab, probe)
    await reach(lab, probe, isolated=False)
    assert "fire() to Calls.on_window in the decision of a window" in str(probe.error)
    assert "wait=False" in str(probe.error)


@pytest.mark.parametrize("place", ["trigger", "on_saga_complete"])
async def test_a_task_of_its_own_may_drain(lab: Lab, place: str) -> None:
    drained = asyncio.Event()

    async def drain() -> None:
        await until(lambda: lab.status().sources[0].state == "ended")
        await settle()  # by then nobody waits for what has begun this
        await lab.drain()
        drained.set()

    class Spawns(SagaListener):
        def on_saga_complete(self, *_: Any) -> None:
            if place == "on_saga_complete":
                tasks_of_test.append(asyncio.create_task(drain()))

    class Watched(Saga):
        listeners: ClassVar[Any] = [Spawns()]

        @trigger(source="recording", data=[{"n": 1}])
        def on_event(self, event):
            if place == "trigger":
                tasks_of_test.append(asyncio.create_task(drain()))
            return {}

        @action()
        async def work(self, ctx): ...

    tasks_of_test: list[asyncio.Task[None]] = []
    await lab.start()
    await asyncio.wait_for(drained.wait(), 10)


async def test_a_trigger_method_of_another_lab_may_drain_this_one(lab: Lab, tmp_path: Path) -> None:
    other = Lab("memory")
    with other.activate():

        class Drains(Saga):
            @trigger(source="memory", topic="t")
            async def on_event(self, event):
                await lab.drain()
                return {}

    await lab.open()
    [outcome] = await other.fire("Drains.on_event", {})
    assert outcome.kind == "started"
    await other.stop()
