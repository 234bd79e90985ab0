"""Ours on Redis Streams: entries of 200 bytes, a trigger that filters, a saga of two no-ops."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from redis.asyncio import Redis

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from tests.benchmarks.streams import fill
from tests.benchmarks.workload import first, keeps, kept_of, second


async def measure(n: int, *, url: str, keep_every: int = 10, store: str = "memory") -> float:
    """Entries per second, connecting and reading included, to the end of the last run's last action."""
    async with Redis.from_url(url) as redis:
        stream_name = await fill(redis, n, keep_every)
    finished = asyncio.Event()
    left = kept_of(n, keep_every)

    async with Lab(store=store) as lab:
        with lab.activate():

            class Noop(Saga):
                saga_name = "noop"

                @trigger(source="redis", stream=stream_name, url=url, field="payload", consumer_group="ours")
                def on_entry(self, event: Any) -> dict[str, Any] | None:
                    return {"n": event["n"]} if keeps(event) else None

                @action("first")
                async def do_first(self, ctx: SagaContext) -> None:
                    await first(ctx)

                @action("second", depends_on=("first",))
                async def do_second(self, ctx: SagaContext) -> None:
                    nonlocal left
                    await second(ctx)
                    left -= 1
                    if not left:
                        finished.set()

        start = time.perf_counter()
        await lab.start()
        await finished.wait()
        elapsed_s = time.perf_counter() - start
        await lab.drain()
        return n / elapsed_s
