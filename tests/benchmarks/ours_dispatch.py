"""Ours, without durability: a source, a trigger that filters, a saga of two no-ops, a store in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from tests.benchmarks.feed import Feed
from tests.benchmarks.workload import event, events, first, keeps, kept_of, second

NO_GATES: Mapping[str, Any] = MappingProxyType({})


async def measure(n: int, *, keep_every: int = 10, store: str = "memory") -> float:
    """Events per second, from the first one received to the end of the last run's last action."""
    waiting = events(n, keep_every)
    elapsed_s = await dispatch(Feed(n, waiting.__getitem__), kept_of(n, keep_every), store)
    return n / elapsed_s


async def dispatch(feed: Feed, kept: int, store: str, gates: Mapping[str, Any] = NO_GATES) -> float:
    """Seconds."""
    finished = asyncio.Event()
    left = kept

    async with Lab(store=store) as lab:
        with lab.activate():

            class Noop(Saga):
                saga_name = "noop"

                @trigger(source=feed, **gates)
                def on_event(self, event: Any) -> dict[str, Any] | None:
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
        return elapsed_s


async def measure_made(n: int, *, keep_every: int = 10, store: str = "memory") -> float:
    """As `measure`, each event made when it is taken: nothing of the benchmark's own grows with `n`."""
    return n / await dispatch(Feed(n, lambda i: event(i, n, keep_every)), kept_of(n, keep_every), store)
