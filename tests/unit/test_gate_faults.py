"""Gates at restarts, at a store that fails, and at events that come twice at the same moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, Throttle, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Refusal, Store
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import Taps, assert_adds_up, counted, statuses, until


class Blocked(Saga, abstract=True):
    """Each run goes on until it is let go, by its number."""

    live: list[int]
    gates: dict[int, asyncio.Future[str]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.live, cls.gates = [], {}
        super().__init_subclass__(**kwargs)

    @action("work")
    async def work(self, ctx):
        n = ctx["n"]
        self.live.append(n)
        try:
            end = await self.gates.setdefault(n, asyncio.get_running_loop().create_future())
        finally:
            self.live.remove(n)
            del self.gates[n]
        if end == "fails":
            raise OSError("down")

    @classmethod
    def let(cls, n: int, end: str = "ok") -> None:
        cls.gates[n].set_result(end)


@asynccontextmanager
async def started(
    store: str | Store, clock: VirtualClock, options: Mapping[str, Any], **more: Any
) -> AsyncIterator[tuple[Lab, type[Blocked]]]:
    """A started Lab with one such saga; it ends as if its process had died."""
    lab = Lab(store, clock=clock, **more)
    await lab.open()
    with lab.activate():

        class One(Blocked):
            @trigger(**{"source": "memory", **options})
            def on_event(self, event):
                return (event[0] if isinstance(event, list) else event).payload

    await lab.start()
    yield lab, One
    await lab.stop(grace_s=0)


async def fire(lab: Lab, n: int, **more: Any) -> str:
    (outcome,) = await lab.fire("One.on_event", {"n": n, **more}, wait=False)
    return outcome.kind


async def what_can_happen() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


# --- restarts ---


async def test_a_retry_keeps_its_turn_over_a_restart(clock: VirtualClock) -> None:
    store, options = MemoryStore(), {"concurrency_key": "k"}
    async with started(store, clock, options) as (lab, saga):
        await fire(lab, 1, k="a")
        await until(lambda: saga.live)
        saga.let(1, "fails")
        await lab.drain()
        assert await fire(lab, 2, k="a") == "waiting"
    async with started(store, clock, options) as (lab, saga):
        await what_can_happen()
        assert saga.live == []
        await clock.advance(10)
        assert saga.live == [1]


async def test_the_limit_of_runs_holds_over_a_restart(clock: VirtualClock) -> None:
    store, options = MemoryStore(), {"concurrency_key": "k", "max_concurrent_sagas": 1}
    async with started(store, clock, options) as (lab, saga):
        for n, k in ((1, "a"), (2, "a"), (3, "b")):
            await fire(lab, n, k=k)
        await until(lambda: saga.live)
        saga.let(1)
        await until(lambda: saga.live == [3])
    async with started(store, clock, options) as (_, saga):
        await what_can_happen()
        assert saga.live == [3]


@pytest.mark.parametrize("singleton", [None, "skip"])
async def test_a_window_that_came_due_meanwhile_waits_for_the_runs_to_be_back(
    clock: VirtualClock, singleton: Any
) -> None:
    store, options = MemoryStore(), {"batch": Batch(2, 10, key="k"), "concurrency_key": "k", "singleton": singleton}
    async with started(store, clock, options) as (lab, saga):
        for n in (1, 2, 3):
            await fire(lab, n, k="a")
        await until(lambda: saga.live == [1])
    await clock.advance(20)
    async with started(store, clock, options) as (lab, saga):
        await what_can_happen()
        assert saga.live == [1]
        saga.let(1)
        await what_can_happen()
        assert saga.live == ([] if singleton else [3])
        assert counted(lab, "One.on_event") == {"received": 1, "filtered" if singleton else "started": 1}


@pytest.mark.parametrize("event_first", [False, True])
async def test_runs_whose_code_has_come_back_go_before_a_later_window_and_a_later_event(
    timed_lab: Lab, clock: VirtualClock, event_first: bool
) -> None:
    gate, began = asyncio.Event(), list[list[int]]()

    def define() -> None:
        class Two(Saga):
            @trigger(source="memory", topic="t", batch=Batch(2, 10, key="k"), concurrency_key="k")
            def on(self, events):
                return {"n": [event["n"] for event in events]}

            @action("work")
            async def work(self, ctx):
                began.append(ctx["n"])
                await gate.wait()

    define()
    await timed_lab.start()
    for n in range(1, 8):
        await timed_lab.fire("Two.on", {"n": n, "k": 1}, wait=False)
    timed_lab.unregister("Two")
    gate.set()
    await until(lambda: "needs_code" in statuses(timed_lab) and "waiting" not in statuses(timed_lab))
    await clock.advance(20)
    define()
    if event_first:
        await timed_lab.fire("Two.on", {"n": 8, "k": 1}, wait=False)
    await what_can_happen()
    await clock.advance(20)
    await timed_lab.drain()
    assert began == [[1, 2], [3, 4], [5, 6], [7], *[[8]] * event_first]


async def test_a_run_whose_code_has_come_back_goes_before_those_that_still_waited(clock: VirtualClock) -> None:
    async with Lab("memory", max_live_runs=1, clock=clock) as lab:

        class Other(Blocked):
            @trigger(source="memory", topic="other")
            def on_event(self, event):
                return {"n": event["n"]}

        def define() -> type[Blocked]:
            class Mine(Blocked):
                @trigger(source="memory", topic="mine")
                def on_event(self, event):
                    return {"n": event["n"]}

            return Mine

        async def ends(saga: type[Blocked]) -> None:
            saga.let(saga.live[0])
            await what_can_happen()

        first = define()
        await lab.start()
        for name in ("Mine", "Other", "Mine", "Other", "Mine"):
            await lab.fire(f"{name}.on_event", {"n": len(lab.runs())}, wait=False)
        await what_can_happen()
        lab.unregister("Mine")
        await ends(first)
        while "needs_code" not in statuses(lab):
            await ends(Other)
        assert statuses(lab).count("waiting") == 1, "the other one has the slot now"
        second = define()
        await ends(Other)
        assert second.live == [2]
        await ends(second)
        assert second.live == [4]
        await ends(second)


# --- a store that fails ---


class FailsOnce(MemoryStore):
    """Takes nothing in, once."""

    fails = True

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if self.fails and (batch.runs or batch.waiting):
            self.fails = False
            raise StoreUnavailable("gone for a moment")
        return await super().accept(batch)


async def test_an_event_that_was_given_back_does_not_fall_into_the_period_it_has_opened(clock: VirtualClock) -> None:
    taps = Taps()
    options = {"topic": "t", "debounce": Debounce(10, 60, mode="leading")}
    async with started(FailsOnce(), clock, options, sources={"memory": taps}) as (lab, _):
        await taps["t"].put({"n": 1}, id="e1")
        await clock.advance(5)
        assert counted(lab, "One.on_event") == {"received": 1, "started": 1}


async def test_windows_are_as_they_were_when_the_store_has_not_taken_an_event(clock: VirtualClock) -> None:
    taps = Taps()
    options = {"topic": "t", "batch": Batch(2, 60)}
    async with started(FailsOnce(), clock, options, sources={"memory": taps}) as (lab, _):
        for n in (1, 2):
            taps["t"].put_nowait({"n": n}, id=f"e{n}")
        await clock.advance(5)
        assert counted(lab, "One.on_event") == {"received": 2, "started": 2}


class FailsLate(MemoryStore):
    """Does not take in the first event, and says so only when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_fail = asyncio.Event()
        self._first = True

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if batch.waiting and self._first:
            self._first = False
            await self.may_fail.wait()
            raise StoreUnavailable("gone for a moment")
        return await super().accept(batch)


