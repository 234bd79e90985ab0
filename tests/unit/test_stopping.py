"""A stop ends, whatever the user's code makes of its cancelling, and says what did not let itself be stopped."""

import asyncio
from contextlib import suppress
from typing import Any, Self

import pytest

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.abc import Delivery, SourceTraits
from sagaz_lab.runtime import service, tasks


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

    async def ack(self, deliveries: Any) -> None: ...

    async def nack(self, deliveries: Any, delay_s: float = 0.0) -> None: ...


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CLOSE_S", 0.05)
    monkeypatch.setattr(service, "CLOSE_S", 0.05)


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
    assert "did not let" in str(lab.status().warnings)
    source.enough.set()
