"""The dead letter source: the store's dead letters as events."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar, Self

from sagaz_lab.abc import DeadLetter, Delivery, Event, Outcomes, SourceTraits, Surroundings
from sagaz_lab.model.event import NO_HEADERS, payload_as_sent
from sagaz_lab.model.run import Loadable
from sagaz_lab.model.source_traits import TRAITS
from sagaz_lab.sources.unsettled import Unsettled

logger = logging.getLogger("sagaz_lab")

POLL_S = 1.0
"""Polling interval: other processes may add dead letters without a notification."""

PAGE = 1000
KIND = "dead_letters"


class DeadLetterSource:
    """One delivery per dead letter after the first start, in order.

    `trigger` and `saga` filter them. Dead letters of triggers on this kind of source are excluded, so that none reads
    its own. The position is that of the last dead letter before the first unsettled one; it is independent of
    `trigger` and `saga`.
    """

    traits: ClassVar[SourceTraits] = TRAITS[KIND]

    def __init__(self, *, surroundings: Surroundings, trigger: str | None = None, saga: str | None = None) -> None:
        self.name = " ".join(filter(None, (KIND, trigger, saga)))
        self._trigger, self._saga = trigger, saga
        self._positions, self._letters = surroundings.positions, surroundings.letters
        self._position_name = f"{KIND} {surroundings.number} of {surroundings.reader}"
        self._read: int | None = None
        self._saved = 0
        self._unsettled = Unsettled(surroundings.clock)

    async def __aenter__(self) -> Self:
        if self._read is None:
            self._read = self._saved = await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._unsettled.left()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while not (deliveries := self._unsettled.take(limit)):
            if not await self._read_on():
                await self._unsettled.wait(POLL_S)
        return deliveries

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        if self._unsettled.settle(deliveries):
            await self._save()

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        self._unsettled.give_back(deliveries, delay_s)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        """No-op: no other consumer takes them."""

    async def _read_on(self) -> bool:
        """Read a page; False if there was none."""
        assert self._read is not None
        page = await self._letters(self._read, PAGE)
        if not page:
            return False
        wanted = [_delivery(number, letter) for number, letter in page if self._wants(letter)]
        self._unsettled.queue(wanted)
        self._read = page[-1][0]
        if not wanted:
            await self._save()
        return True

    def _wants(self, letter: DeadLetter) -> bool:
        if letter.event.source.partition(" ")[0] == KIND:
            return False
        return self._trigger in (None, letter.trigger) and self._saga in (None, letter.saga)

    async def _save(self) -> None:
        """Store the position, so that the next process begins with the first unsettled dead letter."""
        lowest = self._unsettled.lowest
        reached = lowest - 1 if lowest is not None else self._read or 0
        if reached != self._saved:
            await self._positions.put(self._position_name, str(reached))
            self._saved = reached

    async def _start(self) -> int:
        """The stored position; the first start begins with new dead letters."""
        stored = await self._positions.get(self._position_name)
        if stored is None:
            stored = str(await self._last())
            await self._positions.put(self._position_name, stored)
        try:
            return int(stored)
        except ValueError:
            logger.warning("%s: its stored position %r is not a number; it begins with the oldest dead letter",
                           self.name, stored)  # fmt: skip
            return 0

    async def _last(self) -> int:
        """The number of the newest dead letter, by bisection: there may be a million."""
        low, step = 0, 1
        while found := await self._letters(low + step, 1):
            low, step = found[0][0], step * 2
        high = low + step
        while low < high:
            middle = (low + high) // 2
            if found := await self._letters(middle, 1):
                low = found[0][0]
            else:
                high = middle
        return low


def _delivery(number: int, letter: DeadLetter) -> Delivery:
    payload = payload_as_sent(letter.event)
    told = {
        "id": letter.id,
        "event_id": letter.event.id,
        "trigger": letter.trigger,
        "saga": letter.saga,
        "cause": letter.cause,
        "error": letter.error,
        "traceback": letter.traceback,
        "attempts": letter.attempts,
        "revision": letter.revision,
        "run_id": letter.run_id,
        "payload": repr(payload) if isinstance(payload, Loadable) else payload,
    }
    at = datetime.fromtimestamp(letter.at, UTC)
    return Delivery(Event(told, f"letter/{letter.id}", KIND, letter.trigger, NO_HEADERS, at), number)
