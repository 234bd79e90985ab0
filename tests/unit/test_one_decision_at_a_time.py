"""A trigger makes one decision at a time, and what the store does not take has never been."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from sagaz_lab import Debounce, Lab, Saga, Throttle, action, trigger
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import RunError, StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, settle, until


async def test_the_next_event_is_decided_when_the_one_before_is(lab: Lab) -> None:
    said, gates = list[str](), {"e1": asyncio.Event(), "e2": asyncio.Event()}

    class Slow(Saga):
        @trigger(source="memory", topic="t")
        async def on_event(self, event: Any) -> None:
            said.append(f"begins {event.id}")
            await gates[event.id].wait()
            said.append(f"ends {event.id}")

    fired = [asyncio.create_task(lab.fire("Slow.on_event", {}, id=id)) for id in gates]
    await until(lambda: said)
    gates["e2"].set()
    await settle()
    assert said == ["begins e1"]
    gates["e1"].set()
    await asyncio.gather(*fired)
    assert said == ["begins e1", "ends e1", "begins e2", "ends e2"]


async def test_another_trigger_does_not_wait_for_it(lab: Lab) -> None:
    gate = asyncio.Event()

    class Two(Saga):
        @trigger(source="memory", topic="slow")
        async def on_slow(self, event: Any) -> None:
            await gate.wait()

        @trigger(source="memory", topic="quick")
        def on_quick(self, event: Any) -> None: ...

    slow = asyncio.create_task(lab.fire("Two.on_slow", {}))
    (outcome,) = await asyncio.wait_for(lab.fire("Two.on_quick", {}), 5)
    assert outcome.kind == "filtered"
    gate.set()
    await slow


async def test_what_a_method_fires_to_its_own_trigger_is_decided_at_once(lab: Lab) -> None:
    class Chain(Saga):
        @trigger(source="memory", topic="t")
        async def on_event(self, event: Any) -> dict[str, Any]:
            if event["n"]:
                (outcome,) = await lab.fire("Chain.on_event", {"n": event["n"] - 1})
                assert outcome.kind == "started"
            return {}

        @action()
        async def work(self, ctx: Any) -> None: ...

    (outcome,) = await asyncio.wait_for(lab.fire("Chain.on_event", {"n": 3}), 5)
    assert outcome.kind == "started"
    await lab.drain()
    assert len(lab.runs()) == 4
    assert_adds_up(lab)


async def test_a_method_that_waits_for_a_turn_of_its_own_trigger_gets_an_error(lab: Lab) -> None:
    kinds, done = list[Any](), asyncio.Event()

    class Chain(Saga):
        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        async def on_event(self, event: Any) -> dict[str, Any]:
            for _ in range(event.get("times", 0)):
                try:
                    kinds.extend(one.kind for one in await lab.fire("Chain.on_event", {}))
                except RunError as error:
                    kinds.append(type(error))
            return {}

        @action()
        async def work(self, ctx: Any) -> None:
            await done.wait()

    await asyncio.wait_for(lab.fire("Chain.on_event", {"times": 2}, wait=False), 5)
    assert kinds == ["started", RunError]  # the first has the slot, the second would wait for the end of the decision
    done.set()
    await lab.drain()
    assert_adds_up(lab)


async def test_a_method_that_waits_for_its_own_window_gets_an_error(lab: Lab) -> None:
    errors = list[str]()

    class Windowed(Saga):
        @trigger(source="memory", topic="t", debounce=Debounce("1ms", "2ms", mode="all"))
        async def on_events(self, events: Any) -> None:
            try:
                await lab.fire("Windowed.on_events", {})
            except RunError as error:
                errors.append(str(error))

    await lab.fire("Windowed.on_events", {}, wait=False)
    await until(lambda: errors)
    assert "would wait for itself" in errors[0]


async def test_no_run_ends_inside_a_decision(lab: Lab) -> None:
    gate, done = asyncio.Event(), asyncio.Event()

    class One(Saga):
        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        async def on_event(self, event: Any) -> dict[str, Any]:
            if event["n"] == 2:
                await gate.wait()
            return {"n": event["n"]}

        @action()
        async def work(self, ctx: Any) -> None:
            if ctx["n"] == 1:
                await done.wait()

    await lab.fire("One.on_event", {"n": 1})
    second = asyncio.create_task(lab.fire("One.on_event", {"n": 2}, wait=False))
    await until(lambda: lab.counters()["One.on_event"]["deciding"])
    done.set()
    await until(lambda: list(lab.runs()["status"]) == ["completed"])
    gate.set()
    (outcome,) = await second
    assert outcome.kind == "waiting"
    await lab.drain()
    assert list(lab.runs()["status"]) == ["completed"] * 2
    assert_adds_up(lab)


class Away(MemoryStore):
    """Takes no batch while it is `away`."""

    away = False

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if self.away:
            raise StoreUnavailable("away")
        return await super().accept(batch)


@pytest.mark.parametrize(
    "gate",
    [
        {"cooldown": "1h"},
        {"rate_limit_per_second": 0.001},
        {"throttle": Throttle(1, "1h", key="k")},
        {"singleton": "skip"},
        {"max_concurrent_sagas": 1},
        {"debounce": Debounce("1h", "2h", mode="leading")},
    ],
    ids=lambda gate: next(iter(gate)),
)
async def test_a_batch_that_the_store_does_not_take_uses_up_nothing(gate: dict[str, Any], clock: VirtualClock) -> None:
    store, done = Away(), asyncio.Event()
    async with Lab(store, clock=clock) as lab:
        with lab.activate():

            class Once(Saga):
                @trigger(source="memory", topic="t", **gate)
                def on_event(self, event: Any) -> dict[str, Any]:
                    return {}

                @action()
                async def work(self, ctx: Any) -> None:
                    await done.wait()

        store.away = True
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await lab.fire("Once.on_event", {"k": "a"}, wait=False)
        store.away = False
        (outcome,) = await lab.fire("Once.on_event", {"k": "a"}, wait=False)
        assert outcome.kind == "started"
        (outcome,) = await lab.fire("Once.on_event", {"k": "a"}, wait=False)
        assert outcome.kind != "started"
        assert_adds_up(lab)
        done.set()
