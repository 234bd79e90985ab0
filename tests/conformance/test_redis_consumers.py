"""Who reads a stream under which name, and what another finds that a reader has fetched and not settled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, trigger
from sagaz_lab.abc import Surroundings
from sagaz_lab.abc.source import no_lease
from sagaz_lab.errors import LeaseLost
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.testing.sources import MemoryPositions, nothing_comes, take
from tests.services.redis import RedisServer, running_redis
from tests.unit.tools import until

STREAM, GROUP = "orders", "production"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        with server.client() as client:
            client.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
        yield server


def add(server: RedisServer, *numbers: int) -> None:
    with server.client() as client:
        for number in numbers:
            client.xadd(STREAM, {"payload": json.dumps({"n": number})})


def consumers(server: RedisServer) -> set[str]:
    with server.client() as client:
        return {found["name"].decode() for found in client.xinfo_consumers(STREAM, GROUP)}


def lab_at(path: Path, server: RedisServer, *triggers: str) -> Lab:
    """Each trigger reads the stream in the same group."""
    lab = Lab(store=f"sqlite:///{path}")
    with lab.activate():
        for name in triggers:
            _define(name, server.url)
    return lab


def _define(name: str, url: str) -> type[Saga]:
    class Reading(Saga):
        saga_name = name
        trigger_config = TriggerConfig(queue_size=1)

        @trigger(source="redis", stream=STREAM, consumer_group=GROUP, url=url, max_concurrent_sagas=1)
        def on_event(self, event: Any) -> dict[str, Any]:
            return {"n": event["n"]}

        @action("note")
        async def note(self, ctx: Any) -> None: ...

    return Reading


async def names_after_a_start(server: RedisServer, lab: Lab) -> set[str]:
    before = consumers(server)
    async with lab:
        await lab.start()
        await until(lambda: consumers(server) - before)
    return consumers(server) - before


async def test_each_store_is_a_consumer_of_its_own_and_the_same_after_a_restart(
    tmp_path: Path, server: RedisServer
) -> None:
    add(server, 1)
    [one] = await names_after_a_start(server, lab_at(tmp_path / "one.db", server, "a"))
    [two] = await names_after_a_start(server, lab_at(tmp_path / "two.db", server, "a"))
    assert one != two
    add(server, 2)
    async with lab_at(tmp_path / "one.db", server, "a") as again:
        await again.start()
        await until(lambda: again.counters()["a.on_event"]["received"] == 1)
    assert consumers(server) == {one, two}


async def test_two_owners_on_one_store_are_two_consumers(tmp_path: Path, server: RedisServer) -> None:
    add(server, 1)
    async with lab_at(tmp_path / "lab.db", server, "a") as first:
        await first.start()
        await until(lambda: len(consumers(server)) == 1)
        async with lab_at(tmp_path / "lab.db", server, "b") as second:
            await second.start()
            await until(lambda: len(consumers(server)) == 2)


async def test_the_order_in_which_triggers_are_defined_does_not_change_the_name(
    tmp_path: Path, server: RedisServer
) -> None:
    add(server, 1)
    [name] = await names_after_a_start(server, lab_at(tmp_path / "lab.db", server, "a", "b"))
    add(server, 2)
    async with lab_at(tmp_path / "lab.db", server, "b", "a") as again:
        await again.start()
        await until(lambda: again.counters()["a.on_event"]["received"] == 1)
    assert consumers(server) == {name}


async def test_whoever_takes_over_gets_at_once_and_in_order_what_the_stale_reader_had_fetched(
    server: RedisServer,
) -> None:
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group=GROUP, consumer="lab-1/a")
    add(server, *range(5))
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as stale:
        await take(stale, 2)
        add(server, 5)
        async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as taken_over:
            found = await take(taken_over, 6)
    assert [json.loads(delivery.event.payload)["n"] for delivery in found] == list(range(6))


async def test_whoever_takes_over_under_another_name_gets_it_too(server: RedisServer) -> None:
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group=GROUP, consumer="lab-1/a")
    add(server, *range(2500))
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url, consumer="w1") as stale:
        await take(stale, 2000)
        async with RedisSource(surroundings=here, stream=STREAM, url=server.url, consumer="w2") as taken_over:
            found = await take(taken_over, 2500)
    assert [json.loads(delivery.event.payload)["n"] for delivery in found] == list(range(2500))


async def test_a_name_of_ones_own_is_not_taken_over_by_another_store(server: RedisServer) -> None:
    one = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group=GROUP, consumer="lab-1/a")
    two = replace(one, positions=MemoryPositions(), consumer="lab-2/a")
    add(server, 1)
    async with RedisSource(surroundings=one, stream=STREAM, url=server.url, consumer="w1") as first:
        await take(first, 1)
        async with RedisSource(surroundings=two, stream=STREAM, url=server.url, consumer="w2") as second:
            assert await nothing_comes(second)


async def test_a_reader_that_lost_its_lease_fetches_nothing_more_and_says_why(server: RedisServer) -> None:
    lost: list[LeaseLost] = []

    async def lease() -> None:
        if lost:
            raise lost[0]

    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group=GROUP, consumer="lab-1/a", lease=lease)
    add(server, 1)
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as stale:
        await take(stale, 1)
        lost.append(LeaseLost("taken over"))
        with pytest.raises(LeaseLost):
            await stale.receive(1)
        add(server, 2)
        async with RedisSource(
            surroundings=replace(here, consumer="lab-2/a", lease=no_lease), stream=STREAM, url=server.url
        ) as other:
            [delivery] = await take(other, 1)
            assert await nothing_comes(other)
    assert json.loads(delivery.event.payload) == {"n": 2}
