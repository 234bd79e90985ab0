"""Ours: what a notebook's user feels of triggers and of a dashboard, in a real kernel whose store is a file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acceptance.kernel import LOAD, Kernel
from tests.acceptance.page import Page

WIDGET = "application/vnd.jupyter.widget-view+json"
SETTLED_S = 0.5
BETWEEN_S = 0.02
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

    "cell": the median time of `n` cells `pass`, in ms, until their reply. "loop": how late the loop is, the 99th
    percentile over `n` s, in ms. "processor": the time of the kernel's processor, as % of one core, over `n` s.
    """
    folder = Path(path).with_suffix(".kernel").resolve()
    folder.mkdir()
    measured: dict[str, Callable[[Kernel, Page, int], float]] = {"cell": cell, "loop": loop, "processor": processor}
    with Kernel(folder) as kernel:
        run(kernel, LOAD)
        page = Page(kernel, "")
        if per_s:
            run(kernel, FLOW.format(per_s=per_s))
            page = Page(kernel, run(kernel, "%triggers start", WIDGET)["model_id"])
        if view:
            page.send("open")
            page.hear("full")
        page.listen(SETTLED_S)
        figure = measured[what](kernel, page, n)
        if view:
            page.hear("tick")
        if per_s:
            came = float(run(kernel, "flow.per_s()", "text/plain"))
            if came < ENOUGH * per_s:
                raise RuntimeError(f"only {came:.0f} of {per_s:.0f} events a second came")
    return figure


def run(kernel: Kernel, cell: str, kind: str = "") -> Any:
    """What the cell's value is as this type of content."""
    result = kernel.run(cell)
    if not result.ok:
        raise RuntimeError(result.error or result.stderr)
    return result.data[kind] if kind else None


def cell(kernel: Kernel, page: Page, n: int) -> float:
    took_ms = []
    for _ in range(n):
        begun = time.perf_counter()
        request = kernel.send("pass")
        while kernel.client.get_shell_msg(timeout=60)["parent_header"].get("msg_id") != request:
            pass
        took_ms.append((time.perf_counter() - begun) * 1000)
        page.listen(BETWEEN_S)
    return statistics.median(took_ms)


def loop(kernel: Kernel, page: Page, n: int) -> float:
    run(kernel, LATENESS.format(for_s=n))
    page.listen(n + 0.5)
    return float(run(kernel, "await measuring", "text/plain"))


def processor(kernel: Kernel, page: Page, n: int) -> float:
    run(kernel, "import time")
    begun, used_s = time.perf_counter(), float(run(kernel, "time.process_time()", "text/plain"))
    page.listen(n)
    used_s = float(run(kernel, "time.process_time()", "text/plain")) - used_s
    return 100 * used_s / (time.perf_counter() - begun)
