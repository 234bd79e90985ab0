"""Ours: what the process holds after so many events."""

from __future__ import annotations

import gc

import psutil

from tests.benchmarks.ours_dispatch import measure_made


async def measure(n: int) -> float:
    """Resident memory in MB after `n` events, a tenth of which started runs."""
    await measure_made(n)
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident / 1e6
