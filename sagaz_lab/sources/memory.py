"""An in-process source, fed by `put`."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from sagaz_lab.abc import Delivery, Event, Outcomes, SourceTraits, Surroundings
from sagaz_lab.model.apart import apart
from sagaz_lab.model.event import NO_HEADERS
from sagaz_lab.model.source_traits import TRAITS
from sagaz_lab.sources.unsettled import Unsettled, pop_first

CAPACITY = 10_000


class MemorySource:
    """Buffers up to `capacity` events for one receiver on one loop, also before it is entered."""

    traits: ClassVar[SourceTraits] = TRAITS["memory"]

    def __init__(self, *, surroundings: Surroundings, topic: str | None = None, capacity: int = CAPACITY) -> None:
        self.name = f"memory {topic or ''}".strip()
        self.buffered: deque[Delivery] = deque()
        self.ledger = Unsettled(surroundings.clock)
        self._capacity = capacity
        self._clock = surroundings.clock
        self._prefix = f"m-{secrets.token_hex(4)}-"
        self._number = 0
        self._emptied = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.ledger.left()

    async def put(
        self,
        payload: Any,
        id: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Add an event, waiting while the buffer is full."""
        while len(self.buffered) >= self._capacity:
            self._emptied.clear()
            await self._emptied.wait()
        self.put_nowait(payload, id, key, headers, timestamp)

    def put_nowait(
        self,
        payload: Any,
        id: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Add an event; raises `asyncio.QueueFull` if the buffer is full."""
        buffer = self.buffered
        if len(buffer) >= self._capacity:
            raise asyncio.QueueFull(f"{self.name}: the buffer of {self._capacity} events is full")
        self._number = number = self._number + 1
        event = Event(
            apart(payload),
            id or f"{self._prefix}{number}",
            self.name,
            key,
            NO_HEADERS if headers is None else headers,
            timestamp or datetime.fromtimestamp(self._clock.now(), UTC),
        )
        buffer.append(Delivery(event, number, not id))
        if len(buffer) == 1:
            self.ledger.arrived.set()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        ledger, buffer = self.ledger, self.buffered
        while not (deliveries := ledger.take(limit)):
            if buffer:
                deliveries = pop_first(buffer, limit)
                ledger.add(deliveries)
                self._emptied.set()
                break
            ledger.arrived.clear()
            await ledger.arrived.wait()
        return deliveries

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        self.ledger.settle(deliveries)

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        self.ledger.give_back(deliveries, delay_s)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        """No-op: no other consumer takes them."""
