"""Ticks of a schedule."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import ClassVar, Self

from sagaz_lab.abc import Delivery, Event, Missed, SourceTraits, Surroundings
from sagaz_lab.errors import StoreError
from sagaz_lab.model.event import NO_HEADERS, next_attempt
from sagaz_lab.model.schedule import ticks
from sagaz_lab.sources.delayed import Delayed, sleep_unless
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)

CLOSE_S = 2.0
NAP_S = 60.0  # a laptop's sleep and a clock that was set are noticed this soon
ON_TIME_S = 60.0  # with missed="none" a tick may be this late, as when a cell held the loop
COUNTED = 5000  # of missed ticks: a tenth of a second
AHEAD = timedelta(seconds=1)  # a clock that is put back by less than this has brought no tick too early
_ROUNDING_S = 1e-6


class CronSource:
    """A delivery for each tick, with the payload `{"scheduled_for": datetime}` and the scheduled time as its time.

    The position is the moment up to which the trigger has had its ticks, in this process or an earlier one, by this
    schedule or by an earlier one; a first start begins at its own time. A clock that was ahead and is put right brings
    the ticks up to where it was a second time, with the same ids. Ticks that are due together were missed: `missed`
    says whether the last one comes, all (the last `missed_cap` of them), or none. The id is the same in all processes.
    The runtime honours `overlap`.

    `missed.due` counts no further than `COUNTED`.
    """

    traits: ClassVar[SourceTraits] = SourceTraits(delays_nack=True)

    def __init__(
        self, *, surroundings: Surroundings, schedule: str, timezone: str = "UTC", missed: str = "last",
        missed_cap: int = 100, overlap: str = "skip",
    ) -> None:  # fmt: skip
        self.name = f"cron {schedule}"
        self.overlap = overlap
        self._schedule, self._timezone = " ".join(schedule.split()), timezone
        self._rule = missed
        self.missed = Missed(0, 0)
        self._cap = missed_cap if missed == "all" else 1
        self._clock, self._positions = surroundings.clock, surroundings.positions
        self._report = surroundings.report
        self._position_name = f"cron {surroundings.number} of {surroundings.reader}"
        self._again: deque[Delivery] = deque()
        self._untaken: set[datetime] = set()  # given back at once, as by a trigger that is paused
        self._unsettled: dict[datetime, Delivery] = {}
        self._settled: datetime | None = None
        self._delayed: Delayed[Delivery] = Delayed(self._clock, self._give_back)
        self._nacked = asyncio.Event()

    async def __aenter__(self) -> Self:
        stored = await self._positions.get(self._position_name)
        if stored is None:
            stored = self._now().isoformat()
            await self._positions.put(self._position_name, stored)
        last = self._read(stored)
        if self._is_ahead(last):
            last = await self._put_right(last)
        self.missed = self._missed_since(last)
        # What this object gave out and was not settled comes again, whatever `missed` says.
        left = [self._unsettled[tick] for tick in sorted(self._unsettled)]
        self._again = deque(Delivery(next_attempt(event), token) for event, token, _ in left)
        self._unsettled = {delivery.token: delivery for delivery in self._again}
        self._untaken.clear()
        known = [tick for tick in self._unsettled if not self._is_ahead(tick)]
        self._walk_from(max([last, *known] if self._settled is None else [last, *known, self._settled]))
        return self

    def _read(self, stored: str) -> datetime:
        try:
            if (last := datetime.fromisoformat(stored)).tzinfo is not None:
                return last
        except ValueError:
            pass
        logger.warning("%s: its position in the store is %r, no time with its offset; it begins now", self.name, stored)
        return self._now()

    async def __aexit__(self, *_: object) -> None:
        self._delayed.clear()
        now = self._now()
        if not self._unsettled and self._last <= now < self._next:  # else what is open or due would be forgotten
            with suppress(TimeoutError, StoreError):
                async with asyncio.timeout(CLOSE_S):
                    await self._positions.put(self._position_name, now.isoformat())

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            if self._again:
                return [self._again.popleft() for _ in range(min(limit, len(self._again)))]
            if self._is_ahead(self._last):
                self._walk_from(await self._put_right(self._last))
            wait_s = (self._next - self._now()).total_seconds()
            if wait_s > _ROUNDING_S and not self._untaken:
                self._nacked.clear()
                await sleep_unless(self._clock, min(wait_s, NAP_S), self._nacked)
            else:
                self._again.extend(self._due())

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        settled = [delivery.token for delivery in deliveries if self._unsettled.pop(delivery.token, None) is not None]
        settled = [tick for tick in settled if not self._is_ahead(tick)]
        if not settled:
            return
        self._settled = max(settled) if self._settled is None else max(self._settled, *settled)
        # A process that starts here again begins with the first tick that is not settled.
        open_ticks = [tick for tick in self._unsettled if not self._is_ahead(tick)]
        reached = min(open_ticks) - timedelta(seconds=1) if open_ticks else self._settled
        await self._positions.put(self._position_name, reached.isoformat())

    async def nack(self, delivery: Delivery, *, delay_s: float = 0.0) -> None:
        held = self._unsettled.get(delivery.token)
        if held is None or held.event.attempt != delivery.event.attempt:
            return
        again = Delivery(next_attempt(delivery.event), delivery.token)
        self._unsettled[delivery.token] = again
        if delay_s > 0:
            self._delayed.put(again, delay_s)
        else:
            self._untaken.add(delivery.token)
            self._nacked.set()

    def _give_back(self, delivery: Delivery) -> None:
        self._again.append(delivery)
        self._nacked.set()

    def _is_ahead(self, tick: datetime) -> bool:
        """Whether the clock has been put back since it came."""
        return tick - self._now() > AHEAD

    async def _put_right(self, last: datetime) -> datetime:
        """Go on from now, not from a tick that came while the clock was ahead; those up to it come again."""
        now = self._now()
        self._settled = None if self._settled is None else min(self._settled, now)
        await self._positions.put(self._position_name, now.isoformat())
        text = f"the clock was ahead, as far as {last:%Y-%m-%d %H:%M:%S} UTC, and has been put right; ticks up to then"
        self._report(
            f"clock:{self.name}", f"{self.name}: {text} that came already are duplicates when their time comes"
        )
        return now

    def _missed_since(self, last: datetime) -> Missed:
        now = self._now()
        due = sum(1 for _ in takewhile(lambda tick: tick <= now, islice(self._ticks_after(last), COUNTED)))
        if self._rule == "none":
            on_time = max(last, now - timedelta(seconds=ON_TIME_S))
            return Missed(due, 1 if next(self._ticks_after(on_time)) <= now else 0)
        return Missed(due, min(due, self._cap))

    def _ticks_after(self, last: datetime) -> Iterator[datetime]:
        return ticks(self._schedule, self._timezone, last)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    def _walk_from(self, last: datetime) -> None:
        self._last = last
        self._ticks = self._ticks_after(last)
        self._next = next(self._ticks)

    def _due(self) -> list[Delivery]:
        """The deliveries for the ticks up to now that `missed` lets through, those given back untaken among them."""
        now = self._now() + timedelta(seconds=_ROUNDING_S)
        due = self._walk_to(now) if self._next <= now else []
        due = sorted({*due, *self._untaken})
        self._untaken.clear()
        passed, due = due[: -self._cap], due[-self._cap :]
        if self._rule == "none" and (now - due[-1]).total_seconds() > ON_TIME_S:
            logger.warning("%s: the tick of %s was missed", self.name, due[-1])
            passed, due = [*passed, *due], []
        for tick in passed:
            self._unsettled.pop(tick, None)
        deliveries = [self._unsettled.get(tick) or self._delivery(tick) for tick in due]
        self._unsettled.update((delivery.token, delivery) for delivery in deliveries)
        return deliveries

    def _walk_to(self, now: datetime) -> list[datetime]:
        first, walked = self._next, self._ticks
        following = next(walked)
        if following > now:
            due, self._last, self._next = [first], first, following
        else:
            due = self._latest(now)
            logger.info("%s: more than one tick was due; %s is the last of them", self.name, due[-1])
            self._walk_from(due[-1])
        return due

    def _latest(self, now: datetime) -> list[datetime]:
        """The last ticks up to now, `missed_cap` at most, without walking through all since the last start."""
        span = timedelta(minutes=1)
        while True:
            after = max(self._last, now - span)
            found = list(takewhile(lambda tick: tick <= now, self._ticks_after(after)))
            if len(found) >= self._cap or after == self._last:
                break
            span *= 8
        if self._rule == "all" and (after > self._last or len(found) > self._cap):
            logger.warning("%s: of the missed ticks only the last %d come", self.name, self._cap)
        return list(islice(found, max(0, len(found) - self._cap), None))

    def _delivery(self, tick: datetime) -> Delivery:
        id = f"{self._schedule}|{self._timezone}/{tick:%Y-%m-%dT%H:%M:%SZ}"
        return Delivery(Event({"scheduled_for": tick}, id, self.name, None, NO_HEADERS, tick), tick)
