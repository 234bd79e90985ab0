"""Ours: how long an event of a quiet key takes to its run, beside a key with thousands of runs in its queue."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

from sagaz_lab import Lab, Saga, SagaContext, TriggerConfig, action, trigger

QUEUED = 5000
PAUSE_S = 0.0005


async def measure(n: int, *, hot: bool) -> float:
    """The 99th percentile over `n` quiet keys, in ms."""
    waited_s: list[float] = []

    async with Lab(store="memory") as lab:
        with lab.activate():

            class Customers(Saga):
                trigger_config = TriggerConfig(queue_size=2 * QUEUED)

                @trigger(source="memory", concurrency_key="customer")
                def on_order(self, event: Any) -> dict[str, Any]:
                    return {"customer": event["customer"], "at": event["at"]}

                @action("serve")
                async def serve(self, ctx: SagaContext) -> None:
                    if ctx["customer"] == "hot":
                        await asyncio.sleep(PAUSE_S)
                    else:
                        waited_s.append(time.perf_counter() - ctx["at"])

        if hot:
            for _ in range(QUEUED):
                await lab.fire("Customers.on_order", {"customer": "hot", "at": 0.0}, wait=False)
        for i in range(n):
            order = {"customer": f"quiet-{i}", "at": time.perf_counter()}
            await lab.fire("Customers.on_order", order, wait=False)
            await asyncio.sleep(PAUSE_S)
        await lab.stop(grace_s=0)
    return statistics.quantiles(waited_s, n=100)[98] * 1000
