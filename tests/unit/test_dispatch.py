"""From an event to its outcome, and from there to a run."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from sagaz_lab import (
    Event,
    Lab,
    OutcomeKind,
    Permanent,
    Saga,
    SagaListener,
    TriggerConfig,
    action,
    compensate,
    default_lab,
    fire_event,
    skip,
    trigger,
)
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import DefinitionError, LabClosed, StoreUnavailable, TriggerPaused, UnknownName
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import Taps, assert_adds_up, counted, settle, statuses, until


class Broken(Exception):
    """An action's own error."""


async def kinds(lab: Lab, target: str, payload: Any = None, **options: Any) -> list[str]:
    return [str(outcome.kind) for outcome in await lab.fire(target, payload, **options)]


# --- outcomes ---


class Scored(Saga, abstract=True):
    """Starts, filters or dies by the score; the run itself fails for a score of 13."""

    trigger_config = TriggerConfig(max_retries=0)

    @trigger(source="memory", topic="scores")
    def on_score(self, event):
        if event.score < 0:
            raise ValueError(f"score {event.score}")
        if event.score == 0:
            return None
        return {"score": event.score} if event.score > 5 else skip("score too low", score=event.score)

    @action()
    async def work(self, ctx):
        if ctx["score"] == 13:
            raise Broken("unlucky")


async def test_every_event_has_one_outcome_and_the_counters_add_up(each_lab: Lab) -> None:
    class Scores(Scored): ...

    for score, kind in [(9, "started"), (3, "filtered"), (0, "filtered"), (-1, "dead"), (13, "started")]:
        (outcome,) = await each_lab.fire("Scores.on_score", {"score": score})
        assert outcome.kind == kind
        assert (outcome.run_id is not None) == (kind == "started")
        assert (outcome.trigger, outcome.revision) == ("Scores.on_score", 1)
    await each_lab.drain()
    assert counted(each_lab, "Scores.on_score") == {"received": 5, "started": 2, "filtered": 2, "dead": 1}
    assert sorted(statuses(each_lab)) == ["compensated", "completed"]
    assert len(each_lab.outcomes()) == 5


async def test_a_skip_gives_its_reason_and_its_facts(lab: Lab) -> None:
    class Scores(Scored): ...

    (outcome,) = await lab.fire("Scores.on_score", {"score": 3})
    assert (outcome.reason, outcome.facts) == ("score too low", {"score": 3})
    (outcome,) = await lab.fire("Scores.on_score", {"score": 0})
    assert outcome.reason == "returned None"
    outcomes = lab.outcomes()
    assert list(outcomes["reason"]) == ["returned None", "score too low"]
    assert outcomes["facts"][1] == {"score": 3}


async def test_a_trigger_that_raises_makes_a_dead_letter_and_no_run(each_lab: Lab) -> None:
    class Scores(Scored): ...

    (outcome,) = await each_lab.fire("Scores.on_score", {"score": -1}, id="e1")
    assert (outcome.kind, outcome.reason) == (OutcomeKind.DEAD, "ValueError: score -1")
    (letter,) = each_lab.dead_letters().to_dict("records")
    assert (letter["event_id"], letter["trigger"], letter["error"]) == ("e1", "Scores.on_score", "ValueError: score -1")
    assert letter["cause"].startswith("ValueError in on_score:")
    assert (letter["attempts"], letter["revision"]) == (1, 1)
    assert len(each_lab.runs()) == 0


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), StopIteration(), BaseException("base")])
@pytest.mark.parametrize("how", ["sync", "async"])
async def test_whatever_a_trigger_raises_is_a_dead_letter(lab: Lab, how: str, error: BaseException) -> None:
    class Raising(Saga):
        if how == "sync":

            @trigger(source="memory")
            def on_event(self, event):
                if event.payload:
                    raise error
                return {}

        else:

            @trigger(source="memory")
            async def on_event(self, event):
                if event.payload:
                    raise error
                return {}

    assert await kinds(lab, "Raising.on_event", {"a": 1}) == ["dead"]
    assert await kinds(lab, "Raising.on_event", {}) == ["started"]


