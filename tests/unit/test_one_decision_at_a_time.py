"""A trigger makes one decision at a time, and what the store does not take has never been."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Event, Lab, Outcome, Saga, Throttle, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import RunError, StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import Taps, assert_adds_up, counted, settle, until


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


@pytest.mark.parametrize("gates", [{}, {"batch": Batch(2, "1h")}], ids=["plain", "batch"])
async def test_the_store_takes_it_with_the_event_that_fired_it_or_neither(gates: dict[str, Any]) -> None:
    store = Away()
    async with Lab(store) as lab:

        class Chain(Saga):
            @trigger(source="memory", topic="t", **gates)
            async def on_event(self, event: Any) -> dict[str, Any]:
                n = event["n"] if isinstance(event, Event) else event[0]["n"]
                if n == 0:
                    for m in (1, 2):
                        kinds.extend(one.kind for one in await fire(m))
                return {"n": n}

            @action()
            async def work(self, ctx: Any) -> None:
                done.append(ctx["n"])

        async def fire(n: int) -> list[Outcome]:
            return await lab.fire("Chain.on_event", {"n": n}, id=f"e{n}", wait=False)

        kinds, done = list[Any](), list[int]()
        if gates:
            await fire(0)
            first = partial(fire, 3)  # closes the window
        else:
            first = partial(fire, 0)
        store.away = True
        with pytest.raises(StoreUnavailable):
            await first()
        assert_adds_up(lab)
        counts = lab.counters()["Chain.on_event"]
        assert (counts["received"], counts["waiting"], len(lab.runs())) == ((1, 1, 0) if gates else (0, 0, 0))
        store.away = False
        await first()
        await lab.drain()
        assert kinds == (["waiting", "started"] if gates else ["started", "started"]) * 2
        assert sorted(done) == ([0, 1] if gates else [0, 1, 2])
        assert_adds_up(lab)


@pytest.mark.parametrize("gates", [{}, {"batch": Batch(2, "1h")}, {"singleton": "skip"}], ids=str)
async def test_one_whose_own_decision_is_cancelled_leaves_nothing_in_the_batch(lab: Lab, gates: dict[str, Any]) -> None:
    class Chain(Saga):
        @trigger(source="memory", topic="t", **gates)
        async def on_event(self, event: Any) -> dict[str, Any]:
            n = event["n"] if isinstance(event, Event) else event[0]["n"]
            if n == 0:
                fired = [lab.fire("Chain.on_event", {"n": m}, wait=False) for m in (8, 9)]
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(asyncio.gather(*fired), 0.05)
            elif n > 7:
                await asyncio.Event().wait()
            return {"n": n}

        @action()
        async def work(self, ctx: Any) -> None:
            done.append(ctx["n"])

    done = list[int]()
    for n in range(2 if gates.get("batch") else 1):
        await lab.fire("Chain.on_event", {"n": n}, wait=False)
    await lab.drain()
    assert done == [0]
    # Of a batch the first of the two was in the window already; the second would have closed it.
    left = {"received": 3, "started": 2, "waiting": 1} if gates.get("batch") else {"received": 1, "started": 1}
    assert counted(lab, "Chain.on_event") == left


async def test_those_that_a_method_fires_at_the_same_time_join_its_batch_one_after_the_other(lab: Lab) -> None:
    at_once, most, depth = 0, 0, {"a": ["b", "c"], "b": ["d"], "c": ["e", "f"]}

    class Tree(Saga):
        @trigger(source="memory", topic="t")
        async def on_event(self, event: Any) -> dict[str, Any]:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(0)
            fired = [lab.fire("Tree.on_event", {"at": at}, wait=False) for at in depth.get(event["at"], [])]
            await asyncio.gather(*fired)
            at_once -= 1
            return {"at": event["at"]}

        @action()
        async def work(self, ctx: Any) -> None:
            done.append(ctx["at"])

    done = list[str]()
    async with asyncio.timeout(20):
        await lab.fire("Tree.on_event", {"at": "a"})
    await lab.drain()
    assert sorted(done) == ["a", "b", "c", "d", "e", "f"]
    assert most == 3  # one for each level, none beside another
    assert_adds_up(lab)


async def test_what_a_method_fires_to_another_trigger_waits_for_its_decision(lab: Lab) -> None:
    gate, said = asyncio.Event(), list[str]()

    class Two(Saga):
        @trigger(source="memory", topic="other")
        async def on_other(self, event: Any) -> None:
            said.append(f"begins {event.id}")
            if event.id == "first":
                await gate.wait()
            said.append(f"ends {event.id}")

        @trigger(source="memory", topic="t")
        async def on_event(self, event: Any) -> None:
            await lab.fire("Two.on_other", {}, id="second")

    first = asyncio.create_task(lab.fire("Two.on_other", {}, id="first"))
    await until(lambda: said)
    second = asyncio.create_task(lab.fire("Two.on_event", {}))
    await settle()
    assert said == ["begins first"]
    gate.set()
    await asyncio.gather(first, second)
    assert said == ["begins first", "ends first", "begins second", "ends second"]


async def test_two_that_would_wait_for_each_other_get_an_error_in_place_of_the_second_wait(lab: Lab) -> None:
    both, begun = asyncio.Event(), set[str]()

    class Two(Saga):
        async def turn(self, name: str, other: str, event: Any) -> None:
            if not event["nested"]:
                begun.add(name)
                if len(begun) == 2:
                    both.set()
                await both.wait()
                await lab.fire(f"Two.{other}", {"nested": True})

        @trigger(source="memory", topic="a")
        async def on_a(self, event: Any) -> None:
            await self.turn("on_a", "on_b", event)

        @trigger(source="memory", topic="b")
        async def on_b(self, event: Any) -> None:
            await self.turn("on_b", "on_a", event)

    async with asyncio.timeout(20):
        fired = [lab.fire(f"Two.{name}", {"nested": False}) for name in ("on_a", "on_b")]
        outcomes = [one for found in await asyncio.gather(*fired) for one in found]
    assert sorted(one.kind for one in outcomes) == ["dead", "filtered"]
    (reason,) = [one.reason for one in outcomes if one.kind == "dead"]
    assert "would wait for itself" in reason
    assert_adds_up(lab)


def slow(gate: asyncio.Event, seen: list[Any], topic: str = "t", config: TriggerConfig | None = None) -> type[Saga]:
    class Slow(Saga):
        trigger_config = config or TriggerConfig()

        @trigger(source="memory", topic=topic)
        async def on_event(self, event: Any) -> dict[str, Any]:
            seen.append(event["n"])
            if event["n"] == 0:
                await gate.wait()
            return {"n": event["n"]}

        @action()
        async def work(self, ctx: Any) -> None: ...

    return Slow


@pytest.mark.parametrize("strategy", ["block", "drop_newest", "reject", "drop_oldest"])
async def test_a_batch_is_decided_whole_by_the_revision_and_the_limits_of_its_beginning(strategy: str) -> None:
    taps, gate, seen = Taps(), asyncio.Event(), list[Any]()
    async with Lab("memory", sources={"memory": taps}) as lab:
        slow(gate, seen)
        await lab.start()
        for n in range(4):
            await taps["t"].put({"n": n}, id=f"e{n}")
        await until(lambda: seen)
        after = slow(gate, seen, config=TriggerConfig(queue_size=1, backpressure_strategy=strategy))
        await lab.set_limits("Slow.on_event", max_concurrent_sagas=1)
        gate.set()
        await lab.drain()
        assert after.__definition__ is lab.sagas["Slow"]
        assert [lab.why(f"e{n}").outcomes[0].kind for n in range(4)] == ["started"] * 4
        assert list(lab.runs()["status"]) == ["completed"] * 4
        assert_adds_up(lab)
        await until(lambda: taps["t"].entered == 1)


async def test_a_source_of_another_revision_is_read_once_the_batch_at_hand_is_decided() -> None:
    taps, gate, seen = Taps(), asyncio.Event(), list[Any]()
    async with Lab("memory", sources={"memory": taps}) as lab:
        slow(gate, seen)
        await lab.start()
        await taps["t"].put({"n": 0})
        await until(lambda: seen)
        slow(gate, seen, topic="other")
        gate.set()
        await until(lambda: "other" in taps.made)
        await taps["other"].put({"n": 7})
        await until(lambda: seen == [0, 7])
        await until(lambda: taps["t"].left == 1)


async def test_events_that_wait_for_their_turn_are_decided_anew_one_at_a_time(lab: Lab) -> None:
    done, at_once, most = asyncio.Event(), 0, 0

    def define(revision: int) -> None:
        class Queued(Saga):
            __doc__ = f"Revision {revision}."

            @trigger(source="memory", topic="t", max_concurrent_sagas=3)
            async def on_event(self, event: Any) -> dict[str, Any]:
                nonlocal at_once, most
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(0)
                at_once -= 1
                return {"revision": revision}

            @action()
            async def work(self, ctx: Any) -> None:
                await done.wait()

    define(1)
    for _ in range(9):
        await lab.fire("Queued.on_event", {}, wait=False)
    define(2)
    done.set()
    await lab.drain()
    assert most == 1
    assert list(lab.runs()["revision"])[::-1] == [1] * 3 + [2] * 6


async def test_a_method_that_waits_holds_up_no_other_trigger_of_its_source() -> None:
    taps, gate, said = Taps(), asyncio.Event(), list[Any]()
    async with Lab("memory", sources={"memory": taps}) as lab:

        class Slow(Saga):
            @trigger(source="memory", topic="t")
            async def on_event(self, event: Any) -> None:
                await gate.wait()
                said.append("slow")

        class Windowed(Saga):
            @trigger(source="memory", topic="t", batch=Batch(100, "50ms"))
            def on_events(self, events: Any) -> None:
                said.append(len(events))

        await lab.start()
        await lab.fire("Windowed.on_events", {}, wait=False)
        await taps["t"].put({})
        await until(lambda: said)
        assert said == [1]
        gate.set()
        await until(lambda: said == [1, "slow", 1])


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


async def test_a_trigger_whose_method_becomes_async_amid_a_batch_still_decides_it() -> None:
    taps, gate, seen = Taps(), asyncio.Event(), list[str]()

    def define(waits: bool) -> None:
        class Other(Saga):
            if waits:

                @trigger(source="memory", topic="t")
                async def on_event(self, event: Any) -> None:
                    seen.append("other")
            else:

                @trigger(source="memory", topic="t")
                def on_event(self, event: Any) -> None:
                    seen.append("other")

    async with Lab("memory", sources={"memory": taps}) as lab:
        define(waits=False)

        class Slow(Saga):
            @trigger(source="memory", topic="t")
            async def on_event(self, event: Any) -> None:
                seen.append("slow")
                await gate.wait()

        await lab.start()
        await taps["t"].put({})
        await until(lambda: seen)
        define(waits=True)
        gate.set()
        await until(lambda: seen == ["slow", "other"])
        await until(lambda: not lab.counters()["Other.on_event"]["deciding"])
        assert counted(lab, "Other.on_event") == {"received": 1, "filtered": 1}
