"""What a Redis source must survive, against a server that the test may kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from sagaz_lab.abc import Delivery, Event, Surroundings
from sagaz_lab.errors import DefinitionError, SourceNotReady, SourceUnavailable, StaleDelivery
from sagaz_lab.model.trigger import source_spec
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources import open_source
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.testing.clock import VirtualClock
from sagaz_lab.testing.sources import MemoryPositions, nothing_comes, take
from tests.services.proxy import Proxy
from tests.services.redis import RedisServer, running_redis
from tests.unit.test_store_outage import Away
from tests.unit.tools import until

STREAM = "orders"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


@pytest.fixture
def here() -> Surroundings:
    return Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="lab-1")


def add(server: RedisServer, *numbers: int) -> None:
    with server.client() as client:
        for number in numbers:
            client.xadd(STREAM, {"payload": json.dumps({"n": number})})


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [json.loads(delivery.event.payload)["n"] for delivery in deliveries]


def pending(server: RedisServer) -> int:
    with server.client() as client:
        count: int = client.xpending(STREAM, "lab-1")["pending"]
        return count


def rows(server: RedisServer) -> list[dict[str, Any]]:
    """What is pending, in order."""
    with server.client() as client:
        found: list[dict[str, Any]] = client.xpending_range(STREAM, "lab-1", "-", "+", 100)
        return found


async def until_unavailable(source: RedisSource) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                await source.receive(10)
            except SourceUnavailable:
                return


async def test_a_killed_server_loses_nothing(server: RedisServer, here: Surroundings) -> None:
    source = RedisSource(surroundings=here, stream=STREAM, url=server.url)
    async with source:
        add(server, 0, 1, 2, 3)
        settled, *unsettled = await take(source, 4)
        await source.settle([settled], ())
        server.kill()
        await until_unavailable(source)
        with pytest.raises(SourceUnavailable):
            await source.settle(unsettled, ())
    server.start()
    add(server, 4)
    async with source:
        again = await take(source, 4)
    assert numbers(again) == [1, 2, 3, 4]
    assert [delivery.event.attempt > 1 for delivery in again] == [True, True, True, False]


async def test_a_reset_connection_loses_nothing(server: RedisServer, here: Surroundings) -> None:
    async with Proxy(server.port) as proxy:
        source = RedisSource(surroundings=here, stream=STREAM, url=f"redis://127.0.0.1:{proxy.port}")
        seen: set[int] = set()
        for turn in range(10):
            add(server, turn)
            async with source:
                deliveries = await take(source, 1)
                if turn % 2:
                    await source.settle(deliveries, ())
                seen |= set(numbers(deliveries))
                proxy.reset()
                await until_unavailable(source)
        async with source:
            while seen != set(range(10)):
                seen |= set(numbers(await take(source, 1)))


async def test_a_reader_that_somebody_cancels_is_noticed(server: RedisServer, here: Surroundings) -> None:
    async with asyncio.timeout(5), RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        assert await nothing_comes(source)
        (reader,) = [task for task in asyncio.all_tasks() if task.get_name() == source.name]
        reader.cancel()
        with pytest.raises(SourceUnavailable, match="cancelled from outside"):
            await source.receive(10)


async def test_a_silent_server_is_noticed(
    server: RedisServer, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("redis.BLOCK_S", 0.2), ("redis_group.BLOCK_S", 0.2), ("redis_group.ANSWER_S", 0.3)):
        monkeypatch.setattr(f"sagaz_lab.sources.{name}", value)
    async with Proxy(server.port) as proxy:
        source = RedisSource(surroundings=here, stream=STREAM, url=f"redis://127.0.0.1:{proxy.port}")
        async with asyncio.timeout(5), source:
            assert await nothing_comes(source)
            proxy.black_hole()
            await until_unavailable(source)
        proxy.heal()
        add(server, 7)
        async with source:
            assert numbers(await take(source, 1)) == [7]


async def test_waiting_longer_than_the_client_library_allows(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        waiting = asyncio.create_task(take(source, 1))
        await asyncio.sleep(6)  # redis-py 8 gives up after 5 s
        add(server, 1)
        assert numbers(await waiting) == [1]


async def test_no_server_is_unavailable(here: Surroundings) -> None:
    source = RedisSource(surroundings=here, stream=STREAM, url="redis://:geheim@127.0.0.1:1/0")
    with pytest.raises(SourceUnavailable) as caught:
        await source.__aenter__()
    assert "127.0.0.1:1" in str(caught.value)
    assert "geheim" not in str(caught.value)


async def test_trimmed_entries_are_counted_as_lost(server: RedisServer, here: Surroundings) -> None:
    told: list[tuple[int, str]] = []
    here = replace(here, lost=lambda count, why: told.append((count, why)))
    source = RedisSource(surroundings=here, stream=STREAM, url=server.url)
    async with source:
        add(server, 0, 1, 2)
        await take(source, 3)
    with server.client() as client:
        client.xtrim(STREAM, maxlen=1, approximate=False)
    add(server, 3)
    async with source:
        assert numbers(await take(source, 2)) == [2, 3]
    assert source.lost_by_trimming == sum(count for count, _ in told) == 2
    assert "trimmed" in told[0][1]
    assert pending(server) == 2


async def test_after_flushall_nothing_new_is_skipped(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        add(server, 0, 1, 2)
        one, two, three = await take(source, 3)
        server.flush()
        add(server, 3, 4)  # before the group is there again
        assert numbers(await take(source, 2)) == [3, 4]
        with pytest.raises(StaleDelivery):
            await source.settle([one], ())
        await source.settle([one], ())
        await source.nack([two])
        with pytest.raises(StaleDelivery):
            await source.settle([*await take(source, 1), three], ())


async def test_after_flushall_ids_may_begin_anew(server: RedisServer, here: Surroundings) -> None:
    source = RedisSource(surroundings=here, stream=STREAM, url=server.url)
    async with source:
        add(server, 0)
        await source.settle(await take(source, 1), ())
    server.flush()
    with server.client() as client:
        client.xadd(STREAM, {"payload": '{"n": 1}'}, id="5-0")  # an earlier time than all before
    async with source:
        assert numbers(await take(source, 1)) == [1]


async def test_a_lost_group_goes_on_after_what_was_settled(server: RedisServer, here: Surroundings) -> None:
    source = RedisSource(surroundings=here, stream=STREAM, url=server.url)
    async with source:
        add(server, 0, 1, 2, 3)
        first = await take(source, 3)
        await source.settle(first[:2], ())
    with server.client() as client:
        client.xgroup_destroy(STREAM, "lab-1")
    async with source:
        assert numbers(await take(source, 2)) == [2, 3]


async def test_a_group_that_is_lost_while_events_are_in_hand(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        add(server, 0, 1, 2)
        one, two, three = await take(source, 3)
        with server.client() as client:
            client.xgroup_destroy(STREAM, "lab-1")
        add(server, 3)
        assert numbers(await take(source, 1)) == [3]  # what is in hand does not come a second time
        await source.settle([one, three], ())
        await source.nack([two])
        assert numbers(await take(source, 1)) == [1]


async def test_a_group_of_another_making_is_resumed_where_it_is(server: RedisServer) -> None:
    async with RedisSource(surroundings=_surroundings(), stream=STREAM, url=server.url) as source:
        add(server, 0, 1)
        await source.settle(await take(source, 2), ())
    with_no_position = RedisSource(surroundings=_surroundings(), stream=STREAM, url=server.url)
    async with with_no_position:
        with server.client() as client:
            client.xgroup_destroy(STREAM, "lab-1")
        add(server, 2)
        assert numbers(await take(with_no_position, 1)) == [2]


async def test_what_others_left_is_claimed(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url, consumer="gone") as source:
        add(server, *range(150))
        left = await take(source, 120)
    other = RedisSource(surroundings=here, stream=STREAM, url=server.url, consumer="here", claim_idle_ms=200)
    async with other:  # which looks again until they have been idle for so long
        came = await take(other, 150, limit=50)
    assert sorted(numbers(came)) == list(range(150))
    attempts = {delivery.event.id: delivery.event.attempt for delivery in came}
    assert all(attempts[delivery.event.id] == 2 for delivery in left)


async def test_a_claim_leaves_alone_what_is_in_hand(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url, claim_idle_ms=100) as source:
        add(server, 0, 1)
        deliveries = await take(source, 2)
        await source.nack([deliveries[0]], delay_s=60)
        await asyncio.sleep(0.5)
        add(server, 2)
        assert numbers(await take(source, 1)) == [2]


async def test_what_another_settled_is_stale(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        add(server, 0, 1)
        one, two = await take(source, 2)
        with server.client() as client:
            client.xack(STREAM, "lab-1", one.token, two.token)
        with pytest.raises(StaleDelivery):
            await source.settle([one], ())
        with pytest.raises(StaleDelivery):
            await source.nack([two])
        assert await nothing_comes(source)


async def test_what_is_kept_alive_is_claimed_by_nobody(server: RedisServer, here: Surroundings) -> None:
    def reads_as(consumer: str) -> RedisSource:
        return RedisSource(surroundings=here, stream=STREAM, url=server.url, consumer=consumer, claim_idle_ms=1000)

    async with reads_as("a") as source, reads_as("b") as other:
        add(server, 0, 1, 2)
        one, two = await take(source, 2, limit=2)  # the third one is read ahead
        waiting = asyncio.create_task(take(other, 1))
        for _ in range(10):
            await source.keep_alive([one, two])
            await asyncio.sleep(0.25)
        assert not waiting.done()
        assert {row["times_delivered"] for row in rows(server)} == {1}
        waiting.cancel()


async def test_what_another_has_taken_over_is_left_to_it(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url, consumer="a") as source:
        add(server, 0, 1, 2)
        one, two, three = await take(source, 3)
        with server.client() as client:
            client.xclaim(STREAM, "lab-1", "b", 0, [one.token, three.token])
        with pytest.raises(StaleDelivery) as error:
            await source.keep_alive([one, two])
        assert error.value.deliveries == [one]
        with pytest.raises(StaleDelivery):
            await source.nack([two, three])
        assert numbers(await take(source, 1)) == [1]
        assert [row["consumer"] for row in rows(server)] == [b"b", b"a", b"b"]


async def test_an_entry_that_is_trimmed_while_it_is_kept_is_not_lost(server: RedisServer, here: Surroundings) -> None:
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        add(server, 0, 1)
        one, two = await take(source, 2)
        with server.client() as client:
            client.xtrim(STREAM, maxlen=1, approximate=False)
        await source.keep_alive([one, two])
        await source.keep_alive([one, two])
        await source.nack([one])
        assert numbers(await take(source, 1)) == [0]


async def test_a_store_that_is_away_for_a_minute_uses_up_no_attempt(server: RedisServer) -> None:
    """The source keeps the entries, whoever else reads in the group."""
    clock, store, attempts = VirtualClock(), Away(), list[int]()
    lab = Lab(store, clock=clock)
    with lab.activate():

        class Orders(Saga):
            @trigger(source="redis", stream=STREAM, url=server.url, consumer_group="g", consumer="a")
            def on_order(self, event: Event) -> dict[str, Any]:
                return {}

            @action("ship")
            async def ship(self, ctx: SagaContext) -> None:
                assert ctx.event is not None
                attempts.append(ctx.event.attempt)

    await lab.start()
    store.away = True
    add(server, *range(50))
    with server.client() as client:
        await until(lambda: client.exists(STREAM) and client.xpending(STREAM, "g")["pending"] == 50)
        for _ in range(60):
            await clock.advance(1)
            await asyncio.sleep(0.05)
            stolen = client.xautoclaim(STREAM, "g", "b", 1500, count=100, justid=True)
            assert not stolen
        store.away = False
        await clock.advance(2)
        await until(lambda: client.xpending(STREAM, "g")["pending"] == 0)
    assert attempts == [1] * 50
    await lab.stop()


async def test_attempts_are_counted_over_processes(server: RedisServer) -> None:
    positions = MemoryPositions()
    async with RedisSource(surroundings=_surroundings(positions), stream=STREAM, url=server.url) as source:
        add(server, 0)
        for _ in range(3):
            (delivery,) = await take(source, 1)
            await source.nack([delivery])
    async with RedisSource(surroundings=_surroundings(positions), stream=STREAM, url=server.url) as restarted:
        (again,) = await take(restarted, 1)
    assert delivery.event.attempt == 3
    assert again.event.attempt > 3


async def test_latest_skips_what_was_there_before_and_nothing_later(server: RedisServer, here: Surroundings) -> None:
    add(server, 0, 1)
    source = RedisSource(surroundings=here, stream=STREAM, url=server.url, start_from="latest")
    async with source:
        assert await nothing_comes(source)
    with server.client() as client:
        client.xgroup_destroy(STREAM, "lab-1")
    add(server, 2)
    async with source:
        assert numbers(await take(source, 1)) == [2]


@pytest.mark.parametrize(
    ("field", "entry", "payload", "headers"),
    [
        (None, {"payload": "{}", "kind": "a"}, b"{}", {"kind": "a"}),
        (None, {"model": "m1", "score": "0.5"}, {"model": "m1", "score": "0.5"}, {}),
        (None, {"bad": b"\xff"}, {"bad": "\\xff"}, {}),
        ("body", {"body": b"\xff\x00", "payload": "x"}, b"\xff\x00", {"payload": "x"}),
        ("body", {"payload": "x"}, b"", {"payload": "x"}),
    ],
)
async def test_fields_become_payload_and_headers(
    server: RedisServer, here: Surroundings, field: str | None, entry: Any, payload: object, headers: object
) -> None:
    with server.client() as client:
        client.xadd(STREAM, entry, id="1700000000123-4")
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url, field=field) as source:
        event = (await take(source, 1))[0].event
    assert (event.payload, dict(event.headers)) == (payload, headers)
    assert event.id == "orders/1700000000123-4"
    assert event.timestamp == datetime.fromtimestamp(1700000000.123, UTC)


async def test_an_id_that_is_no_time_is_delivered(server: RedisServer, here: Surroundings) -> None:
    with server.client() as client:
        client.xadd(STREAM, {"payload": "{}"}, id=f"{2**64 - 1}-1")
    async with RedisSource(surroundings=here, stream=STREAM, url=server.url) as source:
        assert (await take(source, 1))[0].event.id == f"orders/{2**64 - 1}-1"


async def test_a_key_of_another_type_is_one_clear_error(server: RedisServer, here: Surroundings) -> None:
    with server.client() as client:
        client.set(STREAM, "a text")
    with pytest.raises(SourceNotReady, match="WRONGTYPE"):
        await RedisSource(surroundings=here, stream=STREAM, url=server.url).__aenter__()


async def test_the_address_is_read_at_start(
    server: RedisServer, here: Surroundings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    source = open_source(source_spec("a trigger", "redis", {"stream": STREAM}), here)
    monkeypatch.setenv("REDIS_URL", server.url)
    add(server, 5)
    async with source:
        assert numbers(await take(source, 1)) == [5]


async def test_a_password_is_never_shown(tmp_path: Path, here: Surroundings) -> None:
    with running_redis(tmp_path, password="s3cr:et@x") as server:
        spec = source_spec("a trigger", "redis", {"stream": STREAM, "url": server.url})
        async with open_source(spec, here) as source:
            add(server, 1)
            assert numbers(await take(source, 1)) == [1]
        wrong = source_spec("a trigger", "redis", {"stream": STREAM, "url": server.url.replace("s3cr", "n0t")})
        with pytest.raises(SourceNotReady) as refused:
            await open_source(wrong, here).__aenter__()
    with pytest.raises(DefinitionError) as malformed:
        source_spec("a trigger", "redis", {"stream": STREAM, "url": "reddis://:s3cr:et@x@host"})
    shown = f"{spec!r} {spec} {spec.identity} {source!r} {source.name} {refused.value} {wrong!r} {malformed.value}"
    assert not [secret for secret in ("s3cr", "n0t", "et@x", "et%40x") if secret in shown]


def _surroundings(positions: MemoryPositions | None = None) -> Surroundings:
    return Surroundings(clock=SystemClock(), positions=positions or MemoryPositions(), group="lab-1")
