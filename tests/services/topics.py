"""A broker inside the process, which keeps what nobody has read and remembers who came and went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from sagaz_lab.abc import Delivery, Event, SourceTraits
from sagaz_lab.current import default_lab

KEYS = 7


class Topic:
    """A source. What has been settled is not given again, whoever leaves and enters it."""

    traits: ClassVar[SourceTraits] = SourceTraits()

    def __init__(self, name: str, saga: str = "") -> None:
        self.name = name
        self.entered = self.left = 0
        self.given: dict[int, Sequence[str]] = {}
        """By number, which triggers the saga had when it was handed over, unless it was given back."""
        self._saga = saga
        self._log: list[int] = []
        self._next = self._settled = 0
        self._arrived = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self.entered > self.left

    @property
    def size(self) -> int:
        return len(self._log)

    def put(self, n: int) -> None:
        self._log.append(n)
        self._arrived.set()

    async def __aenter__(self) -> Topic:
        self.entered += 1
        self._next = self._settled
        return self

    async def __aexit__(self, *_: object) -> None:
        self.left += 1

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while self._next == len(self._log):
            self._arrived.clear()
            await self._arrived.wait()
        first, self._next = self._next, min(self._next + limit, len(self._log))
        triggers = self._triggers()
        for n in self._log[first : self._next]:
            self.given.setdefault(n, triggers)
        return [self._delivery(position) for position in range(first, self._next)]

    def _triggers(self) -> Sequence[str]:
        saga = default_lab().sagas.get(self._saga)
        return [] if saga is None else [trigger.name for trigger in saga.triggers.values()]

    def _delivery(self, position: int) -> Delivery:
        n = self._log[position]
        event = Event({"n": n}, id=str(n), source=self.name, key=str(n % KEYS))
        return Delivery(event, position)

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Any) -> None:
        self._settled = max(self._settled, *(delivery.token + 1 for delivery in deliveries))

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        for delivery in deliveries:
            self._next = min(self._next, delivery.token)
            self.given.pop(self._log[delivery.token], None)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...


class Numbers:
    """Puts 0, 1, 2 ... into topics at a steady pace, up to `allowed`, in a task of the running loop."""

    def __init__(self, topic_of: Callable[[int], Topic], per_s: float) -> None:
        self._topic_of = topic_of
        self._per_s = per_s
        self.put = self.allowed = 0
        self.task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(self._flow())

    async def _flow(self) -> None:
        loop = asyncio.get_running_loop()
        before, due = loop.time(), 0.0
        while True:
            await asyncio.sleep(0.005)
            before, passed_s = loop.time(), loop.time() - before
            due = min(due + passed_s * self._per_s, self.allowed)
            while self.put < int(due):
                self._topic_of(self.put).put(self.put)
                self.put += 1
