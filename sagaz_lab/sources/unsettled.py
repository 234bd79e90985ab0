"""The ledger of a source's unsettled deliveries."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from operator import is_
from typing import Any

from sagaz_lab.abc import Clock, Delivery
from sagaz_lab.model.event import next_attempt


class Unsettled:
    """Unsettled deliveries of one partition, by token, in order of position; a source has one per partition.

    A delivery is identified by its token and event. One that is given back is redelivered as a new delivery, so that
    settling or giving back the old one has no effect. `open` has the latest delivery of each token. `arrived` is set
    when one that was given back is due.
    """

    def __init__(self, clock: Clock) -> None:
        self.open: dict[Any, Delivery] = {}
        self.arrived = asyncio.Event()
        self._clock = clock
        self._again: deque[Delivery] = deque()
        self._waiting: set[Any] = set()  # open, but not delivered
        self._revoked: set[Any] = set()
        self._delays: set[asyncio.Task[None]] = set()

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """Record deliveries that are handed out now."""
        self.open.update([(delivery[1], delivery) for delivery in deliveries])

    def queue(self, deliveries: Sequence[Delivery]) -> None:
        """Queue deliveries for `take`."""
        self.add(deliveries)
        self._waiting.update(delivery.token for delivery in deliveries)
        self._again.extend(deliveries)

    def take(self, limit: int) -> list[Delivery]:
        """Hand out deliveries that are queued, or given back and due."""
        deliveries = pop_first(self._again, limit)
        self._waiting.difference_update([delivery.token for delivery in deliveries])
        return deliveries

    async def wait(self, seconds: float) -> None:
        """Wait until a delivery that was given back is due, up to `seconds`."""
        self.arrived.clear()
        waits = [asyncio.create_task(self._clock.sleep(seconds)), asyncio.create_task(self.arrived.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def settle(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """Settle them; returns the tokens not settled before."""
        tokens = [delivery[1] for delivery in deliveries]
        opened = self.open
        if not all(map(is_, map(opened.get, tokens), deliveries)):  # rare: some are already settled or given back
            tokens = list(dict.fromkeys(delivery.token for delivery in self.held(deliveries)))
        for token in tokens:
            opened.pop(token, None)
        return tokens

    def give_back(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        """Redeliver them after `delay_s`."""
        renewed = self.renew(deliveries)
        if delay_s <= 0:
            self._due(renewed)
            return
        delay = asyncio.create_task(self._due_later(renewed, delay_s), name="deliveries given back")
        self._delays.add(delay)
        delay.add_done_callback(self._delays.discard)

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """The open ones, each as its next attempt. The caller queues them."""
        renewed = [
            Delivery(next_attempt(delivery.event), delivery.token, delivery.fresh) for delivery in self.held(deliveries)
        ]
        self.add(renewed)
        self._waiting.update(delivery.token for delivery in renewed)
        return renewed

    def held(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those neither settled nor given back nor revoked."""
        return [it for it in deliveries if (held := self.open.get(it.token)) is not None and held.event is it.event]

    @property
    def lowest(self) -> Any:
        """The position of the first unsettled delivery; None if all are settled."""
        return next(iter(self.open), None)

    def left(self) -> None:
        """The source was exited: open deliveries are due at once, as the next attempt if they were handed out."""
        self._end_delays()
        self.renew([delivery for token, delivery in self.open.items() if token not in self._waiting])
        self._again = deque(self.open.values())

    def revoke(self) -> None:
        """The broker has taken everything back: settling or giving back is stale from now on."""
        self._end_delays()
        self._revoked = set(self.open)
        for kept in (self.open, self._again, self._waiting):
            kept.clear()

    def revoked(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those open when the broker took them back and not delivered again since."""
        return [it for it in deliveries if it.token in self._revoked and it.token not in self.open]

    def _due(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self._again.extend(deliveries)
            self.arrived.set()

    async def _due_later(self, deliveries: Sequence[Delivery], delay_s: float) -> None:
        await self._clock.sleep(delay_s)
        self._due(deliveries)

    def _end_delays(self) -> None:
        for delay in self._delays:
            delay.cancel()


def pop_first(queue: deque[Delivery], limit: int) -> list[Delivery]:
    """Remove and return the first `limit`."""
    if len(queue) > limit:
        return [queue.popleft() for _ in range(limit)]
    every = list(queue)
    queue.clear()
    return every