@pytest.mark.parametrize("gate", [{"batch": Batch(3, 60)}, {"debounce": Debounce(10, 60, mode="all")}])
async def test_what_came_while_the_store_failed_for_another_event_still_waits(
    clock: VirtualClock, gate: dict[str, Any]
) -> None:
    store = FailsLate()
    async with started(store, clock, gate) as (lab, saga):
        first, second = asyncio.create_task(fire(lab, 1)), asyncio.create_task(fire(lab, 2))
        await what_can_happen()
        store.may_fail.set()
        with pytest.raises(StoreUnavailable):
            await first
        assert await second == "waiting"
        assert counted(lab, "One.on_event") == {"received": 1, "waiting": 1}
        await fire(lab, 3)
        await fire(lab, 4)
        await clock.advance(10)
        await until(lambda: saga.live == [2])
        assert counted(lab, "One.on_event") == {"received": 3, "started": 3}


# --- the same moment ---


async def test_the_same_event_twice_at_once_fills_no_batch(tmp_path: Path, clock: VirtualClock) -> None:
    options = {"batch": Batch(2, 60)}
    async with started(f"sqlite:///{tmp_path}/lab.db", clock, options) as (lab, saga):
        outcomes = await asyncio.gather(*(lab.fire("One.on_event", {"n": n}, id="same", wait=False) for n in (1, 2)))
        assert sorted(outcome.kind for (outcome,) in outcomes) == ["duplicate", "waiting"]
        await what_can_happen()
        assert saga.live == []
        assert counted(lab, "One.on_event") == {"received": 2, "duplicate": 1, "waiting": 1}
        await fire(lab, 3)
        await until(lambda: counted(lab, "One.on_event").get("started") == 2)


