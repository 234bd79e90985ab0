"""What several tests need: waiting for something, a source fed by hand, the sum of the counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

from sagaz_lab import Lab, Outcome
from sagaz_lab.abc import Delivery, Outcomes, SourceTraits, Surroundings
from sagaz_lab.sources.memory import MemorySource

PARTS = ("started", "filtered", "duplicate", "dropped", "dead", "waiting", "deciding")


async def until(condition: Callable[[], object], within_s: float = 20.0) -> None:
    """Returns as soon as the condition holds; the time is only a bound."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  the condition may be of another thread
            await asyncio.sleep(0.001)


async def settle() -> None:
    """Whatever can happen on this loop without time, threads or anything new happens."""
    for _ in range(200):
        await asyncio.sleep(0)


def assert_adds_up(lab: Lab) -> None:
    for name, counts in lab.counters().items():
        assert counts["received"] == sum(counts[part] for part in PARTS), (name, counts)


def counted(lab: Lab, trigger: str) -> dict[str, int]:
    """The counters of a trigger that are not zero."""
    assert_adds_up(lab)
    return {name: count for name, count in lab.counters()[trigger].items() if count}


def statuses(lab: Lab) -> list[str]:
    """Of all runs, oldest first."""
    return list(lab.runs()["status"])[::-1]


class Taps:
    """Makes memory sources, by topic; each counts how often it was entered and left."""

    def __init__(self, make: type[Tap] | None = None) -> None:
        self.made: dict[str, Tap] = {}
        self._make = make or Tap

    def __call__(self, settings: Mapping[str, Any], surroundings: Surroundings) -> Tap:
        topic = settings["topic"]
        if topic not in self.made:
            self.made[topic] = self._make(surroundings=surroundings, topic=topic)
        return self.made[topic]

    def __getitem__(self, topic: str) -> Tap:
        return self.made[topic]


class Tap(MemorySource):
    """A source fed by `put`."""

    entered = 0
    left = 0

    async def __aenter__(self) -> Self:
        self.entered += 1
        return await super().__aenter__()

    async def __aexit__(self, *error: object) -> None:
        self.left += 1
        await super().__aexit__(*error)

    @property
    def waiting(self) -> int:
        """What is still to be received."""
        return len(self.buffered)

    @property
    def unsettled(self) -> int:
        return len(self.ledger.open)


class ByHand:
    """A source that hands over the batches that it is given, as far as its trigger has room."""

    traits: ClassVar[SourceTraits] = SourceTraits()
    name = "by hand"

    def __init__(self) -> None:
        self._batches: asyncio.Queue[Sequence[Delivery]] = asyncio.Queue()
        self._settled: asyncio.Queue[list[Outcome]] = asyncio.Queue()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def receive(self, limit: int) -> Sequence[Delivery]:
        return await self._batches.get()

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        for each in outcomes:
            self._settled.put_nowait(list(each))

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        raise AssertionError("the Lab takes all that it is given")

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...

    async def give(self, batch: Sequence[Delivery]) -> list[list[Outcome]]:
        """Returns what became of each delivery, once all are settled."""
        self._batches.put_nowait(batch)
        return [await self._settled.get() for _ in batch]


def spoil(value: Any) -> None:
    """Change all that can be changed in place."""
    for item in list(value.values()) if isinstance(value, dict) else list(value) if isinstance(value, list) else ():
        spoil(item)
    if isinstance(value, dict | list):
        value.clear()
