"""A publication that its broker refuses holds up its own run alone, and becomes a dead letter."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_lab import Lab, OutcomeKind, Saga, SagaContext, TriggerConfig, action, trigger
from sagaz_lab.abc import Event, Publication
from sagaz_lab.cli import main
from sagaz_lab.errors import SourceUnavailable
from sagaz_lab.sources import PUBLISHERS
from sagaz_lab.testing.clock import VirtualClock

TRIES = 5


class Broker:
    """What it has taken, and the topics that it refuses."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, Any]] = []
        self.refuses: set[str] = set()
        self.asked: list[str] = []
        self.raises = False
        self.down = False


class Publisher:
    broker = Broker()

    def __init__(self, settings: Any) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        broker = self.broker
        if broker.down:
            raise SourceUnavailable("it is down")
        refused: dict[str, Exception] = {}
        stopped: set[str] = set()
        for it in publications:
            broker.asked.append(it.topic)
            if it.order in stopped:
                continue
            if it.topic in broker.refuses:
                if broker.raises:
                    raise ValueError(f"no topic {it.topic}")
                refused[it.id] = ValueError(f"no topic {it.topic}")
                stopped.add(it.order)
            else:
                broker.taken.append((it.topic, json.loads(it.payload)))
        return refused


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    monkeypatch.setitem(PUBLISHERS, "redis", f"{__name__}:Publisher")
    Publisher.broker = Broker()
    return Publisher.broker


def define(**config: Any) -> None:
    class Ship(Saga):
        saga_name = "ship"
        trigger_config = TriggerConfig(**config)

        @trigger(source="redis", stream="in")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {"publishes": event["publishes"]}

        @action()
        async def work(self, ctx: SagaContext) -> None:
            for topic, value in ctx["publishes"]:
                await ctx.publish(topic, value)


async def start(lab: Lab) -> None:
    """Without a source of the broker."""

    class Other(Saga):
        saga_name = "other"

        @trigger(source="memory", topic="other")
        def on_event(self, event: Event) -> None: ...

        @action()
        async def work(self, ctx: SagaContext) -> None: ...

    await lab.start("other")


async def ship(lab: Lab, *publishes: tuple[str, Any]) -> None:
    await lab.fire("ship.on_event", {"publishes": publishes})
    await lab.drain()


async def give_up(clock: VirtualClock) -> None:
    """Let the relay try until it gives up."""
    for _ in range(18):
        await clock.advance(0.5)


async def until_dead(lab: Lab, clock: VirtualClock) -> None:
    """The same where the store's threads take part."""
    async with asyncio.timeout(20):
        while not len(lab.dead_letters()):
            await clock.advance(0.5)
            await asyncio.sleep(0.001)


async def test_others_go_on_and_what_the_run_published_later_waits(
    timed_lab: Lab, clock: VirtualClock, broker: Broker
) -> None:
    define(queue_size=3)
    broker.refuses = {"bad"}
    await ship(timed_lab, ("good", 1), ("bad", 2), ("good", 3))
    for n in range(10, 20):
        await ship(timed_lab, ("good", n))
    await give_up(clock)
    assert broker.taken == [("good", 1), *(("good", n) for n in range(10, 20))]
    assert broker.asked.count("bad") == TRIES
    [letter] = timed_lab.dead_letters().to_dict("records")
    assert letter["cause"] == "redis refuses publications to 'bad'"
    assert letter["error"] == "publication to 'bad': ValueError: no topic bad"
    assert timed_lab.counters()["ship.on_event"]["dead"] == 0


