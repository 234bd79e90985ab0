"""The gates after the trigger method: cooldown, singleton, throttle, priority, keys that end with their run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, OutcomeKind, RunStatus, Saga, Throttle, TriggerConfig, action, compensate, trigger
from sagaz_lab.errors import DefinitionError
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, until


class Training(Saga, abstract=True):
    """Each run waits until its model may go on."""

    gates: dict[str, asyncio.Event]
    trained: list[str]
    undone: list[str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.gates, cls.trained, cls.undone = {}, [], []
        super().__init_subclass__(**kwargs)

    @action("prepare")
    async def prepare(self, ctx): ...

    @compensate("prepare")
    async def put_back(self, ctx):
        self.undone.append(ctx["model"])

    @action("train", depends_on=("prepare",))
    async def train(self, ctx):
        self.trained.append(ctx["model"])
        await self.gates.setdefault(ctx["n"], asyncio.Event()).wait()

    @classmethod
    def let(cls, n: Any) -> None:
        cls.gates.setdefault(n, asyncio.Event()).set()


class Quick(Saga, abstract=True):
    started: list[tuple[Any, float]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.started = []
        super().__init_subclass__(**kwargs)


# --- cooldown ---


async def test_at_most_one_retraining_of_a_model_in_six_hours(timed_lab: Lab, clock: VirtualClock) -> None:
    class Retrain(Saga):
        @trigger(source="memory", cooldown="6h", concurrency_key="model")
        def on_drift(self, event):
            return {"model": event["model"]}

        @action("train")
        async def train(self, ctx): ...

    (first,) = await timed_lab.fire("Retrain.on_drift", {"model": "a"})
    assert first.kind is OutcomeKind.STARTED
    await clock.advance(3600)
    (second,) = await timed_lab.fire("Retrain.on_drift", {"model": "a"})
    assert (second.kind, second.reason) == (OutcomeKind.FILTERED, "cooling down")
    assert second.facts == {"run": first.run_id, "opens_in_s": 5 * 3600, "key": "a"}
    (other,) = await timed_lab.fire("Retrain.on_drift", {"model": "b"})
    assert other.kind is OutcomeKind.STARTED
    await clock.advance(5 * 3600 - 1)
    assert (await timed_lab.fire("Retrain.on_drift", {"model": "a"}))[0].kind is OutcomeKind.FILTERED
    await clock.advance(1)
    assert (await timed_lab.fire("Retrain.on_drift", {"model": "a"}))[0].kind is OutcomeKind.STARTED
    assert_adds_up(timed_lab)


async def test_a_cooldown_counts_from_the_start_whatever_came_of_the_run(timed_lab: Lab, clock: VirtualClock) -> None:
    class Failing(Saga):
        @trigger(source="memory", cooldown=60, config=TriggerConfig(max_retries=0))
        def on_event(self, event):
            return {"x": 1}

        @action("break")
        async def break_(self, ctx):
            raise OSError("down")

    assert (await timed_lab.fire("Failing.on_event"))[0].kind is OutcomeKind.STARTED
    await timed_lab.drain()
    assert (await timed_lab.fire("Failing.on_event"))[0].reason == "cooling down"
    await clock.advance(60)
    assert (await timed_lab.fire("Failing.on_event"))[0].kind is OutcomeKind.STARTED


async def test_what_was_filtered_opens_no_cooldown(timed_lab: Lab) -> None:
    class Picky(Saga):
        @trigger(source="memory", cooldown=60)
        def on_event(self, event):
            return {"x": 1} if event["good"] else None

        @action("a")
        async def a(self, ctx): ...

    kinds = [(await timed_lab.fire("Picky.on_event", {"good": good}))[0].kind for good in (False, True, True)]
    assert kinds == ["filtered", "started", "filtered"]


async def test_a_run_that_waited_meets_the_cooldown_of_the_one_before_it(timed_lab: Lab, clock: VirtualClock) -> None:
    class Retrain(Training):
        @trigger(source="memory", cooldown=60, concurrency_key="model")
        def on_drift(self, event):
            return event.payload

    (first,) = await timed_lab.fire("Retrain.on_drift", {"model": "a", "n": 1})
    # Its start opened the window, so that nothing of the key comes to wait behind it.
    (second,) = await timed_lab.fire("Retrain.on_drift", {"model": "a", "n": 2}, wait=False)
    assert (first.kind, second.kind) == ("started", "filtered")
    await clock.advance(61)
    (third,) = await timed_lab.fire("Retrain.on_drift", {"model": "a", "n": 3}, wait=False)
    (fourth,) = await timed_lab.fire("Retrain.on_drift", {"model": "a", "n": 4}, wait=False)
    assert (third.kind, fourth.kind) == ("waiting", "waiting")  # the first one still goes
    Retrain.let(1)
    await until(lambda: len(Retrain.trained) == 2)
    Retrain.let(3)
    await timed_lab.drain()
    assert Retrain.trained == ["a", "a"]
    assert counted(timed_lab, "Retrain.on_drift") == {"received": 4, "started": 2, "filtered": 2}


async def test_cooldowns_outlive_the_process_and_can_be_forgotten(clock: VirtualClock) -> None:
    store = MemoryStore()

    def define() -> None:
        class Retrain(Saga):
            @trigger(source="memory", cooldown="6h", concurrency_key="model")
            def on_drift(self, event):
                return {"model": event["model"]}

            @action("train")
            async def train(self, ctx): ...

    for kind in ("started", "filtered"):
        async with Lab(store, clock=clock) as lab:
            define()
            assert (await lab.fire("Retrain.on_drift", {"model": "a"}))[0].kind == kind
    async with Lab(store, clock=clock) as lab:
        define()
        assert await lab.forget("Retrain.on_drift", "a") == 1
        assert (await lab.fire("Retrain.on_drift", {"model": "a"}))[0].kind == "started"


async def test_of_two_events_at_once_one_starts(each_lab: Lab) -> None:
    class Retrain(Saga):
        @trigger(source="memory", cooldown="6h")
        def on_drift(self, event):
            return {}

        @action("train")
        async def train(self, ctx): ...

    outcomes = await asyncio.gather(*(each_lab.fire("Retrain.on_drift", {"n": n}) for n in range(10)))
    assert sorted(outcome.kind for (outcome,) in outcomes) == ["filtered"] * 9 + ["started"]
    assert_adds_up(each_lab)


# --- singleton ---


@pytest.mark.parametrize(("mode", "kind"), [("skip", "filtered"), ("return_existing", "duplicate"), ("error", "dead")])
async def test_while_a_run_of_its_key_is_live_an_event_starts_none(each_lab: Lab, mode: str, kind: str) -> None:
    class Retrain(Training):
        @trigger(source="memory", singleton=mode, concurrency_key="model")
        def on_drift(self, event):
            return event.payload

    (first,) = await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 1})
    (second,) = await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 2})
    (other,) = await each_lab.fire("Retrain.on_drift", {"model": "b", "n": 3})
    assert (first.kind, second.kind, other.kind) == ("started", kind, "started")
    assert first.run_id is not None
    assert first.run_id in f"{second.reason} {second.facts}"
    assert second.run_id == (first.run_id if mode == "return_existing" else None)
    Retrain.let(1)
    Retrain.let(3)
    await each_lab.drain()
    Retrain.let(4)
    assert (await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 4}))[0].kind == "started"
    assert_adds_up(each_lab)


async def test_the_latest_wins(each_lab: Lab) -> None:
    class Retrain(Training):
        @trigger(source="memory", singleton="cancel", concurrency_key="model")
        def on_drift(self, event):
            return event.payload

    await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 1})
    await until(lambda: Retrain.trained)
    second = asyncio.create_task(each_lab.fire("Retrain.on_drift", {"model": "a", "n": 2}))
    third = asyncio.create_task(each_lab.fire("Retrain.on_drift", {"model": "a", "n": 3}))
    kinds = [(await task)[0].kind for task in (second, third)]
    assert kinds[1] == "started"
    Retrain.let(3)
    await each_lab.drain()
    ends = list(each_lab.runs()["status"])
    assert ends.count("completed") == 1
    assert set(ends) <= {"completed", "cancelled"}
    assert Retrain.undone[0] == "a"
    assert_adds_up(each_lab)


async def test_the_latest_wins_over_a_run_that_waits_for_its_retry(timed_lab: Lab, clock: VirtualClock) -> None:
    class Retrain(Saga):
        @trigger(source="memory", singleton="cancel", config=TriggerConfig(retry_backoff_seconds=(3600,)))
        def on_drift(self, event):
            return event.payload

        @action("train")
        async def train(self, ctx):
            if ctx["n"] == 1:
                raise OSError("down")

    await timed_lab.fire("Retrain.on_drift", {"n": 1})
    await timed_lab.drain()
    assert list(timed_lab.runs()["status"]) == [RunStatus.WAITING]
    (second,) = await timed_lab.fire("Retrain.on_drift", {"n": 2})
    assert second.kind == "started"
    await clock.advance(7200)
    assert list(timed_lab.runs()["status"]) == ["completed", "cancelled"]
    assert len(timed_lab.dead_letters()) == 0


def test_a_singleton_of_several_runs_is_a_contradiction() -> None:
    with pytest.raises(DefinitionError, match="singleton= without concurrency_key= means one run at a time"):
        trigger(source="memory", singleton="skip", max_concurrent_sagas=3)(lambda self, event: None)


# --- keys that end with their run ---


async def test_a_key_until_terminal_is_free_when_its_run_has_ended(each_lab: Lab) -> None:
    class Retrain(Training):
        @trigger(source="memory", idempotency_key="model", until="terminal")
        def on_drift(self, event):
            return event.payload

    (first,) = await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 1})
    (second,) = await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 2})
    assert (first.kind, second.kind) == ("started", "duplicate")
    Retrain.let(1)
    await each_lab.drain()
    Retrain.let(3)
    assert (await each_lab.fire("Retrain.on_drift", {"model": "a", "n": 3}))[0].kind == "started"


# --- throttle ---


async def test_a_throttle_spaces_the_starts_of_each_key(timed_lab: Lab, clock: VirtualClock) -> None:
    class Calls(Quick):
        @trigger(source="memory", throttle=Throttle(3, "1m", key="customer"))
        def on_call(self, event):
            return event.payload

        @action("call")
        async def call(self, ctx):
            self.started.append((ctx["customer"], clock.monotonic()))

    for customer in ("a", "a", "b", "a", "b"):
        await timed_lab.fire("Calls.on_call", {"customer": customer}, wait=False)
    assert Calls.started == [] or Calls.started == [("a", 0.0), ("b", 0.0)]
    await clock.advance(120)
    assert [at for customer, at in Calls.started if customer == "a"] == pytest.approx([0, 20, 40])
    assert [at for customer, at in Calls.started if customer == "b"] == pytest.approx([0, 20])
    assert_adds_up(timed_lab)


async def test_a_burst_goes_ahead_and_is_paid_back(timed_lab: Lab, clock: VirtualClock) -> None:
    class Calls(Quick):
        @trigger(source="memory", throttle=Throttle(1, 10, burst=2))
        def on_call(self, event):
            return event.payload

        @action("call")
        async def call(self, ctx):
            self.started.append((ctx["n"], clock.monotonic()))

    for n in range(5):
        await timed_lab.fire("Calls.on_call", {"n": n}, wait=False)
    await clock.advance(60)
    assert Calls.started == [(0, 0.0), (1, 0.0), (2, 0.0), (3, pytest.approx(10.0)), (4, pytest.approx(20.0))]


# --- priority ---


async def test_the_trigger_with_the_highest_priority_gets_the_next_slot(clock: VirtualClock) -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async with Lab("memory", clock=clock, max_live_runs=1) as lab:

        class Both(Saga):
            @trigger(source="memory", topic="low")
            def low(self, event):
                return {"name": f"low {event['n']}"}

            @trigger(source="memory", topic="high", priority=5)
            def high(self, event):
                return {"name": f"high {event['n']}"}

            @action("note")
            async def note(self, ctx):
                order.append(ctx["name"])
                await gate.wait()

        for n in range(2):
            for name in ("low", "high"):
                await lab.fire(f"Both.{name}", {"n": n}, wait=False)
        await until(lambda: order)
        gate.set()
        await lab.drain()
        assert order == ["low 0", "high 0", "high 1", "low 1"]
        assert_adds_up(lab)


async def test_triggers_of_one_priority_take_turns(clock: VirtualClock) -> None:
    order: list[str] = []
    gate = asyncio.Event()

    async with Lab("memory", clock=clock, max_live_runs=1) as lab:

        class Both(Saga):
            @trigger(source="memory", topic="a")
            def a(self, event):
                return {"name": f"a{event['n']}"}

            @trigger(source="memory", topic="b")
            def b(self, event):
                return {"name": f"b{event['n']}"}

            @action("note")
            async def note(self, ctx):
                order.append(ctx["name"])
                await gate.wait()

        for n in range(3):
            for name in ("b", "a"):
                await lab.fire(f"Both.{name}", {"n": n}, wait=False)
        await until(lambda: order)
        gate.set()
        await lab.drain()
        assert order == ["b0", "a0", "b1", "a1", "b2", "a2"]


# --- restarts ---


async def test_keys_and_singletons_hold_after_a_restart(clock: VirtualClock) -> None:
    store = MemoryStore()
    going: list[Any] = []
    may_end = asyncio.Event()

    async def opened() -> Lab:
        lab = Lab(store, clock=clock)
        await lab.open()
        with lab.activate():

            class Alone(Saga):
                @trigger(source="memory", singleton="skip")
                def on_event(self, event):
                    return event.payload

                @action("go")
                async def go(self, ctx):
                    going.append(ctx["n"])
                    await may_end.wait()

            class Paced(Saga):
                @trigger(source="memory", throttle=Throttle(1, 50, key="who"))
                def on_event(self, event):
                    return event.payload

                @action("go")
                async def go(self, ctx):
                    going.append((ctx["who"], clock.monotonic()))

        return lab

    lab = await opened()
    await lab.fire("Alone.on_event", {"n": 1})
    for who in ("a", "a", "b", "b"):
        await lab.fire("Paced.on_event", {"who": who}, wait=False)
    await until(lambda: len(going) == 3)
    await lab.stop(grace_s=0)
    going.clear()
    lab = await opened()
    await lab.start()
    assert (await lab.fire("Alone.on_event", {"n": 2}))[0].reason == "a run is live already"
    await clock.advance(200)
    assert going == [1, ("a", 0.0), ("b", 0.0)]
    may_end.set()
    await lab.stop()


async def test_any_value_may_name_a_key_to_forget(each_lab: Lab) -> None:
    class Keyed(Saga):
        @trigger(source="memory", idempotency_key="n")
        def on_event(self, event):
            return {}

        @action("a")
        async def a(self, ctx): ...

    await each_lab.fire("Keyed.on_event", {"n": 1})
    assert await each_lab.forget("Keyed.on_event", 1) == 1
    assert (await each_lab.fire("Keyed.on_event", {"n": 1}))[0].kind == "started"


# --- verdicts ---


async def test_a_preview_lists_every_gate_with_its_numbers(timed_lab: Lab, clock: VirtualClock) -> None:
    class Retrain(Training):
        @trigger(source="memory", cooldown="6h", concurrency_key="model", throttle=Throttle(1, 60), singleton="skip")
        def on_drift(self, event):
            return event.payload if event["score"] > 0.5 else None

    free = await timed_lab.preview("Retrain.on_drift", {"model": "a", "n": 1, "score": 0.9})
    assert free.outcome == "started"
    assert [(v.gate, v.verdict) for v in free.verdicts] == [
        (gate, "pass")
        for gate in ("decode and validate", "idempotency", "trigger method", "cooldown", "singleton", "concurrency",
                     "concurrency key", "throttle")
    ]  # fmt: skip
    await timed_lab.fire("Retrain.on_drift", {"model": "a", "n": 1, "score": 0.9})
    await clock.advance(3600)
    cool = await timed_lab.preview("Retrain.on_drift", {"model": "a", "n": 2, "score": 0.9})
    assert cool.outcome == "filtered"
    by_gate = {v.gate: v for v in cool.verdicts}
    assert by_gate["cooldown"].verdict == "stop"
    assert "opens_in_s=18000.0" in by_gate["cooldown"].detail
    assert by_gate["throttle"].verdict == "not asked"
    low = await timed_lab.preview("Retrain.on_drift", {"model": "b", "n": 3, "score": 0.1})
    assert {v.gate: v.verdict for v in low.verdicts}["trigger method"] == "stop"
    assert len(timed_lab.runs()) == 1


async def test_why_says_what_a_waiting_event_waits_for(timed_lab: Lab, clock: VirtualClock) -> None:
    class Calls(Quick):
        @trigger(source="memory", rate_limit_per_second=0.1)
        def on_call(self, event):
            return event.payload

        @action("call")
        async def call(self, ctx): ...

    await timed_lab.fire("Calls.on_call", {"n": 1}, id="e1")
    await timed_lab.fire("Calls.on_call", {"n": 2}, id="e2", wait=False)
    await clock.advance(4)
    why = timed_lab.why("e2")
    (verdicts,) = why.verdicts
    rate = next(verdict for verdict in verdicts if verdict.gate == "rate")
    assert (rate.verdict, rate.detail) == ("wait", "0.1 per 1 s, opens in 6 s")
    assert {verdict.verdict for verdict in timed_lab.why("e1").verdicts[0]} == {"pass"}


async def test_after_a_restart_a_run_that_waits_still_cools_down(tmp_path: Path, clock: VirtualClock) -> None:
    gates: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def define() -> None:
        class Cool(Saga):
            @trigger(source="memory", topic="t", max_concurrent_sagas=1, cooldown="1h")
            def on_event(self, event):
                return {"n": event["n"]}

            @action()
            async def work(self, ctx):
                await gates[ctx["n"]].wait()

    async def fire(n: str) -> str:
        [outcome] = await lab.fire("Cool.on_event", {"n": n}, id=n, wait=False)
        await lab.forget("Cool.on_event")
        return outcome.kind

    address = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address, clock=clock) as lab:
        define()
        assert [await fire(n) for n in "abc"] == ["started", "waiting", "waiting"]
        gates["a"].set()
        await until(lambda: [run.run_id for run in lab.status().runs] == [lab.why("b").outcomes[-1].run_id])
        await lab.stop(grace_s=0)
    async with Lab(address, clock=clock) as lab:
        define()
        await lab.start()
        gates["b"].set()
        await until(lambda: lab.counters()["Cool.on_event"]["filtered"])
        assert (lab.why("c").outcomes[-1].reason, gates["c"].is_set()) == ("cooling down", False)
        assert list(lab.runs()["status"]) == ["completed", "completed"]