async def test_the_same_event_twice_at_once_supersedes_nothing(tmp_path: Path, clock: VirtualClock) -> None:
    options = {"debounce": Debounce(10, 60)}
    async with started(f"sqlite:///{tmp_path}/lab.db", clock, options) as (lab, saga):
        await fire(lab, 1)
        await asyncio.gather(*(lab.fire("One.on_event", {"n": n}, id="same", wait=False) for n in (2, 2, 2)))
        assert_adds_up(lab)
        await clock.advance(10)
        await until(lambda: saga.live == [2])
        assert counted(lab, "One.on_event") == {"received": 4, "duplicate": 2, "filtered": 1, "started": 1}


async def test_a_fire_that_is_cancelled_leaves_no_run_behind(tmp_path: Path, clock: VirtualClock) -> None:
    async with started(f"sqlite:///{tmp_path}/lab.db", clock, {}) as (lab, saga):
        for n in range(1, 8):
            fired = asyncio.create_task(lab.fire("One.on_event", {"n": n}, id=f"e{n}"))
            for _ in range(n):
                await asyncio.sleep(0)
            fired.cancel()
            await asyncio.wait([fired])
        stored = lambda: sorted(lab.runs()["event_id"])  # noqa: E731
        await until(lambda: stored() == sorted(f"e{n}" for n in saga.live))
        assert_adds_up(lab)


# --- full ---


async def test_a_full_batch_needs_no_room_in_the_queue_it_leaves(clock: VirtualClock) -> None:
    config = TriggerConfig(queue_size=2, backpressure_strategy="drop_newest")
    options = {"batch": Batch(2, 60), "max_concurrent_sagas": 1, "config": config}
    async with started("memory", clock, options) as (lab, _):
        for n in range(4):
            await fire(lab, n)
        await what_can_happen()
        assert counted(lab, "One.on_event") == {"received": 4, "started": 2, "waiting": 2}


async def test_a_window_takes_no_more_than_the_queue_has_room_for(clock: VirtualClock) -> None:
    taps = Taps()
    options = {"topic": "t", "debounce": Debounce(10, 60, mode="all"), "config": TriggerConfig(queue_size=2)}
    async with started("memory", clock, options, sources={"memory": taps}) as (lab, _):
        for n in range(50):
            taps["t"].put_nowait({"n": n})
        await what_can_happen()
        assert counted(lab, "One.on_event") == {"received": 2, "waiting": 2}
        await clock.advance(10)
        assert counted(lab, "One.on_event") == {"received": 4, "started": 2, "waiting": 2}


# --- replaced and forgotten ---


async def test_a_due_retry_that_waits_for_a_slot_is_replaced_too(clock: VirtualClock) -> None:
    options = {"singleton": "cancel", "concurrency_key": "k", "max_concurrent_sagas": 1,
               "config": TriggerConfig(retry_backoff_seconds=(10,))}  # fmt: skip
    async with started("memory", clock, options) as (lab, saga):
        await fire(lab, 1, k="a")
        await until(lambda: saga.live)
        saga.let(1, "fails")
        await lab.drain()
        await fire(lab, 2, k="b")
        await until(lambda: saga.live == [2])
        await clock.advance(10)
        await fire(lab, 3, k="a")
        saga.let(2)
        await until(lambda: saga.live == [3])


async def test_to_forget_a_pace_lets_what_waits_for_it_go(clock: VirtualClock) -> None:
    async with started("memory", clock, {"throttle": Throttle(1, "1h", key="k")}) as (lab, saga):
        for n in (1, 2, 3):
            await fire(lab, n, k="a")
        await until(lambda: saga.live == [1])
        await lab.forget("One.on_event")
        await until(lambda: saga.live == [1, 2])


async def test_an_event_that_the_store_refuses_takes_nobodys_place(tmp_path: Path, clock: VirtualClock) -> None:
    options = {"singleton": "cancel", "idempotency_key": "id"}
    async with started(f"sqlite:///{tmp_path}/lab.db", clock, options) as (lab, saga):
        outcomes = await asyncio.gather(*(lab.fire("One.on_event", {"n": 1, "id": "same"}, wait=False) for _ in "ab"))
        assert sorted(outcome.kind for (outcome,) in outcomes) == ["duplicate", "started"]
        await until(lambda: saga.live == [1])
        await what_can_happen()
        assert saga.live == [1]
        assert list(lab.runs()["status"]) == ["running"]