@pytest.mark.parametrize("returned", [True, 1, "yes", [1], ("a", 1), object()])
async def test_a_trigger_that_returns_something_else_is_told_so(lab: Lab, returned: Any) -> None:
    class Odd(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return returned

    (outcome,) = await lab.fire("Odd.on_event", {})
    assert outcome.kind is OutcomeKind.DEAD
    assert (
        f"returned a {type(returned).__name__}; a trigger method returns a mapping, None or skip(...)" in outcome.reason
    )


class Unreadable(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise Broken(key)

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


async def test_a_mapping_that_cannot_be_read_is_a_dead_letter_and_stops_no_other_run(lab: Lab) -> None:
    done: list[int] = []

    class Reads(Saga):
        @trigger(source="memory", topic="reads")
        def on_event(self, event):
            return Unreadable() if event["n"] == 0 else {"n": event["n"]}

        @action()
        async def work(self, ctx):
            done.append(ctx["n"])

    outcomes = await asyncio.gather(*(lab.fire("Reads.on_event", {"n": n}) for n in range(3)))
    assert [str(one.kind) for (one,) in outcomes] == ["dead", "started", "started"]
    await lab.drain()
    assert done == [1, 2]


async def test_a_skip_with_the_words_for_none_is_counted_with_it(tmp_path: Path) -> None:
    taps = Taps()
    async with Lab("memory", sources={"memory": taps}) as lab:
        with lab.activate():

            class Skips(Saga):
                @trigger(source="memory", topic="skips")
                def on_event(self, event):
                    return None if event["n"] % 2 else skip("returned None")

                @action()
                async def work(self, ctx): ...

        await lab.start()
        for n in range(4):
            taps["skips"].put_nowait({"n": n})
        await until(lambda: counted(lab, "Skips.on_event").get("filtered") == 4)
        assert counted(lab, "Skips.on_event") == {"received": 4, "filtered": 4}
        await lab.drain()


async def test_a_context_that_cannot_be_stored_is_a_dead_letter(each_lab: Lab) -> None:
    class Odd(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return {"handle": asyncio.Lock()} if event.bad else {}

    (outcome,) = await each_lab.fire("Odd.on_event", {"bad": each_lab.store.traits.survives})
    if each_lab.store.traits.survives:
        assert outcome.kind is OutcomeKind.DEAD
        assert "'handle'" in outcome.reason
    assert await kinds(each_lab, "Odd.on_event", {"bad": False}) == ["started"]
    assert_adds_up(each_lab)


async def test_an_empty_context_starts_a_run(lab: Lab) -> None:
    class Plain(Saga):
        @trigger(source="memory")
        async def on_event(self, event):
            await asyncio.sleep(0)
            return {}

    assert await kinds(lab, "Plain.on_event") == ["started"]


async def test_the_second_parameter_is_the_event_itself(lab: Lab) -> None:
    seen: list[Any] = []

    class Both(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, payload: dict, event: Event):
            seen.append((payload["x"], event.id, event.source, event.attempt, event.timestamp.tzname()))

    await lab.fire("Both.on_event", {"x": 1}, id="e1")
    assert seen == [(1, "e1", "memory t", 1, "UTC")]


async def test_one_event_is_decided_by_each_trigger_of_its_source(lab: Lab) -> None:
    class One(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {}

        @trigger(source="memory", topic="t")
        def also(self, event):
            return skip("not mine")

    class Other(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event):
            raise ValueError

        @trigger(source="memory", topic="u")
        def elsewhere(self, event):
            return {}

    outcomes = await lab.fire("memory", {}, topic="t", id="e1")
    assert {o.trigger: str(o.kind) for o in outcomes} == {
        "One.on_event": "started",
        "One.also": "filtered",
        "Other.on_event": "dead",
    }
    assert {o.event_id for o in outcomes} == {"e1"}


async def test_firing_at_nothing_names_the_nearest(lab: Lab) -> None:
    class Scores(Scored): ...

    with pytest.raises(UnknownName, match=r"no trigger or source 'Scores.on_scor'; did you mean 'Scores.on_score'\?"):
        await lab.fire("Scores.on_scor", {})
    with pytest.raises(UnknownName, match="kafka"):
        await lab.fire("kafka", {}, topic="scores")
    with pytest.raises(UnknownName, match="topic='score'"):
        await lab.fire("memory", {}, topic="score")
    for call in (lab.pause, lab.resume, lab.forget):
        with pytest.raises(UnknownName, match=r"did you mean 'Scores.on_score'"):
            call("Scores.on_scor")
    with pytest.raises(UnknownName, match=r"did you mean 'Scores'"):
        lab.start(only="Score")
    assert lab.counters()["Scores.on_score"]["received"] == 0


# --- idempotency ---


async def test_the_same_id_starts_one_run(each_lab: Lab) -> None:
    class Scores(Scored): ...

    (first,) = await each_lab.fire("Scores.on_score", {"score": 9}, id="e1")
    (second,) = await each_lab.fire("Scores.on_score", {"score": 99}, id="e1")
    assert second.kind is OutcomeKind.DUPLICATE
    assert str(first.run_id) in second.reason
    assert "forget" in second.reason
    assert await kinds(each_lab, "Scores.on_score", {"score": 9}) == ["started"]


async def test_the_same_key_starts_one_run_for_each_trigger(each_lab: Lab) -> None:
    class Orders(Saga):
        @trigger(source="memory", idempotency_key="order")
        def by_field(self, event):
            return {}

        @trigger(source="memory", idempotency_key=lambda event: event["order"] // 10)
        def by_function(self, event):
            return {}

    for target in ("Orders.by_field", "Orders.by_function"):
        assert await kinds(each_lab, target, {"order": 11}) == ["started"]
        assert await kinds(each_lab, target, {"order": 11}) == ["duplicate"]
    assert await kinds(each_lab, "Orders.by_field", {"order": 12}) == ["started"]
    assert await kinds(each_lab, "Orders.by_function", {"order": 12}) == ["duplicate"]


async def test_a_thousand_events_of_one_key_at_once_start_one_run(each_lab: Lab) -> None:
    class Orders(Saga):
        @trigger(source="memory", idempotency_key="order")
        def on_order(self, event):
            return {}

    outcomes = await asyncio.gather(*(each_lab.fire("Orders.on_order", {"order": 1}) for _ in range(1000)))
    assert [str(o.kind) for (o,) in outcomes].count("started") == 1
    assert counted(each_lab, "Orders.on_order") == {"received": 1000, "started": 1, "duplicate": 999}


async def test_a_filtered_event_takes_no_key(lab: Lab) -> None:
    class Orders(Saga):
        @trigger(source="memory", idempotency_key="order")
        def on_order(self, event):
            return {} if event.ready else skip("not ready")

    assert await kinds(lab, "Orders.on_order", {"order": 1, "ready": False}) == ["filtered"]
    assert await kinds(lab, "Orders.on_order", {"order": 1, "ready": True}) == ["started"]


async def test_forget_frees_one_key_or_all(each_lab: Lab) -> None:
    class Orders(Saga):
        @trigger(source="memory", idempotency_key="order")
        def on_order(self, event):
            return {}

    for order in (1, 2, 3):
        await each_lab.fire("Orders.on_order", {"order": order})
    await each_lab.drain()
    assert await each_lab.forget("Orders.on_order", "1") == 1
    assert await kinds(each_lab, "Orders.on_order", {"order": 1}) == ["started"]
    assert await kinds(each_lab, "Orders.on_order", {"order": 2}) == ["duplicate"]
    each_lab.forget("Orders.on_order")
    assert await kinds(each_lab, "Orders.on_order", {"order": 2}) == ["started"]
    assert await each_lab.forget("Orders.on_order", "unheard of") == 0


async def test_a_run_that_ended_badly_may_be_started_again_by_its_key(each_lab: Lab) -> None:
    fails = [True]

    class Orders(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", idempotency_key="order")
        def on_order(self, event):
            return {}

        @action()
        async def work(self, ctx):
            if fails:
                raise Broken

    assert await kinds(each_lab, "Orders.on_order", {"order": 1}) == ["started"]
    await each_lab.drain()
    fails.clear()
    assert await kinds(each_lab, "Orders.on_order", {"order": 1}) == ["started"]
    await each_lab.drain()
    assert await kinds(each_lab, "Orders.on_order", {"order": 1}) == ["duplicate"]
    assert statuses(each_lab) == ["compensated", "completed"]


async def test_a_key_is_free_again_after_its_time(timed_lab: Lab, clock: VirtualClock) -> None:
    class Orders(Saga):
        @trigger(source="memory", idempotency_key="order", idempotency_ttl="1h")
        def on_order(self, event):
            return {}

    assert await kinds(timed_lab, "Orders.on_order", {"order": 1}) == ["started"]
    await clock.advance(3599)
    assert await kinds(timed_lab, "Orders.on_order", {"order": 1}) == ["duplicate"]
    await clock.advance(2)
    assert await kinds(timed_lab, "Orders.on_order", {"order": 1}) == ["started"]


async def test_a_key_that_is_missing_is_a_dead_letter_that_names_the_field(lab: Lab) -> None:
    class Orders(Saga):
        @trigger(source="memory", idempotency_key="order_id")
        def on_order(self, event):
            return {}

        @trigger(source="memory", concurrency_key="customer")
        def by_customer(self, event):
            return {}

        @trigger(source="memory", idempotency_key=lambda event: event.order_id)
        def by_function(self, event):
            return {}

    for payload in ({}, {"order_id": None}, {"order_id": ""}, {"order_id": "x" * 5000}, [1], "text", None, 5):
        (outcome,) = await lab.fire("Orders.on_order", payload)
        assert outcome.kind is OutcomeKind.DEAD
        assert outcome.reason.startswith("MissingKey: Orders.on_order: idempotency_key=")
    assert "the event has no field 'order_id'" in (await lab.fire("Orders.on_order", {}))[0].reason
    assert "the event has no field 'customer'" in (await lab.fire("Orders.by_customer", {}))[0].reason
    assert "order_id" in (await lab.fire("Orders.by_function", {}))[0].reason
    assert await kinds(lab, "Orders.on_order", {"order_id": 0}) == ["started"]


async def test_an_event_that_is_fired_as_such_keeps_its_id(lab: Lab) -> None:
    class Scores(Scored): ...

    event = Event({"score": 9}, id="e1", headers={"h": "1"})
    assert [(o.event_id, str(o.kind)) for o in await lab.fire("Scores.on_score", event)] == [("e1", "started")]
    assert [(o.event_id, str(o.kind)) for o in await lab.fire("Scores.on_score", event)] == [("e1", "duplicate")]
    (outcome,) = await lab.fire("Scores.on_score", Event({"score": 9}))
    assert outcome.event_id
    assert outcome.kind is OutcomeKind.STARTED
    for id in ("", 5):
        with pytest.raises(DefinitionError, match="must be a non-empty string"):
            await lab.fire("Scores.on_score", {"score": 9}, id=id)


# --- typed payloads ---


@dataclass
class DriftData:
    model_id: str
    score: float = 0.5


class DriftDict(TypedDict):
    model_id: str
    score: float


class DriftModel(pydantic.BaseModel):
    model_id: str
    score: float = 0.5


class DriftStruct(msgspec.Struct):
    model_id: str
    score: float = 0.5


@pytest.mark.parametrize("kind", [DriftData, DriftDict, DriftModel, DriftStruct])
async def test_a_payload_is_validated_into_the_annotated_type(lab: Lab, kind: Any) -> None:
    seen: list[Any] = []

    class Drifting(Saga):
        @trigger(source="memory", idempotency_key="model_id")
        def on_drift(self, event: kind):
            seen.append(event)
            return {}

    assert await kinds(lab, "Drifting.on_drift", {"model_id": "m1", "score": 0.8}) == ["started"]
    assert await kinds(lab, "Drifting.on_drift", b'{"model_id": "m2", "score": 1}') == ["started"]
    assert await kinds(lab, "Drifting.on_drift", {"model_id": "m1", "score": 0.9}) == ["duplicate"]
    assert [type(event) for event in seen] == [dict if kind is DriftDict else kind] * 2

    for payload, field in [({"model_id": 5, "score": 1}, "model_id"), ({"model_id": "m", "score": "much"}, "score"),
                           ({"score": 1}, "model_id")]:  # fmt: skip
        (outcome,) = await lab.fire("Drifting.on_drift", payload)
        assert outcome.kind is OutcomeKind.DEAD
        assert outcome.reason.startswith(f"PayloadMismatch: the payload does not fit {kind.__name__}: ")
        assert field in outcome.reason
    for payload in (None, [], "text", 5):
        assert await kinds(lab, "Drifting.on_drift", payload) == ["dead"]


@pytest.mark.parametrize("kind", [DriftData, DriftModel, DriftStruct])
async def test_an_object_of_the_type_is_taken_as_it_is(lab: Lab, kind: Any) -> None:
    seen: list[Any] = []

    class Drifting(Saga):
        @trigger(source="memory")
        def on_drift(self, event: kind):
            seen.append(event)

    drift = kind(model_id="m")
    await lab.fire("Drifting.on_drift", drift)
    assert seen == [drift]


@dataclass
class Fussy:
    a: int

    def __post_init__(self) -> None:
        raise {1: ValueError, 2: KeyError, 3: ZeroDivisionError}[self.a]("fussy")


class FussyModel(pydantic.BaseModel):
    a: int

    @pydantic.field_validator("a")
    @classmethod
    def check(cls, a: int) -> int:
        raise {1: ValueError, 2: KeyError, 3: ZeroDivisionError}[a]("fussy")


@pytest.mark.parametrize("kind", [Fussy, FussyModel])
@pytest.mark.parametrize("a", [1, 2, 3])
async def test_whatever_a_validation_raises_is_a_dead_letter(lab: Lab, kind: Any, a: int) -> None:
    class Fussing(Saga):
        @trigger(source="memory")
        def on_event(self, event: kind):
            return {}

    (outcome,) = await lab.fire("Fussing.on_event", {"a": a})
    assert outcome.kind is OutcomeKind.DEAD
    assert "fussy" in outcome.reason
    assert_adds_up(lab)


async def test_a_payload_that_hides_behind_the_events_own_field_is_told_once(lab: Lab) -> None:
    told = []
    lab.on_report(lambda kind, text: told.append(text))
    seen: list[Any] = []

    class Hiding(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            seen.append((event.id, event["id"], event.other))

    for _ in range(3):
        await lab.fire("Hiding.on_event", {"id": 7, "source": "s", "other": 1}, id="e1")
    assert seen == [("e1", 7, 1)] * 3
    (text,) = told
    assert "Hiding.on_event: the payload has fields that the event also has (id, source)" in text
    assert "event['id'] the payload's" in text


async def test_a_field_that_is_not_there_is_named_with_those_that_are(lab: Lab) -> None:
    class Reading(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return {"s": event.scoer}

    (outcome,) = await lab.fire("Reading.on_event", {"score": 1})
    assert "the event has no field 'scoer'; its payload has: score" in outcome.reason


# --- concurrency ---


class Gated(Saga, abstract=True):
    """Runs until its gate opens; notes who started."""

    running: set[int]
    started: list[int]
    most: list[int]
    gate: asyncio.Event

    def __init_subclass__(cls, **options: Any) -> None:
        cls.running, cls.started, cls.most, cls.gate = set(), [], [0], asyncio.Event()
        super().__init_subclass__(**options)

    @action()
    async def work(self, ctx):
        self.started.append(ctx["n"])
        self.running.add(ctx["n"])
        self.most[0] = max(self.most[0], len(self.running))
        try:
            await self.gate.wait()
        finally:
            self.running.discard(ctx["n"])


async def fire_all(lab: Lab, target: str, payloads: list[Mapping[str, Any]], **options: Any) -> list[str]:
    return [(await kinds(lab, target, payload, wait=False, **options))[0] for payload in payloads]


async def test_no_more_runs_than_allowed_are_under_way(each_lab: Lab) -> None:
    class Few(Gated):
        @trigger(source="memory", max_concurrent_sagas=2)
        def on_event(self, event):
            return {"n": event.n}

    fired = await fire_all(each_lab, "Few.on_event", [{"n": n} for n in range(6)])
    assert fired == ["started"] * 2 + ["waiting"] * 4
    await until(lambda: len(Few.running) == 2)
    assert counted(each_lab, "Few.on_event") == {"received": 6, "started": 2, "waiting": 4}
    Few.gate.set()
    await each_lab.drain()
    assert Few.most == [2]
    assert Few.started == list(range(6))
    assert counted(each_lab, "Few.on_event") == {"received": 6, "started": 6}
    assert statuses(each_lab) == ["completed"] * 6


async def test_a_failed_or_cancelled_run_gives_its_slot_back(lab: Lab) -> None:
    class One(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"what": event.what}

        @action()
        async def work(self, ctx):
            if ctx["what"] == "fail":
                raise Broken
            if ctx["what"] == "hang":
                await asyncio.sleep(60)

    (hanging,) = await lab.fire("One.on_event", {"what": "hang"})
    for what in ("fail", "fail", "fine"):
        assert await kinds(lab, "One.on_event", {"what": what}, wait=False) == ["waiting"]
    await lab.compensate_run(str(hanging.run_id))
    async with asyncio.timeout(5):
        await lab.drain()
    assert statuses(lab) == ["cancelled", "compensated", "compensated", "completed"]


async def test_fire_waits_for_the_final_outcome_of_a_waiting_event(lab: Lab) -> None:
    class One(Gated):
        @trigger(source="memory", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"n": event.n}

    await lab.fire("One.on_event", {"n": 0})
    second = asyncio.create_task(lab.fire("One.on_event", {"n": 1}))
    await until(lambda: lab.counters()["One.on_event"]["waiting"])
    assert not second.done()
    One.gate.set()
    (outcome,) = await second
    assert outcome.kind is OutcomeKind.STARTED


async def test_runs_of_one_key_go_one_at_a_time_in_their_order_and_keys_take_turns(each_lab: Lab) -> None:
    class Users(Gated):
        @trigger(source="memory", concurrency_key="user", max_concurrent_sagas=10)
        def on_order(self, event):
            return {"n": event.n}

    orders = [{"user": "ann", "n": n} for n in (1, 2, 3)] + [{"user": "bob", "n": n} for n in (11, 12)]
    assert await fire_all(each_lab, "Users.on_order", orders) == ["started", "waiting", "waiting", "started", "waiting"]
    await until(lambda: Users.running == {1, 11})
    Users.gate.set()
    await each_lab.drain()
    assert [n for n in Users.started if n < 10] == [1, 2, 3]
    assert [n for n in Users.started if n > 10] == [11, 12]


async def test_the_keys_take_turns_for_the_slots(lab: Lab) -> None:
    class Users(Saga):
        started: list[str] = []

        @trigger(source="memory", concurrency_key="user", max_concurrent_sagas=1)
        def on_order(self, event):
            return {"order": event.order}

        @action()
        async def work(self, ctx):
            self.started.append(ctx["order"])
            await asyncio.sleep(0.001)

    orders = ["x0", "a1", "a2", "a3", "a4", "b1", "b2", "c1"]
    await fire_all(lab, "Users.on_order", [{"user": order[0], "order": order} for order in orders])
    await lab.drain()
    assert Users.started == ["x0", "a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_a_run_that_waits_for_its_retry_keeps_its_keys_turn(timed_lab: Lab, clock: VirtualClock) -> None:
    tried = []

    class Users(Saga):
        trigger_config = TriggerConfig(max_retries=2, retry_backoff_seconds=[10])

        @trigger(source="memory", concurrency_key="user")
        def on_order(self, event):
            return {"n": event.n}

        @action()
        async def work(self, ctx):
            tried.append((ctx["n"], clock.monotonic()))
            if ctx["n"] == 1 and len(tried) < 3:
                raise Broken

    await fire_all(timed_lab, "Users.on_order", [{"user": "ann", "n": 1}, {"user": "ann", "n": 2}])
    await clock.advance(60)
    assert tried == [(1, 0), (1, 10), (1, 20), (2, 20)]


async def test_a_rate_spaces_the_starts_evenly(timed_lab: Lab, clock: VirtualClock) -> None:
    at = []

    class Slow(Saga):
        @trigger(source="memory", rate_limit_per_second=2)
        def on_event(self, event):
            return {} if event.go else None

        @action()
        async def work(self, ctx):
            at.append(clock.monotonic())

    fired = await fire_all(timed_lab, "Slow.on_event", [{"go": n % 2 == 0} for n in range(10)])
    assert fired == ["started"] + ["filtered", "waiting"] * 4 + ["filtered"]
    await clock.advance(10)
    assert at == [0, 0.5, 1.0, 1.5, 2.0]
    assert await kinds(timed_lab, "Slow.on_event", {"go": True}) == ["started"]
    assert await kinds(timed_lab, "Slow.on_event", {"go": True}, wait=False) == ["waiting"]


# --- backpressure ---


def full(lab: Lab, strategy: Any) -> type[Gated]:
    """A saga with one slot and two places, all taken by 0, 1 and 2."""

    class Full(Gated):
        trigger_config = TriggerConfig(queue_size=2, backpressure_strategy=strategy)

        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"n": event.n}

    return Full


@pytest.mark.parametrize(
    ("strategy", "fired", "ran", "counts"),
    [
        ("drop_oldest", ["waiting", "waiting"], [0, 3, 4], {"received": 5, "started": 3, "dropped": 2}),
        ("drop_newest", ["dropped", "dropped"], [0, 1, 2], {"received": 5, "started": 3, "dropped": 2}),
        ("reject", ["dead", "dead"], [0, 1, 2], {"received": 5, "started": 3, "dead": 2}),
    ],
)
async def test_a_full_queue_does_what_its_strategy_says(
    each_lab: Lab, strategy: str, fired: list[str], ran: list[int], counts: dict[str, int]
) -> None:
    saga = full(each_lab, strategy)
    first = await fire_all(each_lab, "Full.on_event", [{"n": n} for n in range(3)])
    assert first == ["started", "waiting", "waiting"]
    assert await fire_all(each_lab, "Full.on_event", [{"n": 3}, {"n": 4}]) == fired
    assert_adds_up(each_lab)
    saga.gate.set()
    await each_lab.drain()
    assert saga.started == ran
    assert counted(each_lab, "Full.on_event") == counts
    assert len(each_lab.runs()) == 3
    if strategy == "reject":
        assert "QueueFull" in each_lab.dead_letters()["error"][0]


@pytest.mark.parametrize("strategy", ["drop_oldest", "drop_newest", "reject"])
async def test_events_that_come_at_once_do_not_overfill_the_queue(each_lab: Lab, strategy: str) -> None:
    saga = full(each_lab, strategy)
    await asyncio.gather(*(each_lab.fire("Full.on_event", {"n": n}, wait=False) for n in range(30)))
    counts = counted(each_lab, "Full.on_event")
    assert (counts["started"], counts["waiting"]) == (1, 2)
    saga.gate.set()
    await each_lab.drain()
    assert len(saga.started) == len(each_lab.runs()) == 3


async def test_a_store_that_cannot_forget_the_oldest_run_takes_no_new_one() -> None:
    class Away(MemoryStore):
        async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
            if batch.withdrawn:
                raise StoreUnavailable("gone")
            return await super().accept(batch)

    async with Lab(Away()) as lab:
        saga = full(lab, "drop_oldest")
        assert await fire_all(lab, "Full.on_event", [{"n": n} for n in range(3)]) == ["started", "waiting", "waiting"]
        with pytest.raises(StoreUnavailable):
            await lab.fire("Full.on_event", {"n": 3})
        assert_adds_up(lab)
        saga.gate.set()
        await lab.drain()
        assert saga.started == [0, 1, 2]


async def test_a_blocking_trigger_lets_no_more_in_than_fit(each_lab: Lab) -> None:
    saga = full(each_lab, "block")
    most = 0
    fires = [asyncio.create_task(each_lab.fire("Full.on_event", {"n": n})) for n in range(20)]
    await until(lambda: each_lab.counters()["Full.on_event"]["waiting"] == 2)
    for _ in range(200):
        await asyncio.sleep(0)
        most = max(most, each_lab.counters()["Full.on_event"]["waiting"])
        assert_adds_up(each_lab)
    assert most == 2
    assert each_lab.counters()["Full.on_event"]["received"] == 3
    saga.gate.set()
    await asyncio.gather(*fires)
    await each_lab.drain()
    assert saga.started == list(range(20))


async def test_dropped_events_say_so_to_whoever_waits_asks_or_listens(lab: Lab) -> None:
    heard = []

    class Listener(SagaListener):
        def on_trigger_dropped(self, saga_name, event, reason):
            heard.append((event["n"], reason))
            assert_adds_up(lab)

    class Full(Gated):
        listeners = [Listener()]
        trigger_config = TriggerConfig(queue_size=1, backpressure_strategy="drop_oldest")

        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"n": event.n}

    class Newest(Gated):
        listeners = [Listener()]
        trigger_config = TriggerConfig(queue_size=1, backpressure_strategy="drop_newest")

        @trigger(source="memory", topic="u", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"n": event.n}

    await lab.fire("Full.on_event", {"n": 0})
    waiting = asyncio.create_task(lab.fire("Full.on_event", {"n": 1}, id="e1"))
    await until(lambda: lab.counters()["Full.on_event"]["waiting"])
    await lab.fire("Full.on_event", {"n": 2}, wait=False)
    (outcome,) = await waiting
    assert (outcome.kind, outcome.reason) == (OutcomeKind.DROPPED, "the queue is full")
    assert [str(o.kind) for o in lab.why("e1").outcomes] == ["dropped"]
    await fire_all(lab, "Newest.on_event", [{"n": 10}, {"n": 11}, {"n": 12}])
    assert heard == [(1, "the queue is full"), (12, "the queue is full")]
    Full.gate.set()
    Newest.gate.set()


# --- from a source ---


async def test_a_batch_from_a_source_is_decided_accepted_and_settled(tmp_path: Path) -> None:
    taps = Taps()
    async with Lab(f"sqlite:///{tmp_path}/lab.db", sources={"memory": taps}) as lab:

        class Scores(Scored): ...

        await lab.start()
        for score in [9, 3, 0, -1, 8] * 40:
            taps["scores"].put_nowait({"score": score})
        await until(lambda: lab.counters()["Scores.on_score"]["received"] == 200)
        await lab.drain()
        await until(lambda: taps["scores"].unsettled == 0)
        assert counted(lab, "Scores.on_score") == {"received": 200, "started": 80, "filtered": 80, "dead": 40}
        assert lab.status().sources[0].state == "connected"
        assert len(lab.dead_letters("cause")) == 1


async def test_the_counters_add_up_at_every_moment(tmp_path: Path) -> None:
    taps = Taps()
    async with Lab(f"sqlite:///{tmp_path}/lab.db", sources={"memory": taps}) as lab:

        class Mixed(Saga):
            trigger_config = TriggerConfig(
                max_retries=1, retry_backoff_seconds=[0.001], queue_size=5, backpressure_strategy="drop_oldest"
            )

            @trigger(source="memory", topic="t", max_concurrent_sagas=3, concurrency_key="key", idempotency_key="id")
            async def on_event(self, event):
                await asyncio.sleep(0)
                return {"n": event.n} if event.n % 5 else skip("fifth")

            @action()
            async def work(self, ctx):
                assert_adds_up(lab)
                if ctx["n"] % 7 == 0:
                    raise Broken

        await lab.start()
        for n in range(300):
            taps["t"].put_nowait({"n": n, "key": n % 4, "id": n % 250} if n % 11 else {"n": n})
        mixed = lab.status().triggers[0]
        while mixed.received < 300 or mixed.running or mixed.queue.waiting:
            mixed = lab.status().triggers[0]
            assert_adds_up(lab)
            await asyncio.sleep(0)
        assert_adds_up(lab)
        assert lab.counters()["Mixed.on_event"]["waiting"] == 0
        kinds = lab.outcomes(None)["outcome"].value_counts()
        assert {kind: count for kind, count in kinds.items() if count} == {
            kind: count for kind, count in counted(lab, "Mixed.on_event").items() if kind != "received"
        }


@pytest.fixture
def taps() -> Taps:
    return Taps()


@pytest.fixture
async def fed_lab(taps: Taps) -> AsyncIterator[Lab]:
    """A Lab whose memory sources are `taps`."""
    async with Lab("memory", sources={"memory": taps}) as lab:
        yield lab


async def test_of_two_kinds_of_outcome_in_one_batch_each_event_keeps_its_last(fed_lab: Lab, taps: Taps) -> None:
    lab = fed_lab

    class Full(Gated):
        trigger_config = TriggerConfig(queue_size=2, backpressure_strategy="drop_oldest")

        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"n": event.n}

    await lab.start()
    for n in range(6):
        taps["t"].put_nowait({"n": n}, id=f"e{n}")
    await until(lambda: lab.counters()["Full.on_event"]["dropped"] == 3)
    outcomes = lab.outcomes()
    assert dict(zip(outcomes["event_id"], outcomes["outcome"], strict=True)) == {
        "e0": "started", "e1": "dropped", "e2": "dropped", "e3": "dropped", "e4": "waiting", "e5": "waiting",
    }  # fmt: skip
    Full.gate.set()


async def test_a_blocked_trigger_stops_its_source_and_is_named(fed_lab: Lab, taps: Taps) -> None:
    lab = fed_lab
    saga = full(lab, "block")
    await lab.start()
    for n in range(50):
        taps["t"].put_nowait({"n": n})
    await until(lambda: lab.status().sources[0].state == "blocked by Full.on_event")
    assert counted(lab, "Full.on_event") == {"received": 3, "started": 1, "waiting": 2}
    saga.gate.set()
    await until(lambda: len(saga.started) == 50)
    assert saga.started == list(range(50))


async def test_a_paused_trigger_takes_nothing_until_it_is_resumed(fed_lab: Lab, taps: Taps) -> None:
    lab = fed_lab

    class Scores(Scored): ...

    await lab.start()
    lab.pause("Scores.on_score")
    await settle()
    with pytest.raises(TriggerPaused, match=r"Scores.on_score is paused"):
        await lab.fire("Scores.on_score", {"score": 9})
    received = lab.counters()["Scores.on_score"]["received"]
    for _ in range(5):
        taps["scores"].put_nowait({"score": 9})
    await settle()
    assert lab.counters()["Scores.on_score"]["received"] == received
    assert lab.status().triggers[0].state == "paused"
    lab.resume("Scores.on_score")
    await until(lambda: lab.counters()["Scores.on_score"]["received"] == 5)
    assert (await lab.fire("Scores.on_score", {"score": 9}))[0].kind is OutcomeKind.STARTED


# --- retries and dead letters ---


class Flaky(Saga, abstract=True):
    trigger_config = TriggerConfig(max_retries=2, retry_backoff_seconds=[10, 60])

    @trigger(source="memory", idempotency_key="n")
    def on_event(self, event):
        return {"n": event.n}

    @action("prepare")
    async def prepare(self, ctx): ...

    @compensate("prepare")
    async def undo(self, ctx): ...


async def test_a_failed_run_is_tried_again_and_then_leaves_a_dead_letter(timed_lab: Lab, clock: VirtualClock) -> None:
    tried = []

    class Failing(Flaky):
        @action("work", depends_on="prepare")
        async def work(self, ctx):
            tried.append((clock.monotonic(), ctx.run_id))
            raise Broken("every time")

    (outcome,) = await timed_lab.fire("Failing.on_event", {"n": 1})
    await clock.advance(5)
    assert statuses(timed_lab) == ["waiting"]
    await clock.advance(100)
    assert tried == [(0, outcome.run_id), (10, outcome.run_id), (70, outcome.run_id)]
    assert statuses(timed_lab) == ["compensated"]
    (letter,) = timed_lab.dead_letters().to_dict("records")
    assert (letter["attempts"], letter["run_id"], letter["error"]) == (3, outcome.run_id, "Broken: every time")
    assert counted(timed_lab, "Failing.on_event") == {"received": 1, "started": 1}
    assert list(timed_lab.steps()["attempt"])[::-1] == [1] * 3 + [2] * 3 + [3] * 3


async def test_a_retry_runs_on_the_revision_that_is_current_then(timed_lab: Lab, clock: VirtualClock) -> None:
    def define(fixed: bool) -> None:
        class Failing(Flaky):
            @action("work", depends_on="prepare")
            async def work(self, ctx):
                if not fixed:
                    raise Broken

    define(False)
    await timed_lab.fire("Failing.on_event", {"n": 1})
    await clock.advance(1)
    define(True)
    await clock.advance(10)
    (run,) = timed_lab.runs().to_dict("records")
    assert (run["status"], run["revision"], run["attempt"]) == ("completed", 2, 2)


async def test_a_permanent_error_leaves_a_dead_letter_at_once(each_lab: Lab) -> None:
    class Failing(Flaky):
        @action("work", depends_on="prepare")
        async def work(self, ctx):
            raise Permanent("no such model")

    await each_lab.fire("Failing.on_event", {"n": 1})
    await each_lab.drain()
    assert list(each_lab.dead_letters()["attempts"]) == [1]
    assert statuses(each_lab) == ["compensated"]


@pytest.mark.parametrize("end", ["held", "partially_committed", "compensation_failed"])
async def test_a_run_that_needs_a_person_is_not_tried_again(lab: Lab, end: str) -> None:
    class Ending(Saga):
        trigger_config = TriggerConfig(max_retries=5, retry_backoff_seconds=[0])
        on_failure = "hold" if end == "held" else "compensate"

        @trigger(source="memory")
        def on_event(self, event):
            return {}

        @action("a", pivot=end == "partially_committed")
        async def a(self, ctx): ...

        @compensate("a", max_retries=0)
        async def undo(self, ctx):
            raise Broken

        @action("b", depends_on="a")
        async def b(self, ctx):
            raise Broken

    await lab.fire("Ending.on_event")
    await lab.drain()
    assert statuses(lab) == [end]
    assert list(lab.runs()["attempt"]) == [1]


async def test_dead_letters_are_redriven_with_a_fix_in_their_order(each_lab: Lab) -> None:
    class Scores(Scored): ...

    for score in (-1, -2, -3):
        await each_lab.fire("Scores.on_score", {"score": score})
    ids = list(each_lab.dead_letters()["id"])[::-1]
    outcomes = await each_lab.redrive(ids[:2], fix=lambda payload: {"score": payload["score"] + 10})
    assert [str(o.kind) for o in outcomes] == ["started", "started"]
    (again,) = await each_lab.redrive(ids[2])
    assert again.kind is OutcomeKind.DEAD
    await each_lab.drain()
    assert len(each_lab.dead_letters()) == 1
    assert await each_lab.redrive(ids) == []
    assert_adds_up(each_lab)


async def test_the_dead_letter_of_a_failed_run_can_be_redriven(each_lab: Lab) -> None:
    fails = [True]

    class Failing(Flaky):
        trigger_config = TriggerConfig(max_retries=0)

        @action("work", depends_on="prepare")
        async def work(self, ctx):
            if fails:
                raise Broken

    await each_lab.fire("Failing.on_event", {"n": 1})
    await each_lab.drain()
    fails.clear()
    (outcome,) = await each_lab.redrive(list(each_lab.dead_letters()["id"]))
    assert outcome.kind is OutcomeKind.STARTED
    await each_lab.drain()
    assert statuses(each_lab) == ["compensated", "completed"]
    assert len(each_lab.dead_letters()) == 0


async def test_a_fix_that_fails_leaves_the_letter_where_it_is(lab: Lab) -> None:
    class Scores(Scored): ...

    await lab.fire("Scores.on_score", {"score": -1})
    ids = list(lab.dead_letters()["id"])
    with pytest.raises(KeyError):
        await lab.redrive(ids, fix=lambda payload: payload["scoer"])
    assert len(lab.dead_letters()) == 1
    assert await lab.discard(ids, "known bug") == 1
    assert await lab.discard(ids, "again") == 0
    assert len(lab.dead_letters()) == 0


async def test_like_dead_letters_are_counted_together(lab: Lab) -> None:
    class Scores(Scored): ...

    for score in (-1, -2, -3):
        await lab.fire("Scores.on_score", {"score": score})
    await lab.fire("Scores.on_score", {})
    causes = lab.dead_letters(by="cause")
    assert list(causes["count"]) == [3, 1]
    with pytest.raises(UnknownName, match="cause"):
        lab.dead_letters(by="couse")


# --- asking ---


async def test_a_preview_runs_every_gate_and_changes_nothing(each_lab: Lab) -> None:
    heard = []

    class Listener(SagaListener):
        def on_trigger_received(self, saga_name, event_source, event):
            heard.append("received")

        def on_trigger_filtered(self, saga_name, event, reason):
            heard.append("filtered")

    class Orders(Saga):
        listeners = [Listener()]

        @trigger(source="memory", idempotency_key="n", max_concurrent_sagas=1)
        def on_order(self, event):
            return {"n": event.n} if event.n else skip("nothing", n=event.n)

        @action()
        async def work(self, ctx):
            await asyncio.sleep(60)

    async def outcome(payload: Any) -> str:
        return str((await each_lab.preview("Orders.on_order", payload)).outcome)

    preview = await each_lab.preview("Orders.on_order", {"n": 1})
    assert (preview.outcome, preview.context) == (OutcomeKind.STARTED, {"n": 1})
    assert [v.verdict for v in preview.verdicts] == ["pass"] * len(preview.verdicts)
    assert "nothing, n=0" in repr(await each_lab.preview("Orders.on_order", {"n": 0}))
    assert await outcome({}) == "dead"
    assert heard == []
    assert not any(each_lab.counters()["Orders.on_order"].values())
    assert len(each_lab.runs()) == len(each_lab.dead_letters()) == len(each_lab.outcomes()) == 0

    (started,) = await each_lab.fire("Orders.on_order", {"n": 1})
    assert await outcome({"n": 1}) == "duplicate"
    assert await outcome({"n": 2}) == "waiting"
    assert len(each_lab.runs()) == 1
    await each_lab.compensate_run(str(started.run_id))


async def test_why_tells_what_became_of_an_event(each_lab: Lab) -> None:
    class Scores(Scored): ...

    class Others(Scored): ...

    await each_lab.fire("memory", {"score": 13}, topic="scores", id="e1")
    await each_lab.drain()
    why = each_lab.why("e1")
    assert sorted(o.trigger for o in why.outcomes) == ["Others.on_score", "Scores.on_score"]
    assert "compensated: Broken: unlucky" in repr(why)
    assert "not seen here" in repr(each_lab.why("e2"))


async def test_events_are_kept_only_where_that_is_asked_for(each_lab: Lab) -> None:
    class Kept(Saga):
        trigger_config = TriggerConfig(persist_events=True)

        @trigger(source="memory")
        def on_event(self, event):
            return {} if event.go else skip("no")

    class Passing(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return {} if event.go else skip("no")

    for name in ("Kept", "Passing"):
        for go in (True, False):
            await each_lab.fire(f"{name}.on_event", {"go": go}, id=f"{name} {go}")
    await each_lab.drain()
    assert sorted(each_lab.events()["event_id"]) == ["Kept False", "Kept True", "Passing True"]


async def test_listeners_hear_what_becomes_of_events(lab: Lab) -> None:
    heard = []

    class Everything(SagaListener):
        async def on_trigger_received(self, saga_name, event_source, event):
            heard.append(f"received from {event_source}")

        def on_trigger_filtered(self, saga_name, event, reason):
            heard.append(f"filtered {reason}")

        def on_trigger_dead(self, saga_name, event, error):
            heard.append(f"dead {error}")

        def on_saga_complete(self, saga_name, run_id, ctx):
            heard.append(f"complete {ctx['score']}")

    class Scores(Scored):
        listeners = [Everything()]

    for score in (9, 3, 0, -1):
        await lab.fire("Scores.on_score", {"score": score})
        await lab.drain()
    assert [line for line in heard if not line.startswith("received")] == [
        "complete 9", "filtered score too low", "filtered returned None", "dead ValueError: score -1",
    ]  # fmt: skip
    assert heard.count("received from memory scores") == 4


# --- Labs ---


async def test_a_lab_that_is_offline_opens_no_source() -> None:
    taps = Taps()
    async with Lab("memory", sources={"memory": taps}, offline=True) as lab:

        class Scores(Scored): ...

        class Unbuilt(Saga):
            @trigger(source="kafka", topic="t")
            def on_event(self, event):
                return {}

        await lab.start()
        assert not taps.made
        assert await kinds(lab, "Scores.on_score", {"score": 9}) == ["started"]
        assert await kinds(lab, "kafka", {}, topic="t") == ["started"]
        await lab.drain()


async def test_two_labs_do_not_meet() -> None:
    async with Lab("memory") as one, Lab("memory") as two:
        with one.activate():

            class Scores(Scored): ...

        with two.activate():

            class Others(Scored): ...

        assert (list(one.sagas), list(two.sagas)) == (["Scores"], ["Others"])
        await one.fire("memory", {"score": 9}, topic="scores")
        assert (len(one.runs()), len(two.runs())) == (1, 0)
        with pytest.raises(UnknownName):
            await two.fire("Scores.on_score", {"score": 9})


async def test_an_activated_lab_is_the_current_one() -> None:
    with Lab("memory").activate() as lab:

        class Scores(Scored): ...

        assert default_lab() is lab
        (outcome,) = await fire_event("Scores.on_score", {"score": 9})
        assert outcome.kind is OutcomeKind.STARTED
        await lab.drain()
    assert default_lab() is not lab
    await lab.stop()


async def test_a_lab_that_stops_lets_nobody_wait_for_ever(clock: VirtualClock) -> None:
    lab = Lab("memory")
    with lab.activate():

        class One(Gated):
            @trigger(source="memory", max_concurrent_sagas=1)
            def on_event(self, event):
                return {"n": event.n}

    await lab.fire("One.on_event", {"n": 0})
    waiting = asyncio.create_task(lab.fire("One.on_event", {"n": 1}))
    await until(lambda: lab.counters()["One.on_event"]["waiting"])
    async with asyncio.timeout(2):
        await lab.stop(grace_s=0.01)
        (outcome,) = await waiting
    assert outcome.kind is OutcomeKind.WAITING


async def test_what_a_stopped_lab_left_behind_goes_on_with_the_next_start(tmp_path: Path) -> None:
    done: list[str] = []

    def define(lab: Lab, blocks: bool) -> None:
        with lab.activate():

            class Steps(Saga):
                @trigger(source="memory", max_concurrent_sagas=1)
                def on_event(self, event):
                    return {"n": event.n}

                @action("one")
                async def one(self, ctx):
                    done.append(f"one {ctx['n']}")

                @action("two", depends_on="one")
                async def two(self, ctx):
                    if blocks:
                        await asyncio.sleep(60)
                    done.append(f"two {ctx['n']}")

    address = f"sqlite:///{tmp_path}/lab.db"
    first = Lab(address, offline=True)
    define(first, blocks=True)
    assert await fire_all(first, "Steps.on_event", [{"n": 1}, {"n": 2}]) == ["started", "waiting"]
    await until(lambda: done)
    await first.stop(grace_s=0.01)

    second = Lab(address, offline=True)
    define(second, blocks=False)
    await second.start()
    await second.drain()
    assert done == ["one 1", "two 1", "one 2", "two 2"]
    assert statuses(second) == ["completed", "completed"]
    assert counted(second, "Steps.on_event") == {"received": 1, "started": 1}
    await second.stop()


async def test_firing_while_the_lab_closes_is_refused(lab: Lab) -> None:
    fired: list[Any] = []

    class One(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return {"n": event.n}

        @action()
        async def work(self, ctx):
            try:
                await asyncio.Event().wait()
            finally:
                with pytest.raises(LabClosed):
                    fired.append(await lab.fire("One.on_event", {"n": 1}))
                fired.append("refused")

    await lab.fire("One.on_event", {"n": 0})
    await until(lambda: lab.status().runs[0].actions)
    await lab.stop(grace_s=0)
    assert fired == ["refused"]


async def test_an_action_that_hears_nothing_does_not_keep_a_lab_open() -> None:
    lab = Lab("memory")
    begun, end = asyncio.Event(), asyncio.Event()
    with lab.activate():

        class Deaf(Saga):
            @trigger(source="memory")
            def on_event(self, event):
                return {}

            @action()
            async def work(self, ctx):
                begun.set()
                while not end.is_set():
                    with suppress(asyncio.CancelledError):
                        await asyncio.wait_for(end.wait(), 60)

    await lab.fire("Deaf.on_event")
    await begun.wait()
    try:
        async with asyncio.timeout(5):
            await lab.stop(grace_s=0.01)
    finally:
        end.set()


async def test_a_method_that_asks_for_a_dict_gets_the_payload_itself() -> None:
    async with Lab(store="memory") as lab:

        class Plain(Saga):
            @trigger(source="memory", topic="t")
            def on_event(self, event: dict[str, Any]) -> dict[str, Any]:
                return {"x": event.get("x"), "type": type(event).__name__}

        decided = await lab.preview("Plain.on_event", {"x": 1})
        assert decided.context == {"x": 1, "type": "dict"}
        assert (await lab.fire("Plain.on_event", [1]))[0].kind == "dead"


async def test_one_slow_decision_among_many_is_told_by_the_triggers_name() -> None:
    async with Lab(store="memory") as lab:

        class Sleepy(Saga):
            @trigger(source="recording", data=[{"n": n} for n in range(50)])
            def on_event(self, event: Event) -> None:
                if event["n"] == 7:
                    time.sleep(0.06)

        await lab.start()
        await lab.drain()
        assert [text.split(" took ")[0] for text in lab.status().warnings] == ["trigger Sleepy.on_event"]
