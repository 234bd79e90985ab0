"""Ours: what a notebook's user feels of triggers and of a dashboard, in a real kernel whose store is a file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import sagaz_lab
from tests.acceptance.kernel import LOAD, Kernel, Result
from tests.acceptance.page import Page

Rest = Callable[[float], object]
"""Lets so many seconds pass, as a page does that shows what comes."""

PACKAGE = Path(sagaz_lab.__file__).parents[1]
"""The kernel's package is the one of this process, which may be that of an earlier commit."""

SETTLED_S = 0.5
BETWEEN_S = 0.02
TENTH_S = 0.1
ENOUGH = 0.8
"""Of the events that are due so many must have come; fewer, and it is not the load that the row names."""

FLOW = """%%saga
from tests.benchmarks.flow import Flow
flow = Flow({per_s})

class Flows(Saga):
    @trigger(source=flow)
    def on_event(self, event):
        return {{"n": event.payload}} if event.payload % 100 == 0 else None

    @action("note")
    async def note(self, ctx): ...
"""

LATENESS = """
import asyncio
from tests.benchmarks.flow import lateness_ms
measuring = asyncio.create_task(lateness_ms({for_s}))
"""


async def measure(n: int, *, what: str, path: str, per_s: float = 0, view: bool = False) -> float:
    """`what` is measured with so many events a second, of which one in a hundred starts a run, and with an open view.

    "cell": the median time of `n` cells `pass`, in ms, until their reply. "loop": how late the loop is, in ms, the 99th
    percentile over `n` tenths of a second. "processor": the kernel's processor time over so long, as % of one core.
    """
    folder = Path(path).with_suffix(".kernel").resolve()
    folder.mkdir()
    with Kernel(folder, PACKAGE) as kernel:
        run(kernel, LOAD)
        rest: Rest = time.sleep
        if per_s:
            run(kernel, FLOW.format(per_s=per_s))
            started = run(kernel, "%triggers start")
            if view:
                page = Page(kernel, started)
                rest = page.listen
                page.send("open")
                page.hear("full")
        rest(SETTLED_S)
        figure = MEASURED[what](kernel, rest, n)
        if view:
            page.hear("tick")
        if per_s:
            came = float(run(kernel, "flow.per_s()").text)
            if came < ENOUGH * per_s:
                raise RuntimeError(f"only {came:.0f} of {per_s:.0f} events a second came")
    return figure


def run(kernel: Kernel, cell: str) -> Result:
    result = kernel.run(cell)
    if not result.ok:
        raise RuntimeError(result.error or result.stderr)
    return result


def cell(kernel: Kernel, rest: Rest, n: int) -> float:
    took_ms = []
    for _ in range(n):
        begun = time.perf_counter()
        request = kernel.send("pass")
        while kernel.client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != request:
            pass
        took_ms.append((time.perf_counter() - begun) * 1000)
        rest(BETWEEN_S)
    return statistics.median(took_ms)


def loop(kernel: Kernel, rest: Rest, n: int) -> float:
    run(kernel, LATENESS.format(for_s=n * TENTH_S))
    rest(n * TENTH_S)
    return float(run(kernel, "await measuring").text)


def processor(kernel: Kernel, rest: Rest, n: int) -> float:
    run(kernel, "import time")
    begun, used_s = time.perf_counter(), float(run(kernel, "time.process_time()").text)
    rest(n * TENTH_S)
    used_s = float(run(kernel, "time.process_time()").text) - used_s
    return 100 * used_s / (time.perf_counter() - begun)


MEASURED: dict[str, Callable[[Kernel, Rest, int], float]] = {"cell": cell, "loop": loop, "processor": processor}
