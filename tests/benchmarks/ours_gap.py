"""Ours: what a source that stays the same notices while its saga is defined again, and another source moves."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from sagaz_lab import Lab
from tests.benchmarks.ours_swap import BETWEEN_S, PER_S, Notebook

SETTLED_S = 0.2


async def measure(n: int, *, path: str, swaps: bool) -> float:
    """The longest time without an event of the source, in ms, over `n` swaps."""
    notebook = Notebook(PER_S)
    async with Lab(store=f"sqlite:///{path}"):
        await notebook.begin()
        await asyncio.sleep(SETTLED_S)
        first = len(notebook.seen)
        for number in range(1, n + 1):
            if swaps:
                notebook.define(number)
            await asyncio.sleep(BETWEEN_S)
        seen = notebook.seen[first:]
    return max(after - before for before, after in pairwise(seen)) * 1000
