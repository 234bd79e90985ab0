"""sagaz 1.5.0, used as its own docs do: `@trigger` on a saga's method, `fire_event` for each event.

Its listeners (logging, metrics) are off and its store is the one in memory, which is its fastest set-up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from sagaz import Saga, SagaConfig, action, configure
from sagaz.core.triggers import fire_event, trigger

from tests.benchmarks.workload import events, first, keeps, second

AT_A_TIME = 100


class Noop(Saga):
    saga_name = "noop"

    @trigger(source="bench")
    def on_event(self, event: dict[str, Any]) -> dict[str, Any] | None:
        return {"n": event["n"]} if keeps(event) else None

    @action("first")
    async def do_first(self, ctx: Any) -> None:
        await first(ctx)

    @action("second", depends_on=["first"])
    async def do_second(self, ctx: Any) -> None:
        await second(ctx)


async def measure(n: int, *, keep_every: int = 10) -> float:
    """Events per second."""
    logging.disable(logging.WARNING)
    configure(SagaConfig(metrics=False, logging=False))
    waiting = events(n, keep_every)
    start = time.perf_counter()
    # `fire_event` returns before its saga has run, and sagaz sets no bound: here it is the hand loop's.
    for begin in range(0, n, AT_A_TIME):
        for event in waiting[begin : begin + AT_A_TIME]:
            await fire_event("bench", event)
        if running := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(running)
    return n / (time.perf_counter() - start)
