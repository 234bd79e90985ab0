"""Ours: a page of a hundred dead letters, listed or redriven, out of many."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

from sagaz_lab import Event, Lab, Saga, SagaContext, action, trigger
from sagaz_lab.abc import Acceptance, DeadLetter

PAGE = 100
AT_ONCE = 10_000
PAGES = 5


async def measure(n: int, *, what: str, path: str) -> float:
    """Milliseconds a page: the median of some."""
    async with Lab(store=f"sqlite:///{path}") as lab:
        with lab.activate():

            class Orders(Saga):
                @trigger(source="memory")
                def on_order(self, event: Any) -> dict[str, Any]:
                    return {"n": event["n"]}

                @action("take")
                async def take(self, ctx: SagaContext) -> None: ...

        made = letters(n)
        while batch := list(itertools.islice(made, AT_ONCE)):
            await lab.store.accept(Acceptance(dead=batch))
        took_ms, before = [], None
        for _ in range(PAGES):
            start = time.perf_counter()
            columns, rows = lab.store.rows("dead_letters", PAGE, before=before)
            ids = [row[columns.index("id")] for row in rows]
            if what == "redrive":
                start = time.perf_counter()
                outcomes = await lab.redrive(ids)
                if len(outcomes) != PAGE:
                    raise RuntimeError(f"{len(outcomes)} of {PAGE} were redriven: the measurement is void")
            took_ms.append((time.perf_counter() - start) * 1000)
            before = ids[-1]
        await lab.drain()
    return sorted(took_ms)[PAGES // 2]


def letters(n: int) -> Iterator[DeadLetter]:
    for i in range(n):
        yield DeadLetter(id=f"d-{i:012x}", event=Event({"n": i}, f"e{i}", "memory"), trigger="Orders.on_order",
                         saga="Orders", cause=f"ValueError in take: line {i % 10}", error="ValueError: odd",
                         traceback="Traceback", attempts=1, revision=1, at=1_700_000_000.0 + i)  # fmt: skip
