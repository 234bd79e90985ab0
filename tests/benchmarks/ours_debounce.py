"""Ours, durable: events of which each supersedes the one before. Its id stays claimed, so that it is decided once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sagaz_lab import Debounce, Lab, Saga, trigger

AT_A_TIME = 100
LEFT = 2
"""The first event of a window stays, since the longest wait counts from it, and so does the last."""


async def measure(n: int, *, path: str, claimed: bool) -> float:
    """Events per second. An event without an id of its own has no claim."""
    async with Lab(store=f"sqlite:///{path}") as lab:

        class Latest(Saga):
            @trigger(source="memory", topic="t", debounce=Debounce("1h", "2h"))
            def on_event(self, event: Any) -> dict[str, Any]:
                return {}

        numbers = iter(range(n))

        async def fire() -> None:
            for number in numbers:
                id = f"event-{number}" if claimed else None
                await lab.fire("Latest.on_event", {"n": number}, id=id, wait=False)

        start = time.perf_counter()
        await asyncio.gather(*(fire() for _ in range(AT_A_TIME)))
        async with asyncio.timeout(60):
            while lab.counters()["Latest.on_event"]["waiting"] > LEFT:  # noqa: ASYNC110  the last ones go with a later write
                await asyncio.sleep(0.001)
        return n / (time.perf_counter() - start)
