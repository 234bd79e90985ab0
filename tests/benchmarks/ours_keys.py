"""Ours with many live concurrency keys, each with a run that waits behind the only slot."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import psutil

from sagaz_lab import Lab, Saga, SagaContext, TriggerConfig, action, trigger
from tests.benchmarks.feed import Feed


async def measure(n: int, *, keys: bool, path: str) -> float:
    """Resident memory in MB with `n` keys; without `keys` before the first of them came."""
    hold = asyncio.Event()
    async with Lab(store=f"sqlite:///{path}") as lab:
        with lab.activate():

            class Customers(Saga):
                trigger_config = TriggerConfig(queue_size=n)

                @trigger(source=Feed(n if keys else 1, one), concurrency_key="customer", max_concurrent_sagas=1)
                def on_order(self, event: Any) -> dict[str, Any]:
                    return {"n": event["n"]}

                @action("serve")
                async def serve(self, ctx: SagaContext) -> None:
                    await hold.wait()

        await lab.start()
        while lab.counters()["Customers.on_order"]["received"] < (n if keys else 1):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        gc.collect()
        resident: int = psutil.Process().memory_info().rss
        hold.set()
        await lab.stop(grace_s=0)
        return resident / 1e6


def one(i: int) -> dict[str, Any]:
    return {"customer": f"customer-{i}", "n": i}