@pytest.mark.parametrize(
    "value", ["substr(payload, 1, length(payload) - 1)", "x'fffe00'", "''", "CAST(payload AS TEXT)"]
)
async def test_one_whose_payload_is_damaged_is_not_sent_until_it_is_fixed(
    value: str, clock: VirtualClock, broker: Broker, tmp_path: Path
) -> None:
    broker.down = True
    async with Lab(f"sqlite:///{tmp_path}/lab.db", clock=clock) as lab:
        define()
        await ship(lab, ("first", [1]), ("second", [2]), ("third", [3]))
        await ship(lab, ("other", [4]))
        await lab.stop(grace_s=0)
    with closing(sqlite3.connect(tmp_path / "lab.db")) as connection, connection:
        connection.execute(f"UPDATE publications SET payload = {value} WHERE topic = 'second'")
    broker.down = False
    async with Lab(f"sqlite:///{tmp_path}/lab.db", clock=clock) as lab:
        define()
        await start(lab)
        await lab.drain()
        if "CAST" not in value:  # a text that can be read is as good
            assert sorted(broker.taken) == [("first", [1]), ("other", [4])]
            [letter] = lab.dead_letters().to_dict("records")
            assert letter["cause"] == "publications to 'second' are damaged"
            await lab.redrive(letter["id"], fix=lambda text: [2])
            await lab.drain()
        ours = [each for each in broker.taken if each[0] != "other"]
        assert ours == [("first", [1]), ("second", [2]), ("third", [3])]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_redriven_one_goes_before_what_waits_behind_it(
    store: str, clock: VirtualClock, broker: Broker, tmp_path: Path
) -> None:
    address = "memory" if store == "memory" else f"sqlite:///{tmp_path}/lab.db"
    broker.refuses = {"bad"}
    async with Lab(address, clock=clock) as lab:
        define()
        await ship(lab, ("bad", 1), ("good", 2), ("bad", 3))
        await until_dead(lab, clock)
        broker.refuses = set()
        [outcome] = await lab.redrive(list(lab.dead_letters()["id"]))
        assert (outcome.kind, outcome.reason) == (OutcomeKind.WAITING, "in the outbox")
        await lab.drain()
        assert broker.taken == [("bad", 1), ("good", 2), ("bad", 3)]
        assert len(lab.dead_letters()) == 0


async def test_a_discarded_one_lets_the_rest_go(timed_lab: Lab, clock: VirtualClock, broker: Broker) -> None:
    define()
    broker.refuses = {"bad"}
    await ship(timed_lab, ("bad", 1), ("good", 2))
    await give_up(clock)
    assert await timed_lab.discard(list(timed_lab.dead_letters()["id"]), "a misspelt topic") == 1
    await timed_lab.drain()
    assert broker.taken == [("good", 2)]


async def test_a_fix_changes_what_is_sent(timed_lab: Lab, clock: VirtualClock, broker: Broker) -> None:
    define()
    broker.refuses = {"bad"}
    await ship(timed_lab, ("bad", {"n": 1}))
    await give_up(clock)
    broker.refuses = set()
    await timed_lab.redrive(list(timed_lab.dead_letters()["id"]), fix=lambda payload: {**payload, "fixed": True})
    await timed_lab.drain()
    assert broker.taken == [("bad", {"n": 1, "fixed": True})]


async def test_the_next_process_keeps_what_waits_behind_a_letter(
    clock: VirtualClock, broker: Broker, tmp_path: Path
) -> None:
    broker.refuses = {"bad"}
    for _ in range(2):
        async with Lab(f"sqlite:///{tmp_path}/lab.db", clock=clock) as lab:
            define()
            if not len(lab.runs()):
                await ship(lab, ("bad", 1), ("good", 2))
                await until_dead(lab, clock)
            await lab.drain()
            assert broker.taken == []
    async with Lab(f"sqlite:///{tmp_path}/lab.db", clock=clock) as lab:
        define()
        broker.refuses = set()
        await lab.redrive(list(lab.dead_letters()["id"]))
        await lab.drain()
    assert broker.taken == [("bad", 1), ("good", 2)]


