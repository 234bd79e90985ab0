"""What a run publishes: kept with what it came with, published by the relay, at least once and in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import numpy as np
import pytest

from sagaz_lab import (
    Lab,
    OutboxSagaListener,
    Permanent,
    Saga,
    SagaContext,
    TriggerConfig,
    action,
    compensate,
    forward_recovery,
    trigger,
)
from sagaz_lab.abc import DeadLetter, Event, Publication
from sagaz_lab.errors import DefinitionError, RunError, SourceUnavailable, UnstorableValue
from sagaz_lab.model.publishing import to_json
from sagaz_lab.runtime.outbox.publications import publication_of
from sagaz_lab.sources import PUBLISHERS
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import counted, until


class Broken(Exception):
    """An action's own error."""


def listen(topic: str, name: str = "ear") -> list[Event]:
    """A saga that hears this topic of the process; returns what it has heard."""
    heard: list[Event] = []

    class Ear(Saga):
        saga_name = name

        @trigger(source="memory", topic=topic)
        def on_event(self, event: Event) -> None:
            heard.append(event)

    return heard


def waiting(lab: Lab) -> list[str]:
    """The ids of what the store has yet to publish, oldest first."""
    columns, rows = lab.store.rows("publications", None)
    return [row[list(columns).index("id")] for row in rows][::-1]


# --- ctx.publish ---


async def test_what_an_action_publishes_reaches_who_listens(each_lab: Lab) -> None:
    heard = listen("trained")

    class Train(Saga):
        @action()
        async def fit(self, ctx: SagaContext) -> None:
            await ctx.publish("trained", {"model": "m1"})

        @action(depends_on=["fit"])
        def report(self, ctx: SagaContext) -> None:
            ctx.publish("trained", {"report": 1})
            ctx.publish("trained", {"report": 2})

    ctx = await Train().run({})
    await each_lab.drain()
    assert [event.payload for event in heard] == [{"model": "m1"}, {"report": 1}, {"report": 2}]
    ids = [f"{ctx.run_id}/1/fit/1", f"{ctx.run_id}/1/report/1", f"{ctx.run_id}/1/report/2"]
    assert [event.id for event in heard] == ids
    assert heard[0].headers == {"sagaz-id": ids[0], "sagaz-run": ctx.run_id}
    assert waiting(each_lab) == []


async def test_it_is_published_when_the_action_has_succeeded_not_when_the_run_has(each_lab: Lab) -> None:
    heard = listen("begun")
    go_on = asyncio.Event()

    class Slow(Saga):
        @action()
        async def first(self, ctx: SagaContext) -> None:
            await ctx.publish("begun", 1)
            await asyncio.sleep(0)
            assert not heard

        @action(depends_on=["first"])
        async def second(self, ctx: SagaContext) -> None:
            await go_on.wait()

    run = asyncio.create_task(Slow().run({}))
    await until(lambda: heard)
    assert not run.done()
    go_on.set()
    await run


async def test_a_trial_that_fails_publishes_nothing(each_lab: Lab) -> None:
    heard, trials = listen("tried"), []

    class Stubborn(Saga):
        @action(max_retries=2, retry_backoff_s=(0.0,))
        def work(self, ctx: SagaContext) -> None:
            trials.append(1)
            for n in range(len(trials)):
                ctx.publish("tried", {"trial": len(trials), "n": n})
            if len(trials) < 3:
                raise Broken

        @action(depends_on=["work"])
        async def fail(self, ctx: SagaContext) -> None:
            await ctx.publish("tried", "never")
            raise Broken

    with pytest.raises(Broken):
        await Stubborn().run({}, run_id="r")
    await each_lab.drain()
    assert [event.payload for event in heard] == [{"trial": 3, "n": n} for n in range(3)]
    assert [event.id for event in heard] == ["r/1/work/1", "r/1/work/2", "r/1/work/3"]


