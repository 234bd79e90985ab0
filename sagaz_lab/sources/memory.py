"""A source inside the process, fed by `put`."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from sagaz_lab.abc import Delivery, Event, SourceTraits, Surroundings
from sagaz_lab.model.apart import apart
from sagaz_lab.model.event import NO_HEADERS, next_attempt
from sagaz_lab.sources.delayed import Delayed

CAPACITY = 10_000


class MemorySource:
    """Keeps up to `capacity` events for one receiver, on one loop. What is put before it is entered waits."""

    traits: ClassVar[SourceTraits] = SourceTraits(delays_nack=True)

    def __init__(self, *, surroundings: Surroundings, topic: str | None = None, capacity: int = CAPACITY) -> None:
        self.name = f"memory {topic or ''}".strip()
        self._capacity = capacity
        self._clock = surroundings.clock
        self._prefix = f"m-{secrets.token_hex(4)}-"
        self._number = 0
        self._buffer: deque[Delivery] = deque()
        self._again: deque[Delivery] = deque()
        self._in_flight: dict[int, Delivery] = {}
        self._delayed: Delayed[Delivery] = Delayed(self._clock, self._give_back)
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        later = [*self._again, *self._delayed.clear()]
        self._again.clear()
        for delivery in self._in_flight.values():
            self._give_back(delivery)
        self._in_flight.clear()
        self._again.extend(later)

    async def put(
        self,
        payload: Any,
        id: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        timestamp: datetime | None = None,
    ) -> None:
        """Add an event, waiting while the buffer is full."""
        while len(self._buffer) >= self._capacity:
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
        buffer = self._buffer
        if len(buffer) >= self._capacity:
            raise asyncio.QueueFull(f"{self.name}: {self._capacity} events wait already")
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
            self._filled.set()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while not (self._buffer or self._again):
            self._filled.clear()
            await self._filled.wait()
        buffer = self._again or self._buffer
        if len(buffer) <= limit:
            deliveries = list(buffer)
            buffer.clear()
        else:
            take = buffer.popleft
            deliveries = [take() for _ in range(limit)]
        self._in_flight.update([(delivery[1], delivery) for delivery in deliveries])
        self._emptied.set()
        return deliveries

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        settle = self._in_flight.pop
        for delivery in deliveries:
            settle(delivery[1], None)

    async def nack(self, delivery: Delivery, *, delay_s: float = 0.0) -> None:
        if self._in_flight.pop(delivery.token, None) is not None:
            self._delayed.put(delivery, delay_s)

    def _give_back(self, delivery: Delivery) -> None:
        # A new token, so that settling the old delivery once more changes nothing.
        self._number += 1
        self._again.append(Delivery(next_attempt(delivery.event), self._number, delivery.fresh))
        self._filled.set()