async def test_what_a_publisher_raises_for_one_concerns_that_one(
    timed_lab: Lab, clock: VirtualClock, broker: Broker
) -> None:
    define()
    broker.refuses, broker.raises = {"bad"}, True
    broker.down = True
    await ship(timed_lab, ("bad", 1))
    await ship(timed_lab, ("good", 2))
    broker.down = False
    for _ in range(10):
        await clock.advance(40)
    assert broker.taken == [("good", 2)]
    assert len(timed_lab.dead_letters()) == 1


async def test_a_broker_that_is_down_is_no_refusal(timed_lab: Lab, clock: VirtualClock, broker: Broker) -> None:
    define()
    broker.down = True
    await ship(timed_lab, ("good", 1))
    for _ in range(20):
        await clock.advance(40)
    assert len(timed_lab.dead_letters()) == 0
    broker.down = False
    await clock.advance(40)
    await timed_lab.drain()
    assert broker.taken == [("good", 1)]


async def test_a_letter_is_published_to_its_topic_and_that_one_is_not_told_of_for_ever(
    timed_lab: Lab, clock: VirtualClock, broker: Broker
) -> None:
    define(dead_letter_topic="dead")
    broker.refuses = {"bad"}
    await ship(timed_lab, ("bad", 1))
    await give_up(clock)
    [(topic, body)] = broker.taken
    assert (topic, body["payload"], body["run_id"]) == ("dead", 1, timed_lab.runs()["run_id"][0])
    broker.refuses = {"bad", "dead"}
    await ship(timed_lab, ("bad", 2))
    for _ in range(10):
        await give_up(clock)
    assert sorted(timed_lab.dead_letters()["cause"]) == [
        "redis refuses publications to 'bad'",
        "redis refuses publications to 'bad'",
        "redis refuses publications to 'dead'",
    ]


MODULE = """
from sagaz_lab import Saga, action, trigger

class Ship(Saga):
    saga_name = "ship"

    @trigger(source="redis", stream="in")
    def on_event(self, event): ...

    @action()
    async def work(self, ctx): ...
"""


def test_the_command_line_puts_it_back_and_it_goes_to_its_broker(broker: Broker, tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    broker.refuses = {"bad"}

    async def fail() -> None:
        clock = VirtualClock()
        async with Lab(address, clock=clock) as lab:
            define()
            await ship(lab, ("bad", 1), ("good", 2))
            await until_dead(lab, clock)

    asyncio.run(fail())
    broker.refuses = set()
    (tmp_path / "shipping.py").write_text(MODULE)
    assert main(["redrive", str(tmp_path / "shipping.py"), "--all", "--store", address]) == 0
    assert broker.taken == [("bad", 1), ("good", 2)]


@settings(max_examples=20, deadline=None)
@given(
    runs=st.lists(st.lists(st.sampled_from(["good", "bad", "worse"]), min_size=1, max_size=5), max_size=6),
    refused=st.sets(st.sampled_from(["bad", "worse"])),
    discards=st.booleans(),
)
def test_each_run_keeps_its_order_whatever_is_refused(runs: list[list[str]], refused: set[str], discards: bool) -> None:
    async def story() -> list[tuple[str, Any]]:
        clock = VirtualClock()
        broker = Publisher.broker = Broker()
        broker.refuses = set(refused)
        async with Lab("memory", clock=clock) as lab:
            define()
            for run, topics in enumerate(runs):
                await ship(lab, *((topic, [run, n]) for n, topic in enumerate(topics)))
            await give_up(clock)
            broker.refuses = set() if not discards else broker.refuses
            while ids := list(lab.dead_letters()["id"]):
                await (lab.discard(ids, "refused") if discards else lab.redrive(ids))
                await lab.drain()
                await give_up(clock)
        return broker.taken

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PUBLISHERS, "redis", f"{__name__}:Publisher")
        taken = asyncio.run(story())
    for run, topics in enumerate(runs):
        left = [n for n, topic in enumerate(topics) if not (discards and topic in refused)]
        assert [n for _, (of, n) in taken if of == run] == left