async def test_a_compensation_publishes_too(each_lab: Lab) -> None:
    heard, trials = listen("undone"), []

    class Undone(Saga):
        @action("pay")
        async def pay(self, ctx: SagaContext) -> None: ...

        @compensate("pay", max_retries=1)
        async def refund(self, ctx: SagaContext) -> None:
            trials.append(1)
            await ctx.publish("undone", {"trial": len(trials)})
            if len(trials) == 1:
                raise Broken

        @action("ship", depends_on=["pay"])
        async def ship(self, ctx: SagaContext) -> None:
            raise Broken

    with pytest.raises(Broken):
        await Undone().run({}, run_id="r")
    await each_lab.drain()
    assert [(event.id, event.payload) for event in heard] == [("r/1/pay/compensation/1", {"trial": 2})]


async def test_a_stream_and_actions_side_by_side_publish_theirs(each_lab: Lab) -> None:
    heard = listen("parts")

    class Streaming(Saga):
        @action()
        async def rows(self, ctx: SagaContext) -> Any:
            for n in range(3):
                await ctx.publish("parts", f"row {n}")
                yield n

        @action(depends_on=["rows"])
        async def total(self, ctx: SagaContext) -> None:
            async for _ in ctx.stream("rows"):
                pass
            await ctx.publish("parts", "total")

        @action()
        def beside(self, ctx: SagaContext) -> None:
            ctx.publish("parts", "beside")

    await Streaming().run({})
    await each_lab.drain()
    assert sorted(event.payload for event in heard) == ["beside", "row 0", "row 1", "row 2", "total"]


async def test_only_a_running_action_or_compensation_can_publish(lab: Lab) -> None:
    late: list[asyncio.Task[Any]] = []
    refused, shipping = [], asyncio.Event()

    class Late(Saga):
        @action("pay", pivot=True)
        async def pay(self, ctx: SagaContext) -> None:
            async def afterwards() -> None:
                await shipping.wait()
                await ctx.publish("late", 1)

            late.append(asyncio.create_task(afterwards()))

        @action("ship", depends_on=["pay"])
        async def ship(self, ctx: SagaContext) -> None:
            shipping.set()
            raise Broken

        @forward_recovery("ship")
        async def recover(self, ctx: SagaContext, error: Exception) -> str:
            try:
                ctx.publish("late", 1)
            except RunError as error:
                refused.append(error)
            return "skip"

    ctx = await Late().run({})
    with pytest.raises(RunError, match="only a running action or compensation can"):
        await late[0]
    with pytest.raises(RunError, match="only a running action or compensation"):
        ctx.publish("late", 1)
    assert len(refused) == 1


async def test_a_payload_that_is_no_json_is_refused_with_the_topic_and_the_cure(lab: Lab) -> None:
    class Objects(Saga):
        @action()
        async def work(self, ctx: SagaContext) -> None:
            await ctx.publish(ctx["topic"], ctx["payload"])

    for payload in (object(), float("nan"), b"bytes", {(1, 2): 3}, "\ud800"):
        with pytest.raises(UnstorableValue, match=r"work: the value of 'things' .*; publish plain data"):
            await Objects().run({"topic": "things", "payload": payload})
    with pytest.raises(RunError, match=r"topic=''\): the topic must be a name"):
        await Objects().run({"topic": "", "payload": 1})


async def test_an_action_publishes_a_thousand_at_the_most(lab: Lab) -> None:
    class Chatty(Saga):
        @action()
        def work(self, ctx: SagaContext) -> None:
            for n in range(1001):
                ctx.publish("much", n)

    with pytest.raises(RunError, match="publishes more than 1000"):
        await Chatty().run({})
    assert waiting(lab) == []


class Colour(Enum):
    RED = "red"


@dataclass
class Point:
    x: int
    at: date


