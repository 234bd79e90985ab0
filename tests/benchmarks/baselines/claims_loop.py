"""By hand: a filter, and a dict that knows which ids have started."""

from __future__ import annotations

import time

from tests.benchmarks.workload import events, keeps


async def measure(n: int, *, keep_every: int = 10) -> float:
    """Microseconds an event."""
    waiting = [(f"e{i}", event) for i, event in enumerate(events(n, keep_every))]
    start = time.perf_counter()
    started: dict[str, int] = {}
    for number, (id, event) in enumerate(waiting):
        if id not in started and keeps(event):
            started[id] = number
    return (time.perf_counter() - start) / n * 1e6
