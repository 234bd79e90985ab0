"""Redis Streams by hand: redis-py with hiredis, a hundred entries a read, one XACK a batch."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec

from redis.asyncio import Redis

from tests.benchmarks.streams import fill
from tests.benchmarks.workload import first, keeps, second

COUNT = 100
GROUP = "raw"
CONSUMER = "bench"


async def measure(n: int, *, url: str, keep_every: int = 10) -> float:
    """Entries per second."""
    if find_spec("hiredis") is None:
        raise RuntimeError("hiredis is not installed: pip install hiredis")
    async with Redis.from_url(url) as redis:
        stream = await fill(redis, n, keep_every)
        await redis.xgroup_create(stream, GROUP, id="0")
        left = n
        start = time.perf_counter()
        while left:
            [(_, entries)] = await redis.xreadgroup(GROUP, CONSUMER, {stream: ">"}, count=COUNT, block=1000)
            for _, fields in entries:
                event = json.loads(fields[b"payload"])
                if keeps(event):
                    await first(event)
                    await second(event)
            await redis.xack(stream, GROUP, *[entry_id for entry_id, _ in entries])
            left -= len(entries)
        return n / (time.perf_counter() - start)