def test_json_has_words_for_what_people_compute_with() -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    id = UUID("12345678-1234-5678-1234-567812345678")
    value = {"at": at, "id": id, "price": Decimal("1.50"), "path": Path("a/b"), "colour": Colour.RED,
             "point": Point(1, date(2026, 1, 31)), "age": timedelta(minutes=1), "n": np.int64(7), "x": np.float64(0.5),
             "ü": SagaContext({"k": (1, 2)})}  # fmt: skip
    assert json.loads(to_json(value, "here", "topic")) == {
        "at": "2026-01-31T12:00:00+00:00", "id": str(id), "price": "1.50", "path": "a/b", "colour": "red",
        "point": {"x": 1, "at": "2026-01-31"}, "age": 60.0, "n": 7, "x": 0.5, "ü": {"k": [1, 2]},
    }  # fmt: skip


# --- to the process itself ---


async def test_what_nobody_listens_to_is_done_and_counted(each_lab: Lab) -> None:
    class Alone(Saga):
        @action()
        async def work(self, ctx: SagaContext) -> None:
            await ctx.publish("nowhere", 1)

    await Alone().run({})
    await each_lab.drain()
    assert waiting(each_lab) == []
    assert each_lab.status().warnings == []


async def test_one_saga_starts_the_next_and_drain_waits_for_the_last(each_lab: Lab) -> None:
    done = []

    def link(n: int) -> type[Saga]:
        class Link(Saga):
            saga_name = f"link-{n}"

            @trigger(source="memory", topic=f"t{n}")
            def on_event(self, event: Event) -> dict[str, Any]:
                return {"n": event["n"]}

            @action()
            async def work(self, ctx: SagaContext) -> None:
                await asyncio.sleep(0.01)
                done.append(n)
                await ctx.publish(f"t{n + 1}", {"n": ctx["n"] + 1})

        return Link

    links = [link(n) for n in range(5)]
    await each_lab.fire("memory", {"n": 0}, topic="t0")
    await each_lab.drain()
    assert done == list(range(len(links)))
    assert all(counted(each_lab, f"link-{n}.on_event") == {"received": 1, "started": 1} for n in range(5))


async def test_a_paused_trigger_holds_up_its_topic_and_nothing_else(each_lab: Lab) -> None:
    held, other = listen("held", "held"), listen("other", "other")

    class Both(Saga):
        @action()
        async def work(self, ctx: SagaContext) -> None:
            for topic in ctx["topics"]:
                await ctx.publish(topic, f"{ctx.run_id} to {topic}")

    each_lab.pause("held.on_event")
    await Both().run({"topics": ["other", "held", "other"]}, run_id="r1")
    await Both().run({"topics": ["held"]}, run_id="r2")
    await Both().run({"topics": ["other"]}, run_id="r3")
    await each_lab.drain()
    # What a run has published after that goes after that.
    assert [event.payload for event in other] == ["r1 to other", "r3 to other"]
    assert not held
    assert waiting(each_lab) == ["r1/1/work/2", "r1/1/work/3", "r2/1/work/1"]
    each_lab.resume("held.on_event")
    await each_lab.drain()
    await until(lambda: not waiting(each_lab))
    assert [event.payload for event in held] == ["r1 to held", "r2 to held"]
    assert [event.payload for event in other][2:] == ["r1 to other"]


