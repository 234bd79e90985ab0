"""The dead letters of the store, as events."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import ClassVar, Self

from sagaz_lab.abc import DeadLetter, Delivery, Event, SourceTraits, Surroundings
from sagaz_lab.errors import SourceUnavailable, StoreUnavailable, describe
from sagaz_lab.model.event import NO_HEADERS, next_attempt, payload_as_sent
from sagaz_lab.model.run import Loadable
from sagaz_lab.sources.delayed import Delayed, sleep_unless

logger = logging.getLogger("sagaz_lab")

POLL_S = 1.0
"""Letters may come from other processes, which nobody tells of, so the store is asked this often."""

PAGE = 1000
KIND = "dead_letters"


class DeadLetterSource:
    """A delivery for each letter of the store that comes after the first start, in their order.

    `trigger` and `saga` narrow them. The letters of triggers that read this kind of source themselves are left out,
    so that none feeds on its own. The position is that of the last letter before the first which is not settled; it
    stays when `trigger` or `saga` is changed.
    """

    traits: ClassVar[SourceTraits] = SourceTraits(delays_nack=True)

    def __init__(self, *, surroundings: Surroundings, trigger: str | None = None, saga: str | None = None) -> None:
        self.name = " ".join(filter(None, (KIND, trigger, saga)))
        self._trigger, self._saga = trigger, saga
        self._clock, self._positions = surroundings.clock, surroundings.positions
        self._letters = surroundings.letters
        self._position_name = f"{KIND} {surroundings.number} of {surroundings.reader}"
        self._read: int | None = None
        self._saved = 0
        self._again: deque[Delivery] = deque()
        self._unsettled: dict[int, Delivery] = {}
        self._delayed: Delayed[Delivery] = Delayed(self._clock, self._give_back)
        self._nacked = asyncio.Event()

    async def __aenter__(self) -> Self:
        if self._read is None:
            with _store_is_there():
                self._read = self._saved = await self._start()
        # What this object gave out and was not settled comes again.
        left = [self._unsettled[number] for number in sorted(self._unsettled)]
        self._again = deque(Delivery(next_attempt(event), number) for event, number, _ in left)
        self._unsettled = {delivery.token: delivery for delivery in self._again}
        return self

    async def __aexit__(self, *_: object) -> None:
        self._delayed.clear()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            if self._again:
                return [self._again.popleft() for _ in range(min(limit, len(self._again)))]
            if not await self._read_on():
                self._nacked.clear()
                await sleep_unless(self._clock, POLL_S, self._nacked)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        settled = [self._unsettled.pop(delivery.token, None) for delivery in deliveries]
        if any(settled):
            await self._save()

    async def nack(self, delivery: Delivery, *, delay_s: float = 0.0) -> None:
        held = self._unsettled.get(delivery.token)
        if held is None or held.event.attempt != delivery.event.attempt:
            return
        again = Delivery(next_attempt(delivery.event), delivery.token)
        self._unsettled[delivery.token] = again
        self._delayed.put(again, delay_s)

    def _give_back(self, delivery: Delivery) -> None:
        self._again.append(delivery)
        self._nacked.set()

    async def _read_on(self) -> bool:
        """Read a page; False if there was none."""
        assert self._read is not None
        with _store_is_there():
            page = await self._letters(self._read, PAGE)
        if not page:
            return False
        wanted = [_delivery(number, letter) for number, letter in page if self._wants(letter)]
        self._unsettled.update((delivery.token, delivery) for delivery in wanted)
        self._again.extend(wanted)
        self._read = page[-1][0]
        if not wanted:
            await self._save()
        return True

    def _wants(self, letter: DeadLetter) -> bool:
        if letter.event.source.partition(" ")[0] == KIND:
            return False
        return self._trigger in (None, letter.trigger) and self._saga in (None, letter.saga)

    async def _save(self) -> None:
        """A process that starts here again begins with the first letter that is not settled."""
        reached = min(self._unsettled) - 1 if self._unsettled else self._read or 0
        if reached != self._saved:
            with _store_is_there():
                await self._positions.put(self._position_name, str(reached))
            self._saved = reached

    async def _start(self) -> int:
        """Where the last start came to; the first one begins with the letters to come."""
        stored = await self._positions.get(self._position_name)
        if stored is None:
            stored = str(await self._last())
            await self._positions.put(self._position_name, stored)
        try:
            return int(stored)
        except ValueError:
            logger.warning("%s: its position in the store is %r, no number; it begins with the oldest letter",
                           self.name, stored)  # fmt: skip
            return 0

    async def _last(self) -> int:
        """The number of the newest letter, found by halving: there may be a million."""
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


@contextmanager
def _store_is_there() -> Iterator[None]:
    """While it is not, the runtime backs off and opens this source again."""
    try:
        yield
    except StoreUnavailable as error:
        raise SourceUnavailable(f"{KIND}: {describe(error)}") from error


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
