"""The gates before the trigger method: debounce, batch, several sources together, and the event that did not come."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from sagaz_lab import (
    Batch,
    Debounce,
    Event,
    Lab,
    OutcomeKind,
    Saga,
    SagaListener,
    TriggerConfig,
    absent,
    action,
    all_of,
    any_of,
    sequence,
    skip,
    trigger,
)
from sagaz_lab.errors import DefinitionError
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing import TriggerTestHarness
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, until


class Noting(Saga, abstract=True):
    """Notes what its runs were given, and when."""

    noted: list[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.noted = []
        super().__init_subclass__(**kwargs)

    @action("note")
    async def note(self, ctx):
        self.noted.append(ctx["given"])


def of_topic(topic: str) -> dict[str, str]:
    return {"source": "memory", "topic": topic}


async def give(lab: Lab, trigger: str, *numbers: int, **more: Any) -> None:
    for n in numbers:
        await lab.fire(trigger, {"n": n, **more}, id=f"e{n}", wait=False)


# --- debounce ---


async def test_of_a_burst_the_last_event_counts(timed_lab: Lab, clock: VirtualClock) -> None:
    class Latest(Noting):
        @trigger(source="memory", debounce=Debounce(10, 60))
        def on_event(self, event):
            return {"given": (event["n"], clock.monotonic())}

    await give(timed_lab, "Latest.on_event", 1, 2)
    await clock.advance(9)
    await give(timed_lab, "Latest.on_event", 3)
    await clock.advance(9.9)
    assert Latest.noted == []
    assert counted(timed_lab, "Latest.on_event") == {"received": 3, "waiting": 2, "filtered": 1}
    await clock.advance(0.2)
    assert Latest.noted == [(3, pytest.approx(19.0))]
    assert counted(timed_lab, "Latest.on_event") == {"received": 3, "started": 1, "filtered": 2}
    outcomes = timed_lab.outcomes()
    assert dict(zip(outcomes["event_id"], outcomes["outcome"], strict=True)) == {
        "e1": "filtered", "e2": "filtered", "e3": "started"
    }  # fmt: skip
    assert set(outcomes["reason"]) == {"", "a later event took its place"}


async def test_a_debounce_waits_no_longer_than_max_wait(timed_lab: Lab, clock: VirtualClock) -> None:
    class Latest(Noting):
        @trigger(source="memory", debounce=Debounce(10, 25))
        def on_event(self, event):
            return {"given": (event["n"], clock.monotonic())}

    for n in range(8):
        await give(timed_lab, "Latest.on_event", n)
        await clock.advance(5)
    await clock.advance(30)
    assert Latest.noted == [(4, pytest.approx(25.0)), (7, pytest.approx(45.0))]
    assert_adds_up(timed_lab)


async def test_each_key_has_a_window_of_its_own(timed_lab: Lab, clock: VirtualClock) -> None:
    class Latest(Noting):
        @trigger(source="memory", debounce=Debounce(10, 60, key="model"))
        def on_event(self, event):
            return {"given": (event["model"], event["n"])}

    await give(timed_lab, "Latest.on_event", 1, model="a")
    await clock.advance(5)
    await give(timed_lab, "Latest.on_event", 2, model="b")
    await clock.advance(5)
    assert Latest.noted == [("a", 1)]
    await clock.advance(5)
    assert Latest.noted == [("a", 1), ("b", 2)]


async def test_the_first_event_goes_ahead_and_the_burst_behind_it_is_filtered(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    class First(Noting):
        @trigger(source="memory", debounce=Debounce(10, 30, mode="leading"))
        def on_event(self, event):
            return {"given": event["n"]}

    await give(timed_lab, "First.on_event", 1, 2)
    await clock.advance(9)
    await give(timed_lab, "First.on_event", 3)
    await clock.advance(9)
    await give(timed_lab, "First.on_event", 4)
    await clock.advance(10)
    await give(timed_lab, "First.on_event", 5)
    await timed_lab.drain()
    assert First.noted == [1, 5]
    assert counted(timed_lab, "First.on_event") == {"received": 5, "started": 2, "filtered": 3}


async def test_all_events_of_the_window_may_be_asked_for(timed_lab: Lab, clock: VirtualClock) -> None:
    class Everything(Noting):
        @trigger(source="memory", debounce=Debounce(10, 60, mode="all"))
        def on_events(self, events):
            return {"given": [event["n"] for event in events]}

    await give(timed_lab, "Everything.on_events", 1, 2, 3)
    await clock.advance(10)
    assert Everything.noted == [[1, 2, 3]]
    assert counted(timed_lab, "Everything.on_events") == {"received": 3, "started": 3}
    outcomes = timed_lab.outcomes()
    assert sorted(outcomes["event_id"]) == ["e1", "e2", "e3"]
    assert len(set(outcomes["run_id"])) == 1


# --- batch ---


@dataclass
class Drift:
    n: int
    score: float = 0.0


async def test_a_thousand_events_or_an_hour(timed_lab: Lab, clock: VirtualClock) -> None:
    class Batches(Noting):
        @trigger(source="memory", batch=Batch(3, "1h"))
        def on_drifts(self, drifts: list[Drift]):
            return {"given": [drift.n for drift in drifts]}

    await give(timed_lab, "Batches.on_drifts", 1, 2, 3, 4)
    await timed_lab.drain()
    assert Batches.noted == [[1, 2, 3]]
    await clock.advance(3599)
    assert Batches.noted == [[1, 2, 3]]
    await clock.advance(1)
    assert Batches.noted == [[1, 2, 3], [4]]
    assert counted(timed_lab, "Batches.on_drifts") == {"received": 4, "started": 4}


async def test_a_batch_that_comes_at_once_is_split(each_lab: Lab) -> None:
    class Batches(Noting):
        @trigger(source="memory", batch=Batch(10, "1h"))
        def on_events(self, events):
            return {"given": [event["n"] for event in events]}

    fired = [asyncio.create_task(each_lab.fire("Batches.on_events", {"n": n})) for n in range(25)]
    await until(lambda: len(Batches.noted) == 2)
    await each_lab.drain()
    assert [len(given) for given in Batches.noted] == [10, 10]
    assert sorted(n for given in Batches.noted for n in given) == list(range(20))
    assert counted(each_lab, "Batches.on_events") == {"received": 25, "started": 20, "waiting": 5}
    await until(lambda: sum(task.done() for task in fired) == 20)
    assert {task.result()[0].kind for task in fired if task.done()} == {"started"}
    for task in fired:
        task.cancel()


async def test_the_outcome_of_a_batch_is_that_of_each_of_its_events(timed_lab: Lab) -> None:
    class Batches(Noting):
        @trigger(source="memory", batch=Batch(2, "1h"), config=TriggerConfig(persist_events=True))
        def on_events(self, events):
            match events[0]["n"]:
                case 1:
                    return skip("too weak", n=1)
                case 3:
                    raise ValueError("odd")
            return {"given": [event["n"] for event in events]}

    await give(timed_lab, "Batches.on_events", *range(1, 7))
    await timed_lab.drain()
    assert Batches.noted == [[5, 6]]
    assert counted(timed_lab, "Batches.on_events") == {"received": 6, "filtered": 2, "dead": 2, "started": 2}
    letters = timed_lab.dead_letters()
    assert set(letters["event_id"]) == {"e3", "e4"}
    assert len(timed_lab.dead_letters(by="cause")) == 1
    assert [timed_lab.why(f"e{n}").outcomes[-1].kind for n in range(1, 7)] == [
        "filtered", "filtered", "dead", "dead", "started", "started"
    ]  # fmt: skip
    assert set(timed_lab.events()["event_id"]) >= {f"e{n}" for n in range(1, 6)}


async def test_an_event_that_does_not_fit_dies_alone(timed_lab: Lab) -> None:
    class Batches(Noting):
        @trigger(source="memory", batch=Batch(2, "1h"))
        def on_drifts(self, drifts: list[Drift]):
            return {"given": [drift.n for drift in drifts]}

    (odd,) = await timed_lab.fire("Batches.on_drifts", {"n": "one"})
    assert (odd.kind, "n" in odd.reason) == (OutcomeKind.DEAD, True)
    await give(timed_lab, "Batches.on_drifts", 1, 2)
    await timed_lab.drain()
    assert Batches.noted == [[1, 2]]


def test_a_batch_takes_a_list_and_no_more_than_may_wait() -> None:
    with pytest.raises(DefinitionError, match=r"annotate it list\[Drift\]"):

        class One(Saga):
            @trigger(source="memory", batch=Batch(2, "1h"))
            def on_drift(self, drift: Drift): ...

            @action("a")
            async def a(self, ctx): ...


async def test_a_batch_larger_than_the_queue_is_refused(timed_lab: Lab) -> None:
    with pytest.raises(DefinitionError, match="never fills"):

        class Large(Saga):
            @trigger(source="memory", batch=Batch(2000, "1h"))
            def on_events(self, events): ...


# --- duplicates ---


async def test_an_event_that_waits_already_does_not_wait_twice(each_lab: Lab) -> None:
    class Batches(Noting):
        @trigger(source="memory", batch=Batch(2, "1h"))
        def on_events(self, events):
            return {"given": [event["n"] for event in events]}

    await give(each_lab, "Batches.on_events", 1)
    (again,) = await each_lab.fire("Batches.on_events", {"n": 1}, id="e1")
    assert (again.kind, again.reason) == ("duplicate", "it has come before and waits")
    await give(each_lab, "Batches.on_events", 2)
    await each_lab.drain()
    assert Batches.noted == [[1, 2]]
    for n in (1, 2):
        (late,) = await each_lab.fire("Batches.on_events", {"n": n}, id=f"e{n}")
        assert late.kind == "duplicate"
        assert "run" in late.reason
    assert_adds_up(each_lab)


# --- restarts ---


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_what_waits_in_a_window_outlives_the_process(kind: str, tmp_path: Any, clock: VirtualClock) -> None:
    store: Any = MemoryStore() if kind == "memory" else f"sqlite:///{tmp_path}/lab.db"
    noted: list[list[int]] = []

    async def opened() -> Lab:
        lab = Lab(store, clock=clock)
        await lab.open()
        with lab.activate():

            class Batches(Saga):
                @trigger(source="memory", batch=Batch(3, "1h"))
                def on_events(self, events):
                    return {"given": [event["n"] for event in events]}

                @action("note")
                async def note(self, ctx):
                    noted.append(ctx["given"])

        return lab

    lab = await opened()
    await give(lab, "Batches.on_events", 1, 2)
    await lab.stop(grace_s=0)
    assert_adds_up(lab)
    lab = await opened()
    await lab.start()
    assert counted(lab, "Batches.on_events") == {"received": 2, "waiting": 2}
    await give(lab, "Batches.on_events", 2, 3)
    await until(lambda: noted)
    assert noted == [[1, 2, 3]]
    assert counted(lab, "Batches.on_events") == {"received": 4, "started": 3, "duplicate": 1}
    await lab.stop()


async def test_a_window_that_was_due_while_the_process_was_away_is_decided_at_the_start(clock: VirtualClock) -> None:
    store, noted = MemoryStore(), []

    async def opened() -> Lab:
        lab = Lab(store, clock=clock)
        await lab.open()
        with lab.activate():

            class Latest(Saga):
                @trigger(source="memory", debounce=Debounce(60, 600))
                def on_event(self, event):
                    return {"n": event["n"]}

                @action("note")
                async def note(self, ctx):
                    noted.append(ctx["n"])

        return lab

    lab = await opened()
    await give(lab, "Latest.on_event", 1, 2)
    await lab.stop(grace_s=0)
    await clock.advance(3600)
    lab = await opened()
    await lab.start()
    await clock.advance(0)
    await until(lambda: noted)
    assert noted == [2]
    await lab.stop()


# --- another revision ---


async def test_what_waits_for_a_trigger_that_is_not_registered_is_seen_and_decided_once_it_is(
    tmp_path: Any, clock: VirtualClock
) -> None:
    def define() -> type[Noting]:
        class Many(Noting):
            @trigger(source="memory", batch=Batch(10, 30))
            def on_event(self, events):
                return {"given": [event["n"] for event in events]}

        return Many

    address = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address, clock=clock) as lab:
        define()
        await give(lab, "Many.on_event", 1, 2)
        await lab.stop(grace_s=0)
    async with Lab(address, clock=clock) as lab:
        await lab.start()
        away = lab.status().away
        assert away is not None
        assert away.events_need_code == {"Many.on_event": 2}
        assert [text for text in lab.status().warnings if "wait for the code of trigger Many.on_event" in str(text)]
        many = define()
        await until(
            lambda: "Many.on_event" in lab.counters() and counted(lab, "Many.on_event") == {"received": 2, "waiting": 2}
        )
        await clock.advance(31)
        await until(lambda: many.noted == [[1, 2]])


async def test_what_waits_is_decided_by_the_revision_that_is_current_then(timed_lab: Lab, clock: VirtualClock) -> None:
    def define(factor: int, **options: Any) -> type[Noting]:
        class Latest(Noting):
            times = factor

            @trigger(source="memory", **options)
            def on_event(self, event):
                return {"given": event["n"] * self.times}

        return Latest

    define(1, debounce=Debounce(10, 60))
    await give(timed_lab, "Latest.on_event", 7)
    second = define(10, debounce=Debounce(20, 60))
    await clock.advance(10)
    assert second.noted == []
    await clock.advance(10)
    assert second.noted == [70]
    await give(timed_lab, "Latest.on_event", 8)
    third = define(100)  # it waits for nothing any more
    await clock.advance(0)
    await until(lambda: third.noted)
    assert third.noted == [800]
    assert_adds_up(timed_lab)


# --- full ---


@pytest.mark.parametrize(
    ("strategy", "kinds", "noted"),
    [
        ("drop_newest", {"e1": "started", "e2": "started", "e3": "dropped"}, [1, 2]),
        ("drop_oldest", {"e1": "dropped", "e2": "started", "e3": "started"}, [2, 3]),
        ("reject", {"e1": "started", "e2": "started", "e3": "dead"}, [1, 2]),
    ],
)
async def test_a_full_window_does_what_the_strategy_says(
    clock: VirtualClock, timed_lab: Lab, strategy: Any, kinds: dict[str, str], noted: list[int]
) -> None:
    class Everything(Noting):
        trigger_config = TriggerConfig(queue_size=2, backpressure_strategy=strategy)

        @trigger(source="memory", debounce=Debounce(10, 60, mode="all"))
        def on_events(self, events):
            return {"given": [event["n"] for event in events]}

    await give(timed_lab, "Everything.on_events", 1, 2, 3)
    await clock.advance(10)
    assert Everything.noted == [noted]
    outcomes = timed_lab.outcomes()
    assert dict(zip(outcomes["event_id"], outcomes["outcome"], strict=True)) == kinds
    assert_adds_up(timed_lab)


# --- several sources ---


async def test_all_parts_within_the_time(timed_lab: Lab, clock: VirtualClock) -> None:
    class Both(Noting):
        @trigger(source=all_of(of_topic("data"), of_topic("labels")), within="1h", concurrency_key="day")
        def on_both(self, events):
            data, labels = events
            return {"given": (data["n"], labels["n"])}

    await timed_lab.fire("memory", {"n": 1, "day": "mon"}, topic="data", id="d1", wait=False)
    await timed_lab.fire("memory", {"n": 2, "day": "mon"}, topic="data", id="d2", wait=False)
    await timed_lab.fire("memory", {"n": 3, "day": "tue"}, topic="labels", id="l3", wait=False)
    assert Both.noted == []
    await clock.advance(600)
    await timed_lab.fire("memory", {"n": 4, "day": "mon"}, topic="labels", id="l4", wait=False)
    await timed_lab.drain()
    assert Both.noted == [(2, 4)]
    await clock.advance(3600)
    await timed_lab.fire("memory", {"n": 5, "day": "tue"}, topic="data", id="d5", wait=False)
    assert timed_lab.why("l3").outcomes[0].reason == "the other parts did not come in time"
    assert timed_lab.why("d1").outcomes[0].reason == "a later event took its place"
    assert timed_lab.why("d5").outcomes[0].kind == "waiting"
    assert counted(timed_lab, "Both.on_both") == {"received": 5, "started": 2, "filtered": 2, "waiting": 1}


async def test_parts_in_turn(timed_lab: Lab, clock: VirtualClock) -> None:
    class InTurn(Noting):
        @trigger(source=sequence(of_topic("a"), of_topic("b"), of_topic("c")), within=60)
        def on_row(self, events):
            return {"given": [event["n"] for event in events]}

    for topic, n in (("b", 1), ("a", 2), ("a", 3), ("c", 4), ("b", 5), ("a", 6), ("c", 7)):
        await timed_lab.fire("memory", {"n": n}, topic=topic, id=f"e{n}", wait=False)
        await clock.advance(1)
    assert InTurn.noted == [[3, 5, 7]]
    reasons = {n: timed_lab.why(f"e{n}").outcomes[0].reason for n in (1, 2, 4, 6)}
    assert reasons == {1: "it came out of turn", 2: "a later event took its place", 4: "it came out of turn",
                       6: "it came out of turn"}  # fmt: skip
    await timed_lab.fire("memory", {"n": 8}, topic="a", id="e8", wait=False)
    await clock.advance(60)
    assert timed_lab.why("e8").outcomes[0].reason == "the other parts did not come in time"
    assert counted(timed_lab, "InTurn.on_row") == {"received": 8, "started": 3, "filtered": 5}


async def test_any_part(timed_lab: Lab) -> None:
    class Either(Noting):
        @trigger(source=any_of(of_topic("a"), of_topic("b")))
        def on_event(self, event):
            return {"given": (event["n"], event.source)}

    await timed_lab.fire("memory", {"n": 1}, topic="a")
    await timed_lab.fire("memory", {"n": 2}, topic="b")
    await timed_lab.drain()
    assert Either.noted == [(1, "memory a"), (2, "memory b")]


async def test_the_event_that_did_not_come(timed_lab: Lab, clock: VirtualClock) -> None:
    class Unpaid(Noting):
        @trigger(source=absent(of_topic("payment"), after=of_topic("order"), within="15m"), concurrency_key="order")
        def on_silence(self, event):
            return {"given": (event["order"], clock.monotonic())}

    await timed_lab.fire("memory", {"order": 1}, topic="order", id="o1", wait=False)
    await clock.advance(60)
    await timed_lab.fire("memory", {"order": 2}, topic="order", id="o2", wait=False)
    await timed_lab.fire("memory", {"order": 1}, topic="payment", id="p1", wait=False)
    await clock.advance(3600)
    assert Unpaid.noted == [(2, pytest.approx(960.0))]
    assert timed_lab.why("o1").outcomes[0].reason == "the expected event came"
    assert timed_lab.why("p1").outcomes[0].reason == "it was expected"
    assert counted(timed_lab, "Unpaid.on_silence") == {"received": 3, "started": 1, "filtered": 2}


async def test_composite_triggers_read_all_their_sources(clock: VirtualClock) -> None:
    async with Lab("memory", clock=clock) as lab:

        class Both(Noting):
            @trigger(source=all_of(of_topic("a"), {"source": "cron", "schedule": "0 * * * *"}))
            def on_both(self, events: list[Event]):
                return {"given": [event.source for event in events]}

        await lab.start()
        assert sorted(source.name for source in lab.status().sources) == ["cron 0 * * * *", "memory a"]
        await lab.fire("memory", {"n": 1}, topic="a", wait=False)
        await clock.advance(3600)
        await until(lambda: Both.noted)
        assert Both.noted == [["memory a", "cron 0 * * * *"]]
        await lab.stop(grace_s=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": all_of(of_topic("a"), of_topic("b")), "batch": Batch(2, 1)}, "batch= and all_of() contradict"),
        ({"source": any_of(of_topic("a"), of_topic("b")), "within": 5}, "within= goes with all_of or sequence only"),
        (
            {"source": absent(of_topic("a"), after=of_topic("b"), within=3), "within": 5},
            "within= goes with all_of or sequence only, not with absent()",
        ),
    ],
)
def test_contradictions_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        trigger(**options)(lambda self, events: None)
    assert message in str(raised.value)


# --- previews ---


async def test_a_preview_shows_the_window(timed_lab: Lab, clock: VirtualClock) -> None:
    class Batches(Noting):
        @trigger(source="memory", batch=Batch(3, 60))
        def on_events(self, events):
            return {"given": [event["n"] for event in events]}

    await give(timed_lab, "Batches.on_events", 1)
    await clock.advance(20)
    seen = await timed_lab.preview("Batches.on_events", {"n": 2})
    assert seen.outcome == "waiting"
    by_gate = {verdict.gate: verdict for verdict in seen.verdicts}
    assert (by_gate["batch"].verdict, by_gate["batch"].detail) == ("wait", "1 wait, closes in 40 s at the latest")
    assert by_gate["trigger method"].verdict == "not asked"
    assert counted(timed_lab, "Batches.on_events") == {"received": 1, "waiting": 1}
    (verdicts,) = timed_lab.why("e1").verdicts
    assert next(v for v in verdicts if v.gate == "batch").verdict == "wait"


# --- claims of parts ---


async def test_the_parts_of_a_composite_may_have_equal_keys(timed_lab: Lab, clock: VirtualClock) -> None:
    class Both(Noting):
        @trigger(source=all_of(of_topic("x"), of_topic("y")), idempotency_key="order")
        def on_both(self, events):
            return {"given": [event["order"] for event in events]}

    class Unpaid(Noting):
        @trigger(source=absent(of_topic("pay"), after=of_topic("order"), within=60), idempotency_key="order")
        def on_silence(self, event):
            return {"given": event["order"]}

    for topic in ("x", "y", "y"):
        await timed_lab.fire("memory", {"order": 1}, topic=topic, id="same", wait=False)
    await timed_lab.drain()
    assert Both.noted == [[1, 1]]
    assert counted(timed_lab, "Both.on_both") == {"received": 3, "started": 2, "duplicate": 1}
    for topic in ("order", "pay"):
        await timed_lab.fire("memory", {"order": 7}, topic=topic, id="same", wait=False)
    await clock.advance(120)
    assert Unpaid.noted == []


# --- redrive ---


async def test_a_failed_batch_is_redriven_as_a_whole(each_lab: Lab) -> None:
    broken, noted = True, []

    class Batches(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", batch=Batch(2, "1h"))
        def on_drifts(self, drifts: list[Drift]):
            return {"given": [drift.n for drift in drifts]}

        @action("note")
        async def note(self, ctx):
            if broken:
                raise OSError("down")
            noted.append(ctx["given"])

    await give(each_lab, "Batches.on_drifts", 1, 2)
    await until(lambda: len(each_lab.dead_letters()))
    broken = False
    (outcome,) = await each_lab.redrive(list(each_lab.dead_letters()["id"]))
    await each_lab.drain()
    assert (outcome.kind, noted) == ("started", [[1, 2]])
    assert len(each_lab.dead_letters()) == 0
    assert_adds_up(each_lab)


async def test_an_event_of_a_part_that_could_not_be_decided_goes_back_to_its_part(timed_lab: Lab) -> None:
    class Both(Noting):
        @trigger(source=all_of(of_topic("x"), of_topic("y")))
        def on_both(self, events: list[Drift]):
            return {"given": [event.n for event in events]}

    await timed_lab.fire("memory", {"n": "two"}, topic="y", id="e2")
    await timed_lab.fire("memory", {"n": 1}, topic="x", id="e1", wait=False)
    await timed_lab.redrive(list(timed_lab.dead_letters()["id"]), fix=lambda payload: {"n": 2})
    await timed_lab.drain()
    assert Both.noted == [[1, 2]]


# --- harness and listeners ---


async def test_the_harness_gives_a_list_to_a_method_that_gets_one() -> None:
    class Batches(Noting, abstract=False):
        @trigger(source="memory", batch=Batch(2, "1h"))
        def on_drifts(self, drifts: list[Drift]):
            return {"given": sum(drift.n for drift in drifts)}

    harness = TriggerTestHarness(Batches)
    assert await harness.trigger("on_drifts", [{"n": 1}, {"n": 2}]) == {"given": 3}
    with pytest.raises(TypeError, match="gets a list of events"):
        await harness.trigger("on_drifts", {"n": 1})


async def test_listeners_hear_of_every_event_that_is_filtered(timed_lab: Lab, clock: VirtualClock) -> None:
    heard: list[tuple[str, str]] = []

    class Ears(SagaListener):
        def on_trigger_filtered(self, saga_name, event, reason):
            heard.append((event.id, reason))

    class Latest(Noting):
        listeners = (Ears(),)

        @trigger(source="memory", debounce=Debounce(10, 60), cooldown=100)
        def on_event(self, event):
            return {"given": event["n"]} if event["n"] % 2 else None

    await give(timed_lab, "Latest.on_event", 1, 2, 3)
    await clock.advance(10)
    await give(timed_lab, "Latest.on_event", 5)
    await clock.advance(10)
    await give(timed_lab, "Latest.on_event", 6)
    await clock.advance(10)
    superseded = "a later event took its place"
    assert heard == [("e2", superseded), ("e1", superseded), ("e5", "cooling down"), ("e6", "returned None")]
