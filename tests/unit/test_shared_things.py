"""What several sources share is made once, and closed when the last of them is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from sagaz_lab.runtime.intake.shared import SharedThings
from sagaz_lab.runtime.lifetime.tasks import Tasks


class Port:
    """A thing that exists once, entered and closed in one task."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.is_open = False
        self.closes = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Port]:
        assert not self.is_open, "in use"
        self.is_open = True
        self.log.append("open")
        await asyncio.sleep(0.01)
        async with asyncio.TaskGroup():  # may only be left by the task that has entered it
            yield self
        self.closes.set()
        await asyncio.sleep(0.01)
        self.log.append("close")
        self.is_open = False


@pytest.fixture
def things() -> SharedThings:
    return SharedThings(Tasks(lambda kind, text: None))


async def use(things: SharedThings, port: Port, for_s: float = 0.0) -> None:
    async with things("port", port.open) as given:
        assert given is port
        assert port.is_open
        await asyncio.sleep(for_s)


async def test_it_is_made_once_for_all_who_use_it_at_a_time(things: SharedThings) -> None:
    port = Port()
    await asyncio.gather(*(use(things, port, n / 100) for n in range(5)))
    assert port.log == ["open", "close"]


async def test_who_comes_while_it_is_closed_gets_a_new_one(things: SharedThings) -> None:
    port = Port()
    first = asyncio.create_task(use(things, port))
    await port.closes.wait()
    await use(things, port)
    await first
    assert port.log == ["open", "close"] * 2


async def test_what_cannot_be_made_is_the_error_of_each_and_tried_anew(things: SharedThings) -> None:
    port = Port()

    @asynccontextmanager
    async def taken() -> AsyncIterator[Port]:
        await asyncio.sleep(0.01)
        raise OSError("address in use")
        yield port

    async def fails() -> None:
        with pytest.raises(OSError, match="address in use"):
            async with things("port", taken):
                pass

    await asyncio.gather(fails(), fails())
    await use(things, port)
    assert port.log == ["open", "close"]


async def test_one_who_is_cancelled_leaves_it_to_the_others(things: SharedThings) -> None:
    port = Port()
    async with AsyncExitStack() as stack:
        impatient = asyncio.create_task(use(things, port, 60))
        await stack.enter_async_context(things("port", port.open))
        impatient.cancel()
        await asyncio.wait([impatient])
        assert port.is_open
    assert port.log == ["open", "close"]
