"""A stop ends, whatever the user's code makes of its cancelling, and reports what did not stop."""

import asyncio
from contextlib import suppress
from typing import Any, Self

import pytest

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.abc import Delivery, SourceTraits
from sagaz_lab.runtime import service
from sagaz_lab.runtime.intake import pump
from sagaz_lab.runtime.lifetime import tasks
from sagaz_lab.runtime.outbox import relay
from tests.unit.tools import Taps, until


async def swallow(reached: asyncio.Event, enough: asyncio.Event) -> None:
    """Waits, and goes on waiting when it is cancelled, until the test has seen enough."""
    reached.set()
    while not enough.is_set():
        with suppress(asyncio.CancelledError):
            await enough.wait()


class Stubborn:
    """A source that never leaves `receive`."""

    name = "stubborn"
    traits = SourceTraits()

    def __init__(self) -> None:
        self.reached, self.enough = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def receive(self, limit: int) -> list[Delivery]:
        await swallow(self.reached, self.enough)
        return []

    async def settle(self, deliveries: Any, outcomes: Any) -> None: ...

    async def nack(self, deliveries: Any, delay_s: float = 0.0) -> None: ...

    async def keep_alive(self, deliveries: Any) -> None: ...


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CLOSE_S", 0.05)
    for module in (service, pump, relay):
        monkeypatch.setattr(module, "CLOSE_S", 0.05)


@pytest.mark.timeout(30)
async def test_a_source_that_swallows_its_cancelling_does_not_keep_the_lab_open() -> None:
    source, lab = Stubborn(), Lab("memory")
    with lab.activate():

        class Watched(Saga):
            @trigger(source=source)
            def on_event(self, event): ...

    lab.start()
    await source.reached.wait()
    await lab.stop(grace_s=0)
    assert not lab.is_open
    assert "did not stop when cancelled" in str(lab.status().warnings)
    source.enough.set()


class Unclosable(Stubborn):
    """A source that gives nothing and never closes; `deaf`: nor does it hear that it is to."""

    def __init__(self, deaf: bool) -> None:
        super().__init__()
        self.deaf, self.closes = deaf, asyncio.Event()

    async def receive(self, limit: int) -> list[Delivery]:
        self.reached.set()
        await asyncio.sleep(3600)
        return []

    async def __aexit__(self, *error: object) -> None:
        if self.deaf:
            await swallow(self.closes, self.enough)
        await asyncio.sleep(3600)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("change", ["unregister", "start"])
@pytest.mark.parametrize("deaf", [False, True])
async def test_a_source_that_does_not_close_holds_up_no_change(deaf: bool, change: str) -> None:
    source, taps = Unclosable(deaf), Taps()
    lab = Lab("memory", sources={"memory": taps})
    with lab.activate():

        class Watched(Saga):
            @trigger(source=source)
            def on_event(self, event): ...

        class Other(Saga):
            @trigger(source="memory", topic="other")
            def on_event(self, event): ...

        await lab.start()
        await source.reached.wait()
        if change == "unregister":
            lab.unregister("Watched")
        else:
            await lab.start(only="Other")
        await until(lambda: "did not stop within" in str(lab.status().warnings))
        assert "it is still closing" in str(lab.status().warnings)
        if change == "start":
            lab.unregister("Watched")

        class Third(Saga):
            @trigger(source="memory", topic="third")
            def on_event(self, event): ...

        await lab.start()
        await until(lambda: "third" in taps.made and taps["third"].entered)
        await lab.stop(grace_s=0)
    source.enough.set()


@pytest.mark.timeout(30)
async def test_a_trigger_method_that_takes_long_holds_up_no_change(lab: Lab) -> None:
    gate, seen = asyncio.Event(), list[int]()

    class Slow(Saga):
        @trigger(source="recording", data=[{"n": 1}])
        async def on_event(self, event):
            await gate.wait()
            seen.append(event["n"])

    class Other(Saga):
        @trigger(source="memory", topic="other")
        def on_event(self, event): ...

    await lab.start()
    await until(lambda: lab.counters()["Slow.on_event"]["deciding"])
    async with asyncio.timeout(5):
        await lab.start(only="Other")
    assert "its last events are still being decided" in str(lab.status().warnings)
    gate.set()
    await until(lambda: lab.counters()["Slow.on_event"]["filtered"])
    assert seen == [1]
