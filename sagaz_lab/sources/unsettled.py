"""The ledger of deliveries that a source has handed out and that are not settled yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from operator import is_
from typing import Any

from sagaz_lab.abc import Clock, Delivery
from sagaz_lab.model.event import next_attempt


class Unsettled:
    """Of one partition, by token, in the order of their positions; a source with several keeps one for each.

    A delivery is known by its token and its event. What is given back is handed out again as another one, so that
    settling or giving back the old one changes nothing. `open` has the latest of each token. `arrived` is set when
    something has been given back and is due.
    """

    def __init__(self, clock: Clock) -> None:
        self.open: dict[Any, Delivery] = {}
        self.arrived = asyncio.Event()
        self._clock = clock
        self._again: deque[Delivery] = deque()
        self._waiting: set[Any] = set()  # open, but not handed out
        self._revoked: set[Any] = set()
        self._delays: set[asyncio.Task[None]] = set()

    def add(self, deliveries: Sequence[Delivery]) -> None:
        """They are handed out now."""
        self.open.update([(delivery[1], delivery) for delivery in deliveries])

    def queue(self, deliveries: Sequence[Delivery]) -> None:
        """They are to be handed out by `take`."""
        self.add(deliveries)
        self._waiting.update(delivery.token for delivery in deliveries)
        self._again.extend(deliveries)

    def take(self, limit: int) -> list[Delivery]:
        """What is queued, or was given back and is due; it is handed out now."""
        deliveries = taken(self._again, limit)
        self._waiting.difference_update([delivery.token for delivery in deliveries])
        return deliveries

    async def wait(self, seconds: float) -> None:
        """Returns after so many seconds, or as soon as something has been given back and is due."""
        self.arrived.clear()
        waits = [asyncio.create_task(self._clock.sleep(seconds)), asyncio.create_task(self.arrived.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def settle(self, deliveries: Sequence[Delivery]) -> list[Any]:
        """The tokens of those that were not settled before."""
        tokens = [delivery[1] for delivery in deliveries]
        opened = self.open
        if not all(map(is_, map(opened.get, tokens), deliveries)):  # the rare case: some are settled or given back
            tokens = list(dict.fromkeys(delivery.token for delivery in self.held(deliveries)))
        for token in tokens:
            opened.pop(token, None)
        return tokens

    def give_back(self, deliveries: Sequence[Delivery], delay_s: float = 0.0) -> None:
        """Hand them out again, once it is time."""
        renewed = self.renew(deliveries)
        if delay_s <= 0:
            self._due(renewed)
            return
        delay = asyncio.create_task(self._due_later(renewed, delay_s), name="deliveries given back")
        self._delays.add(delay)
        delay.add_done_callback(self._delays.discard)

    def renew(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that are open, each as its next attempt. They are not handed out; who calls this queues them."""
        renewed = [
            Delivery(next_attempt(delivery.event), delivery.token, delivery.fresh) for delivery in self.held(deliveries)
        ]
        self.add(renewed)
        self._waiting.update(delivery.token for delivery in renewed)
        return renewed

    def held(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that are neither settled nor given back nor revoked."""
        return [it for it in deliveries if (held := self.open.get(it.token)) is not None and held.event is it.event]

    @property
    def lowest(self) -> Any:
        """The position of the first that is not settled, so that all before it are; None if all are settled."""
        return next(iter(self.open), None)

    def left(self) -> None:
        """The source is left, and what is open lies here: it comes again at once, one attempt later if it was out."""
        self._end_delays()
        self.renew([delivery for token, delivery in self.open.items() if token not in self._waiting])
        self._again = deque(self.open.values())

    def revoke(self) -> None:
        """The broker has all of it again: what is settled or given back from now on is stale."""
        self._end_delays()
        self._revoked = set(self.open)
        for kept in (self.open, self._again, self._waiting):
            kept.clear()

    def revoked(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Those that were open when the broker took them back, and are not handed out again."""
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


def taken(queue: deque[Delivery], limit: int) -> list[Delivery]:
    """The first so many of them."""
    if len(queue) > limit:
        return [queue.popleft() for _ in range(limit)]
    every = list(queue)
    queue.clear()
    return every
