"""Events fired at the same time are decided many at a time, and each caller gets its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest

from sagaz_lab import Batch, Lab, Outcome, Saga, action, skip, trigger
from sagaz_lab.abc import Delivery, Observer
from sagaz_lab.errors import LabClosed, TriggerPaused
from tests.unit.tools import counted, until

ORDERS = "orders.on_order"


class Batches(Observer):
    """How many events each decision took."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def received(self, deliveries: Sequence[Delivery], triggers: Sequence[tuple[str, int]]) -> None:
        self.sizes.append(len(deliveries))


class orders(Saga):  # noqa: N801
    @trigger(source="memory", topic="orders")
    def on_order(self, event):
        if event["n"] % 3 == 1:
            return skip("not mine", n=event["n"])
        if event["n"] % 3 == 2:
            raise ValueError(event["n"])
        return {"n": event["n"]}

    @action()
    async def keep(self, ctx):
        return {"kept": ctx["n"]}


async def fire(lab: Lab, n: int, **options: Any) -> Outcome:
    [outcome] = await lab.fire(ORDERS, {"n": n}, id=f"e{n}", **options)
    return outcome


async def test_a_thousand_at_once_are_a_few_decisions(each_lab: Lab) -> None:
    each_lab.register(orders)
    seen = Batches()
    each_lab.observe(seen)
    found = await asyncio.gather(*(fire(each_lab, n) for n in range(1000)))
    await each_lab.drain()
    assert sum(seen.sizes) == 1000
    if each_lab.store.traits.survives:  # else a decision waits for nothing, so that each is made at once
        assert len(seen.sizes) < 50
    kinds = ["started", "filtered", "dead"]
    assert [(it.event_id, it.kind) for it in found] == [(f"e{n}", kinds[n % 3]) for n in range(1000)]
    for n in range(0, 1000, 3):
        assert each_lab.context(found[n].run_id or "")["kept"] == n
    assert counted(each_lab, ORDERS) == {"received": 1000, "started": 334, "filtered": 333, "dead": 333}


async def test_of_one_id_the_first_starts_a_run_and_the_others_are_duplicates(each_lab: Lab) -> None:
    each_lab.register(orders)
    found = await asyncio.gather(*(fire(each_lab, 3 * (n // 4)) for n in range(40)))
    assert [it.kind for it in found] == ["started", "duplicate", "duplicate", "duplicate"] * 10


class Slow(Saga):
    """Its method waits until it may go on."""

    may = asyncio.Event()

    @trigger(source="memory", topic="slow")
    async def on_event(self, event):
        await self.may.wait()
        return


@pytest.fixture
async def slow(lab: Lab) -> type[Slow]:
    Slow.may = asyncio.Event()
    lab.register(Slow)
    return Slow


async def fire_slow(lab: Lab, *ids: str) -> list[asyncio.Task[list[Outcome]]]:
    """The first is being decided, and the second is next; the others have come after that."""
    tasks = []
    for n, id in enumerate(ids):
        tasks.append(asyncio.create_task(lab.fire("Slow.on_event", {}, id=id)))
        await until(lambda n=n: lab.counters()["Slow.on_event"]["deciding"] == min(n + 1, 2))  # type: ignore[misc]
        await asyncio.sleep(0)
    return tasks


async def test_one_whose_caller_is_cancelled_before_its_turn_is_not_taken(lab: Lab, slow: type[Slow]) -> None:
    first, second, third, fourth = await fire_slow(lab, "a", "b", "c", "d")
    third.cancel()
    with suppress(asyncio.CancelledError):
        await third
    slow.may.set()
    await asyncio.gather(first, second, fourth)
    assert counted(lab, "Slow.on_event") == {"received": 3, "filtered": 3}


async def test_one_whose_caller_is_cancelled_later_takes_none_of_the_others_along(lab: Lab, slow: type[Slow]) -> None:
    first, second, third = await fire_slow(lab, "a", "b", "c")
    for task in (first, second):
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    slow.may.set()
    assert [it.event_id for it in await third] == ["c"]


async def test_those_before_their_turn_hear_that_the_trigger_is_paused(lab: Lab, slow: type[Slow]) -> None:
    first, second, *others = await fire_slow(lab, "a", "b", "c", "d")
    lab.pause("Slow.on_event")
    slow.may.set()
    assert [it.event_id for task in (first, second) for it in await task] == ["a", "b"]
    for task in others:
        with pytest.raises(TriggerPaused, match=r"Slow\.on_event is paused"):
            await task
    lab.resume("Slow.on_event")
    assert [it.kind for it in await lab.fire("Slow.on_event", {}, id="e")] == ["filtered"]


async def test_those_before_their_turn_hear_of_a_stop(lab: Lab, slow: type[Slow]) -> None:
    tasks = await fire_slow(lab, "a", "b", "c", "d")
    await lab.stop(grace_s=0)
    slow.may.set()
    for task in tasks:
        with pytest.raises(LabClosed):
            await task


async def test_a_method_that_fires_to_its_own_trigger_overtakes_those_before_their_turn(lab: Lab) -> None:
    class Nested(Saga):
        @trigger(source="memory", topic="nested")
        async def on_event(self, event):
            if event["again"]:
                await asyncio.sleep(0)  # others are before their turn now
                await lab.fire("Nested.on_event", {"again": False}, wait=False)
            return

    async with asyncio.timeout(20):
        await asyncio.gather(*(lab.fire("Nested.on_event", {"again": True}) for _ in range(5)))
    assert counted(lab, "Nested.on_event") == {"received": 10, "filtered": 10}


async def test_each_gets_the_outcome_of_its_window(each_lab: Lab) -> None:
    class Pairs(Saga):
        @trigger(source="memory", topic="pairs", batch=Batch(2, "10s"))
        def on_pair(self, events):
            return {"ns": [event["n"] for event in events]}

        @action()
        async def keep(self, ctx):
            return None

    found = await asyncio.gather(*(each_lab.fire("Pairs.on_pair", {"n": n}, id=f"e{n}") for n in range(20)))
    assert [(it.event_id, it.kind) for [it] in found] == [(f"e{n}", "started") for n in range(20)]
    assert [found[n][0].run_id for n in range(0, 20, 2)] == [found[n][0].run_id for n in range(1, 20, 2)]
