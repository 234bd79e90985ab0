"""Ours: a saga is defined again and again, as by its cell, while another trigger's source goes on."""

from __future__ import annotations

import asyncio
import linecache
import statistics
import time
from typing import Any

from sagaz_lab import Lab, start_triggers
from tests.benchmarks.flow import Flow

PER_S = 2_000
BETWEEN_S = 0.02

CELL = """
class Counting(Saga):
    @trigger(source=steady)
    def on_steady(self, event):
        seen.append(perf_counter())
        return {{"n": event.payload}} if event.payload % 10 == 0 else skip("not kept")

    @trigger(source="memory", topic="moving-{number}")
    def on_moving(self, event):
        return {{"number": {number}}}

    @action("note")
    async def note(self, ctx): ...
"""


async def measure(n: int, *, path: str, flows: bool) -> float:
    """The 99th percentile of the loop's standstill when a new revision becomes current, in ms, of `n` of them."""
    notebook = Notebook(PER_S if flows else 0)
    async with Lab(store=f"sqlite:///{path}"):
        await notebook.begin()
        took_ms = []
        for number in range(1, n + 1):
            took_ms.append(notebook.define(number))
            await asyncio.sleep(BETWEEN_S)
    return statistics.quantiles(took_ms, n=100, method="inclusive")[98]


class Notebook:
    """The names that a cell sees; its text is kept where a kernel keeps it, for the revisions."""

    def __init__(self, per_s: float) -> None:
        self.seen: list[float] = []
        self._names: dict[str, Any] = {"__name__": "__main__", "seen": self.seen, "steady": Flow(per_s, "steady")}
        exec("from sagaz_lab import *\nfrom time import perf_counter", self._names)

    async def begin(self) -> None:
        self.define(0)
        await start_triggers()

    def define(self, number: int) -> float:
        """Runs the cell's next version; returns for how many ms."""
        text, file = CELL.format(number=number), f"<cell {number}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        begun = time.perf_counter()
        exec(compile(text, file, "exec"), self._names)
        return (time.perf_counter() - begun) * 1000
