"""Dispatch by hand: a bounded queue, a filter, a semaphore and a task for each kept event.

No time-outs, no journal, no context of its own, no retries.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.benchmarks.workload import events, first, keeps, second

QUEUE_SIZE = 1000
AT_A_TIME = 100


async def measure(n: int, *, keep_every: int = 10) -> float:
    """Events per second."""
    waiting = events(n, keep_every)
    start = time.perf_counter()
    await dispatch(waiting)
    return n / (time.perf_counter() - start)


async def dispatch(waiting: list[dict[str, Any]]) -> None:
    queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(QUEUE_SIZE)
    permits = asyncio.Semaphore(AT_A_TIME)

    async def produce() -> None:
        for event in waiting:
            await queue.put(event)
        await queue.put(None)

    async def run(event: dict[str, Any]) -> None:
        try:
            await first(event)
            await second(event)
        finally:
            permits.release()

    async def consume() -> None:
        while (event := await queue.get()) is not None:
            if keeps(event):
                await permits.acquire()
                # No reference is kept: the loop holds a task until its first wait, and no-ops never wait.
                asyncio.create_task(run(event))  # noqa: RUF006
        for _ in range(AT_A_TIME):
            await permits.acquire()

    await asyncio.gather(produce(), consume())
