"""10,000 entries through 100 connection resets and 10 server kills: none lost, none stuck, none out of order."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import redis

from sagaz_lab.abc import Surroundings
from sagaz_lab.errors import SourceUnavailable
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.testing.sources import MemoryPositions
from tests.services.proxy import Proxy
from tests.services.redis import RedisServer, running_redis

EVENTS, RESETS, KILLS = 10_000, 100, 10


async def produce(server: RedisServer, up: asyncio.Event) -> None:
    number = 0
    while number < EVENTS:
        await up.wait()
        try:
            with server.client() as client:
                for _ in range(min(50, EVENTS - number)):
                    client.xadd("s", {"payload": json.dumps({"n": number})}, id=f"{number + 1}-0")
                    number += 1
        except redis.ResponseError:
            number += 1  # it was added before the answer was lost
        except redis.ConnectionError:
            continue  # the same number once more
        await asyncio.sleep(0.03)


async def break_things(server: RedisServer, proxy: Proxy, up: asyncio.Event) -> None:
    plan = [True] * RESETS + [False] * KILLS
    random.Random(1).shuffle(plan)
    for is_reset in plan:
        await asyncio.sleep(0.06)
        if is_reset:
            proxy.reset()
            continue
        up.clear()
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        up.set()


async def consume(port: int, ledger: Counter[int]) -> None:
    """Record and then ack, as the runtime does: an ack may be applied although its answer is lost."""
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="lab-1")
    while len(ledger) < EVENTS:
        try:
            async with RedisSource(surroundings=here, stream="s", url=f"redis://127.0.0.1:{port}") as source:
                while len(ledger) < EVENTS:
                    deliveries = await source.receive(100)
                    ledger.update(json.loads(delivery.event.payload)["n"] for delivery in deliveries)
                    await asyncio.sleep(0.002)
                    await source.settle(deliveries, ())
        except SourceUnavailable:
            await asyncio.sleep(0.02)


async def test_faults_lose_nothing_and_keep_the_order(tmp_path: Path) -> None:
    ledger: Counter[int] = Counter()
    up = asyncio.Event()
    up.set()
    with running_redis(tmp_path) as server:
        async with asyncio.timeout(100), Proxy(server.port) as proxy:
            await asyncio.gather(
                produce(server, up), break_things(server, proxy, up), consume(proxy.port, ledger)
            )  # fmt: skip
    assert len(ledger) == EVENTS
    assert list(ledger) == list(range(EVENTS))  # in the order of their first hand-over
