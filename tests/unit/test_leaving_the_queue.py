"""Runs that leave the queue without beginning, while the store is away, the Lab closes, or a later event comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, action, trigger
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore


class Faulty(MemoryStore):
    """Raises `fault` instead of ending a run."""

    fault: Exception | None = None

    def end(self, *args: Any, **more: Any) -> Awaitable[None]:
        if self.fault is not None:
            raise self.fault
        return super().end(*args, **more)


@pytest.fixture
def store() -> Faulty:
    return Faulty()


@pytest.fixture
async def faulty_lab(store: Faulty) -> AsyncIterator[Lab]:
    async with Lab(store) as lab:
        yield lab


async def test_what_could_not_be_cancelled_keeps_its_place(faulty_lab: Lab, store: Faulty) -> None:
    gate, began = asyncio.Event(), []

    class Keyed(Saga):
        @trigger(source="memory", topic="keyed", concurrency_key="k")
        def on(self, event):
            return {"n": event["n"]}

        @action()
        async def work(self, ctx):
            began.append(ctx["n"])
            await gate.wait()

    outcomes = [(await faulty_lab.fire("Keyed.on", {"k": 1, "n": n}, wait=False))[0] for n in range(5)]
    store.fault = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await faulty_lab.compensate_run(outcomes[3].run_id or "")
    store.fault = None
    gate.set()
    await faulty_lab.drain()
    assert began == [0, 1, 2, 3, 4]
