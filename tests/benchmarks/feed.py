"""A source of made-up events, so that what is measured is the way from a source to a run and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from sagaz_lab.abc import Delivery, SourceTraits, deliveries
from sagaz_lab.errors import EndOfSource


class Feed:
    """Gives `n` events, each made by `make(i)` when it is asked for, with ids of its own."""

    traits: ClassVar[SourceTraits] = SourceTraits(redelivers=False, finite=True)

    def __init__(self, n: int, make: Callable[[int], dict[str, Any]]) -> None:
        self.name = "feed"
        self._n = n
        self._make = make
        self._given = 0

    async def __aenter__(self) -> Feed:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        begin, end = self._given, min(self._given + limit, self._n)
        if begin == end:
            raise EndOfSource(self.name)
        self._given = end
        now = datetime.now(UTC)
        return deliveries(map(self._make, range(begin, end)), map(str, range(begin, end)), self.name, now)

    async def settle(self, deliveries: Sequence[Delivery], outcomes: object) -> None:
        return None

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """What `--against` an earlier commit calls."""

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        raise RuntimeError(f"event {deliveries[0].event.id} was given back: the measurement is void")

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...