async def test_what_is_offered_twice_starts_one_run(each_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ear(Saga):
        saga_name = "ear"

        @trigger(source="memory", topic="again")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def work(self, ctx: SagaContext) -> None: ...

    class Again(Saga):
        @action()
        async def work(self, ctx: SagaContext) -> None:
            await ctx.publish("again", 1)

    async def forgets(numbers: Sequence[int]) -> None: ...

    with monkeypatch.context() as patch:  # as after a crash between the offer and the note that it was made
        patch.setattr(each_lab.store, "published", forgets)
        await Again().run({})
        await each_lab.drain()
    await each_lab.stop()
    await each_lab.start()
    await each_lab.drain()
    assert waiting(each_lab) == []
    assert counted(each_lab, "ear.on_event") == {"received": 2, "started": 1, "duplicate": 1}


# --- to a broker ---


class Broker(list[str]):
    """A broker that can be down; it has the payloads in the order in which they came."""

    def __init__(self) -> None:
        self.down = False
        self.refuses = ""
        self.calls: list[int] = []
        self.open = 0


BROKERS: dict[str | None, Broker] = {}


class FakePublisher:
    def __init__(self, settings: Any) -> None:
        self._broker = BROKERS[settings["url"]]

    async def __aenter__(self) -> Self:
        self._check()
        self._broker.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._broker.open -= 1

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        self._check()
        self._broker.calls.append(len(publications))
        for publication in publications:
            if publication.topic == self._broker.refuses:
                raise SourceUnavailable(f"no {publication.topic}")
            self._broker.append(publication.payload.decode())
        return {}

    def _check(self) -> None:
        if self._broker.down:
            raise SourceUnavailable("it is down")


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> dict[str | None, Broker]:
    monkeypatch.setitem(PUBLISHERS, "redis", f"{__name__}:FakePublisher")
    BROKERS.clear()
    BROKERS.update({"redis://a": Broker(), "redis://b": Broker()})
    return BROKERS


def publishing(name: str, url: str) -> None:
    class ToBroker(Saga):
        saga_name = name
        trigger_config = TriggerConfig(max_retries=0, dead_letter_topic="dead")

        @trigger(source="redis", stream="in", url=url)
        def on_event(self, event: Event) -> dict[str, Any]:
            return {"n": event["n"], "topic": event.payload.get("topic", "out")}

        @action()
        async def work(self, ctx: SagaContext) -> None:
            if ctx["n"] < 0:
                raise Permanent("a negative number")
            await ctx.publish(ctx["topic"], ctx["n"])


async def test_a_publisher_that_does_not_disconnect_is_reported_and_left(
    each_lab: Lab, brokers: dict[str, Broker], monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = asyncio.Event()

    async def never(*_: object) -> None:
        while not enough.is_set():
            with suppress(asyncio.CancelledError):
                await enough.wait()

    monkeypatch.setattr(FakePublisher, "__aexit__", never)
    monkeypatch.setattr("sagaz_lab.runtime.outbox.relay.CLOSE_S", 0.05)
    publishing("to-a", "redis://a")
    await each_lab.fire("to-a.on_event", {"n": 1})
    await each_lab.drain()
    async with asyncio.timeout(10):
        await each_lab.stop()
    assert "did not disconnect within 0.05 s: redis at redis://a" in str(each_lab.status().warnings)
    enough.set()


async def test_a_broker_that_is_down_is_told_of_once_and_holds_up_no_other(
    timed_lab: Lab, clock: VirtualClock, brokers: dict[str, Broker]
) -> None:
    a, b = brokers["redis://a"], brokers["redis://b"]
    publishing("to-a", "redis://a")
    publishing("to-b", "redis://b")
    told: list[str] = []
    timed_lab.on_report(lambda _, text: told.append(text))
    a.down = True
    for n in range(5):
        await timed_lab.fire("to-a.on_event", {"n": n})
        await timed_lab.fire("to-b.on_event", {"n": n})
        await timed_lab.drain()
        await clock.advance(40)
    assert b == ["0", "1", "2", "3", "4"]
    assert a == []
    assert len(told) == 1
    assert "redis at redis://a waits, 1 publication(s) so far: SourceUnavailable: it is down" in told[0]
    assert len(waiting(timed_lab)) == 5
    a.down = False
    await clock.advance(40)
    await timed_lab.drain()
    assert a == ["0", "1", "2", "3", "4"]
    assert waiting(timed_lab) == []
    await timed_lab.fire("to-a.on_event", {"n": 5})
    await timed_lab.drain()
    assert a[5:] == ["5"]


async def test_more_than_a_batch_goes_in_order_also_behind_a_broker_that_is_down(
    timed_lab: Lab, clock: VirtualClock, brokers: dict[str, Broker]
) -> None:
    a, b = brokers["redis://a"], brokers["redis://b"]
    publishing("to-a", "redis://a")
    publishing("to-b", "redis://b")
    a.down = True
    for n in range(700):
        await timed_lab.fire("to-a.on_event", {"n": n})
    for n in range(700):
        await timed_lab.fire("to-b.on_event", {"n": n})
    await timed_lab.drain()
    assert b == [str(n) for n in range(700)]
    a.down = False
    await clock.advance(40)
    await timed_lab.drain()
    assert a == [str(n) for n in range(700)]


async def test_one_that_the_broker_never_takes_is_tried_alone(
    timed_lab: Lab, clock: VirtualClock, brokers: dict[str, Broker]
) -> None:
    a = brokers["redis://a"]
    publishing("to-a", "redis://a")
    a.refuses = "bad"
    a.down = True
    for n, topic in enumerate(["out", "out", "bad", "out"]):
        await timed_lab.fire("to-a.on_event", {"n": n, "topic": topic})
    await timed_lab.drain()
    a.down = False
    for _ in range(10):
        await clock.advance(40)
    assert a == ["0", "1", "1"]  # the first of the batch that failed twice, however often it is tried
    a.refuses = ""
    await clock.advance(40)
    await timed_lab.drain()
    assert a == ["0", "1", "1", "2", "3"]


async def test_stop_publishes_what_it_can_and_disconnects(tmp_path: Path, brokers: dict[str, Broker]) -> None:
    a, b = brokers["redis://a"], brokers["redis://b"]
    b.down = True
    lab = Lab(f"sqlite:///{tmp_path}/lab.db")
    told: list[str] = []
    lab.on_report(lambda _, text: told.append(text))
    async with lab:
        publishing("to-a", "redis://a")
        publishing("to-b", "redis://b")
        await lab.fire("to-a.on_event", {"n": 1})
        await lab.fire("to-b.on_event", {"n": 2})
    assert (a, a.open) == (["1"], 0)
    assert told[-1] == "1 publication(s) wait in the store; the next start publishes them"
    b.down = False
    async with Lab(f"sqlite:///{tmp_path}/lab.db", sources={"redis": _nothing}) as offline:
        await offline.stop()
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as again:
        again.on_report(lambda _, text: told.append(text))
        await again.start()
        await again.drain()
        assert told[-1] == "what to-b.on_event published waits: define the trigger, which names the destination"
        assert waiting(again) == [next(iter(waiting(again)))]
        publishing("to-b", "redis://b")
        await again.drain()
        assert b == ["2"]
        assert waiting(again) == []


def _nothing(settings: Any, surroundings: Any) -> Any:
    raise AssertionError("it is not started")


async def test_where_no_real_source_is_read_no_real_broker_is_published_to(brokers: dict[str, Broker]) -> None:
    for lab in (Lab("memory", offline=True), Lab("memory", sources={"redis": _nothing})):
        async with lab:
            heard = listen("out")
            publishing("to-a", "redis://a")
            await lab.fire("to-a.on_event", {"n": 1})
            await lab.drain()
            assert [event.payload for event in heard] == [1]
    assert brokers["redis://a"] == []


# --- dead letters ---


async def test_a_run_that_failed_for_good_goes_to_the_dead_letter_topic(lab: Lab, brokers: dict[str, Broker]) -> None:
    publishing("to-a", "redis://a")
    await lab.fire("to-a.on_event", {"n": -1}, id="e1")
    await lab.drain()
    (letter,) = map(json.loads, brokers["redis://a"])
    assert letter["payload"] == {"n": -1}
    assert (letter["event_id"], letter["trigger"], letter["saga"]) == ("e1", "to-a.on_event", "to-a")
    assert (letter["error"], letter["attempts"]) == ("Permanent: a negative number", 1)
    assert letter["id"] == lab.dead_letters()["id"][0]
    assert "Permanent" in letter["traceback"]


def test_a_dead_letter_whose_payload_is_no_json_has_its_text() -> None:
    def letter(payload: Any) -> DeadLetter:
        return DeadLetter(id="d-1", event=Event(payload, "e1"), trigger="s.t", saga="s", cause="c", error="half \ud800",
                          traceback="", attempts=1, revision=1, at=0.0)  # fmt: skip

    for payload, told in [(b"\xffnot JSON", "\\xffnot JSON"), ({"a": {1, 2}}, {"a": [1, 2]}), (1 + 2j, "(1+2j)")]:
        publication = publication_of(letter(payload), "dead")
        body = json.loads(publication.payload)
        assert (body["payload"], body["error"], body["at"]) == (told, "half \\ud800", "1970-01-01T00:00:00+00:00")
        assert (publication.id, publication.trigger, publication.run_id) == ("d-1", "s.t", "")


async def test_an_event_that_cannot_be_decided_goes_there_too(lab: Lab, brokers: dict[str, Broker]) -> None:
    publishing("to-a", "redis://a")
    await lab.fire("to-a.on_event", {"no": "number"}, id="e1")
    await until(lambda: brokers["redis://a"])
    (letter,) = map(json.loads, brokers["redis://a"])
    assert (letter["payload"], letter["event_id"], letter["run_id"]) == ({"no": "number"}, "e1", None)
    assert letter["error"].startswith("KeyError")


@pytest.fixture
def no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """With it the relay looks by itself."""
    monkeypatch.setattr("sagaz_lab.runtime.heartbeat.HEARTBEAT_S", 3600.0)


async def test_a_waiting_event_that_a_new_revision_cannot_decide_goes_there_at_once(
    no_heartbeat: None, lab: Lab
) -> None:
    letters: list[Any] = []
    end = asyncio.Event()

    class Letters(Saga):
        @trigger(source="memory", topic="letters")
        def on_letter(self, event):
            letters.append(event)

        @action()
        async def nothing(self, ctx): ...

    def define(fails: bool) -> None:
        class Strict(Saga):
            trigger_config = TriggerConfig(dead_letter_topic="letters")

            @trigger(source="memory", topic="strict", max_concurrent_sagas=1)
            def on_event(self, event):
                if fails:
                    raise ValueError("not any more")
                return {}

            @action()
            async def wait(self, ctx):
                await end.wait()

    define(fails=False)
    for _ in range(2):
        await lab.fire("Strict.on_event", {}, wait=False)
    define(fails=True)
    end.set()
    await until(lambda: letters)


async def test_a_dead_letter_target_that_is_down_stops_intake(
    timed_lab: Lab, clock: VirtualClock, brokers: dict[str, Broker]
) -> None:
    class Strict(Saga):
        trigger_config = TriggerConfig(dead_letter_topic="dead", queue_size=3)

        @trigger(source="redis", stream="in", url="redis://a")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {"n": event["n"]}

        @action()
        async def work(self, ctx: SagaContext) -> None: ...

    brokers["redis://a"].down = True
    for n in range(3):
        (outcome,) = await timed_lab.fire("Strict.on_event", {"odd": n}, id=f"e{n}")
        assert outcome.kind == "dead"
    await until(lambda: len(waiting(timed_lab)) == 3 and clock.sleepers)
    await clock.advance(60)
    fourth = asyncio.create_task(timed_lab.fire("Strict.on_event", {"n": 4}))
    await clock.advance(60)
    assert not fourth.done()
    assert any("takes no more events" in text for text in timed_lab.status().warnings)
    brokers["redis://a"].down = False
    await clock.advance(60)
    assert (await fourth)[0].kind == "started"
    assert [json.loads(body)["event_id"] for body in brokers["redis://a"]] == ["e0", "e1", "e2"]
    assert len(timed_lab.dead_letters()) == 3


# --- the listener ---


def told_of(heard: list[Event]) -> list[tuple[str, str | None]]:
    return [(event["type"], event["action"]) for event in heard]


async def test_the_outbox_listener_publishes_the_steps_and_the_end_of_a_run(each_lab: Lab) -> None:
    heard = listen("ok.events")

    class Good(Saga):
        saga_name = "ok"
        listeners = [OutboxSagaListener()]

        @trigger(source="memory", topic="in")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def one(self, ctx: SagaContext) -> None:
            await ctx.publish("ok.events", {"type": "mine", "action": "one"})

        @action(depends_on=["one"])
        def two(self, ctx: SagaContext) -> None: ...

    (outcome,) = await each_lab.fire("ok.on_event", None, id="e1")
    await each_lab.drain()
    steps = [("mine", "one"), ("action_finished", "one"), ("action_finished", "two"), ("run_completed", None)]
    assert told_of(heard) == steps
    last = heard[-1].payload
    assert (last["saga"], last["run_id"], last["revision"], last["attempt"]) == ("ok", outcome.run_id, 1, 1)
    assert (last["event_id"], last["error"], last["retry_at"]) == ("e1", None, None)
    assert datetime.fromisoformat(last["at"]).tzinfo is not None
    assert len({event.id for event in heard}) == 4


async def test_it_tells_of_a_failure_for_good_and_of_what_was_undone(each_lab: Lab) -> None:
    heard = listen("bad.events")

    class Bad(Saga):
        saga_name = "bad"
        listeners = [OutboxSagaListener()]

        @action("pay")
        async def pay(self, ctx: SagaContext) -> None: ...

        @compensate("pay", max_retries=1)
        async def refund(self, ctx: SagaContext) -> None:
            if ctx.get("stuck"):
                raise Broken

        @action("ship", depends_on=["pay"], max_retries=1, retry_backoff_s=(0.0,))
        async def ship(self, ctx: SagaContext) -> None:
            raise Broken("no ship")

    with pytest.raises(Broken):
        await Bad().run({})
    await each_lab.drain()
    assert told_of(heard) == [
        ("action_finished", "pay"), ("action_failed", "ship"), ("compensation_finished", "pay"),
        ("run_compensated", None),
    ]  # fmt: skip
    assert heard[1]["error"] == heard[3]["error"] == "Broken: no ship"
    heard.clear()
    with pytest.raises(RunError):
        await Bad().run({"stuck": True})
    await each_lab.drain()
    assert told_of(heard)[2:] == [("compensation_failed", "pay"), ("run_compensation_failed", None)]


async def test_without_step_events_it_tells_of_the_end_only_with_the_time_of_the_next_attempt(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    heard = listen("ends.events")

    class Ends(Saga):
        saga_name = "ends"
        listeners = [OutboxSagaListener(publish_step_events=False)]
        trigger_config = TriggerConfig(max_retries=1, retry_backoff_seconds=[60])

        @trigger(source="memory", topic="in")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def work(self, ctx: SagaContext) -> None:
            raise Broken

    await timed_lab.fire("ends.on_event", None)
    await timed_lab.drain()
    await clock.advance(61)
    await timed_lab.drain()
    assert [(event["type"], event["attempt"]) for event in heard] == [("run_compensated", 1), ("run_compensated", 2)]
    first, last = heard
    assert datetime.fromisoformat(first["retry_at"]) - datetime.fromisoformat(first["at"]) == timedelta(seconds=60)
    assert last["retry_at"] is None


async def test_a_listener_with_another_store_is_refused_where_the_saga_is_used() -> None:
    own = MemoryStore()
    async with Lab(own) as lab:

        class Other(Saga):
            saga_name = "other"
            listeners = [OutboxSagaListener(MemoryStore())]

            @trigger(source="memory", topic="in")
            def on_event(self, event: Event) -> dict[str, Any]:
                return {}

            @action()
            async def work(self, ctx: SagaContext) -> None: ...

        for use in (
            lambda: Other().run({}),
            lab.start,
            lambda: lab.fire("other.on_event", None),
        ):
            with pytest.raises(DefinitionError, match=r"other: OutboxSagaListener\(storage=.*remove storage="):
                await use()

        class Own(Saga):
            listeners = [OutboxSagaListener(own)]

            @action()
            async def work(self, ctx: SagaContext) -> None: ...

        await Own().run({})
