"""Runs that leave the queue without beginning, while the store is away, the Lab closes, or a later event comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, trigger
from sagaz_lab.abc import Store
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, statuses, until


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


class Retried(Saga, abstract=True):
    """Runs of the number 0 fail once; others go on until they are let go."""

    begun: ClassVar[list[int]]
    gate: ClassVar[asyncio.Event]
    trigger_config = TriggerConfig(retry_backoff_seconds=(10.0,), queue_size=2, backpressure_strategy="drop_oldest")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.begun, cls.gate = [], asyncio.Event()
        super().__init_subclass__(**kwargs)

    @action("work")
    async def work(self, ctx):
        self.begun.append(ctx["n"])
        if ctx["n"] == 0 and self.begun.count(0) == 1:
            raise ValueError("once")
        if ctx["n"]:
            await self.gate.wait()


@asynccontextmanager
async def with_a_retry_that_waits(store: Store, clock: VirtualClock, **options: Any) -> AsyncIterator[Lab]:
    """The retry of event 0 is due, and event 1 has the only slot."""
    async with Lab(store, clock=clock) as lab:

        class One(Retried):
            @trigger(source="memory", topic="t", max_concurrent_sagas=1, **options)
            def on(self, event):
                return {"n": event["n"]}

        await lab.start()
        await lab.fire("One.on", {"n": 0, "k": "a"}, id="e0")
        await until(lambda: statuses(lab) == ["waiting"])
        await lab.fire("One.on", {"n": 1, "k": "b"}, id="e1")
        await clock.advance(11)
        yield lab
        One.gate.set()
        await lab.drain()
        assert_adds_up(lab)


async def test_a_retry_that_waits_for_a_slot_is_cancelled_for_a_later_run_of_its_key(clock: VirtualClock) -> None:
    store = MemoryStore()
    async with with_a_retry_that_waits(store, clock, singleton="cancel", concurrency_key="k") as lab:
        await lab.fire("One.on", {"n": 2, "k": "a"}, id="e2", wait=False)
        await until(lambda: statuses(lab)[0] == "cancelled")
    assert statuses(lab) == ["cancelled", "completed", "completed"]
    assert counted(lab, "One.on") == {"received": 3, "started": 3}
    async with Lab(store, clock=clock) as lab:
        await lab.start()
        assert statuses(lab) == ["cancelled", "completed", "completed"], "it does not come back"


async def test_a_retry_that_waits_for_a_slot_makes_room_for_no_event(clock: VirtualClock) -> None:
    async with with_a_retry_that_waits(MemoryStore(), clock) as lab:
        for n in (2, 3):
            await lab.fire("One.on", {"n": n}, wait=False)
    assert statuses(lab) == ["completed", "completed", "completed"]
    assert counted(lab, "One.on") == {"received": 4, "started": 3, "dropped": 1}


async def test_a_retry_that_waits_for_a_slot_goes_on_when_its_code_has_changed_or_gone(clock: VirtualClock) -> None:
    async with with_a_retry_that_waits(MemoryStore(), clock, concurrency_key="k", cooldown=60.0) as lab:
        lab.unregister("One")
    assert statuses(lab) == ["completed", "completed"]
