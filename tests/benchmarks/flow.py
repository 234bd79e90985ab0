"""A source at a steady pace, and how late the loop is meanwhile."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar

from sagaz_lab.abc import Delivery, SourceTraits, deliveries

PAUSE_S = 0.005


class Flow:
    """Gives `per_s` events a second: whenever it is asked, as many as are due. The payload is the event's number."""

    traits: ClassVar[SourceTraits] = SourceTraits(redelivers=False)

    def __init__(self, per_s: float, name: str = "flow") -> None:
        self.name = name
        self.given = 0
        self._per_s = per_s
        self._begun = time.perf_counter()

    def per_s(self) -> float:
        """How many it has given a second since it was entered."""
        return self.given / (time.perf_counter() - self._begun)

    async def __aenter__(self) -> Flow:
        self.given, self._begun = 0, time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            due = int((time.perf_counter() - self._begun) * self._per_s) - self.given
            if due > 0:
                break
            await asyncio.sleep(PAUSE_S)
        begin, self.given = self.given, self.given + min(due, limit)
        numbers = range(begin, self.given)
        return deliveries(numbers, map(str, numbers), self.name, datetime.now(UTC), fresh=True)

    async def settle(self, deliveries: Sequence[Delivery], outcomes: object) -> None:
        return None

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """What `--against` an earlier commit calls."""

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        raise RuntimeError(f"event {deliveries[0].event.id} was given back: the measurement is void")

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...


async def lateness_ms(for_s: float) -> float:
    """How much later than asked for the loop comes back, the 99th percentile over so long."""
    late, until = [], time.perf_counter() + for_s
    while (before := time.perf_counter()) < until:
        await asyncio.sleep(PAUSE_S)
        late.append((time.perf_counter() - before - PAUSE_S) * 1000)
    return statistics.quantiles(late, n=100, method="inclusive")[98]
