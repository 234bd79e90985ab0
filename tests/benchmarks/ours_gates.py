"""Ours with every gate that can stand beside the others, none of which stops anything: what asking them costs."""

from __future__ import annotations

from typing import Any

from sagaz_lab import Throttle
from tests.benchmarks.feed import Feed
from tests.benchmarks.ours_dispatch import dispatch
from tests.benchmarks.workload import events, kept_of

EVERY_GATE: dict[str, Any] = {
    "idempotency_key": "n",
    "idempotency_ttl": "1d",
    "cooldown": "1ms",
    "concurrency_key": "n",
    "max_concurrent_sagas": 100,
    "singleton": "skip",
    "throttle": Throttle(1_000_000_000, "1s", burst=1000, key="model_id"),
    "priority": 1,
}


async def measure(n: int, *, keep_every: int = 10, store: str = "memory") -> float:
    """Events per second, from the first one received to the end of the last run's last action."""
    waiting = events(n, keep_every)
    elapsed_s = await dispatch(Feed(n, waiting.__getitem__), kept_of(n, keep_every), store, EVERY_GATE)
    return n / elapsed_s
