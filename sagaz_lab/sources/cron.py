"""The cron source: ticks of a schedule."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice, takewhile
from typing import ClassVar, Self

from sagaz_lab.abc import Delivery, Event, Missed, Outcomes, SourceTraits, Surroundings
from sagaz_lab.errors import StoreError
from sagaz_lab.model.event import NO_HEADERS
from sagaz_lab.model.schedule import ticks
from sagaz_lab.model.source_traits import TRAITS
from sagaz_lab.sources.unsettled import Unsettled
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)

CLOSE_S = 2.0
NAP_S = 60.0  # detects a laptop's sleep or a changed clock within this time
ON_TIME_S = 60.0  # with missed="none" a tick may be this late, as after a cell that blocked the loop
COUNTED = 5000  # limit of counted missed ticks: a tenth of a second
AHEAD = timedelta(seconds=1)  # smaller clock corrections cannot have caused an early tick
_ROUNDING_S = 1e-6


class CronSource:
    """One delivery per tick, with the payload `{"scheduled_for": datetime}` and the scheduled time as timestamp.

    The position is the time up to which the trigger has received its ticks, across processes and schedules; the first
    start begins at its own time. After a fast clock is corrected, the ticks up to the old time come again with the
    same ids. Of several ticks due at once, which were missed, `missed` selects the last one, all (the last
    `missed_cap`), or none. Ids are the same in all processes. The runtime honours `overlap`.

    Missed ticks are counted up to `COUNTED`.
    """

    traits: ClassVar[SourceTraits] = TRAITS["cron"]

    def __init__(
        self, *, surroundings: Surroundings, schedule: str, timezone: str = "UTC", missed: str = "last",
        missed_cap: int = 100, overlap: str = "skip",
    ) -> None:  # fmt: skip
        self.name = f"cron {schedule}"
        self.overlap = overlap
        self._schedule, self._timezone = " ".join(schedule.split()), timezone
        self._rule = missed
        self._cap = missed_cap if missed == "all" else 1
        self._clock, self._positions = surroundings.clock, surroundings.positions
        self._report, self._tell_missed = surroundings.report, surroundings.missed
        self._position_name = f"cron {surroundings.number} of {surroundings.reader}"
        self._untaken: set[datetime] = set()  # given back at once, as by a paused trigger
        self._unsettled = Unsettled(self._clock)
        self._settled: datetime | None = None

    async def __aenter__(self) -> Self:
        stored = await self._positions.get(self._position_name)
        if stored is None:
            stored = self._now().isoformat()
            await self._positions.put(self._position_name, stored)
        last = self._read(stored)
        if self._is_ahead(last):
            last = await self._put_right(last)
        self._tell_missed(self._missed_since(last))
        known = [tick for tick in self._unsettled.open if not self._is_ahead(tick)]
        self._walk_from(max([last, *known] if self._settled is None else [last, *known, self._settled]))
        return self

    def _read(self, stored: str) -> datetime:
        try:
            if (last := datetime.fromisoformat(stored)).tzinfo is not None:
                return last
        except ValueError:
            pass
        logger.warning("%s: its stored position %r is not an aware time; it begins now", self.name, stored)
        return self._now()

    async def __aexit__(self, *_: object) -> None:
        # When entered again, unsettled ticks are delivered again, regardless of `missed`.
        self._unsettled.left()
        self._untaken.clear()
        now = self._now()
        if not self._unsettled.open and self._last <= now < self._next:  # else open or due ticks would be lost
            with suppress(TimeoutError, StoreError):
                async with asyncio.timeout(CLOSE_S):
                    await self._positions.put(self._position_name, now.isoformat())

    async def receive(self, limit: int) -> Sequence[Delivery]:
        while True:
            if deliveries := self._unsettled.take(limit):
                return deliveries
            if self._is_ahead(self._last):
                self._walk_from(await self._put_right(self._last))
            wait_s = (self._next - self._now()).total_seconds()
            if wait_s > _ROUNDING_S and not self._untaken:
                await self._unsettled.wait(min(wait_s, NAP_S))
            else:
                self._unsettled.queue(self._due())

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        settled = [tick for tick in self._unsettled.settle(deliveries) if not self._is_ahead(tick)]
        if not settled:
            return
        self._settled = max(settled) if self._settled is None else max(self._settled, *settled)
        # The next process begins with the first unsettled tick.
        open_ticks = [tick for tick in self._unsettled.open if not self._is_ahead(tick)]
        reached = min(open_ticks) - timedelta(seconds=1) if open_ticks else self._settled
        await self._positions.put(self._position_name, reached.isoformat())

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        if delay_s > 0:
            self._unsettled.give_back(deliveries, delay_s)
        else:
            self._untaken.update(delivery.token for delivery in self._unsettled.renew(deliveries))
            self._unsettled.arrived.set()

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        """No-op: no other consumer takes them."""

    def _is_ahead(self, tick: datetime) -> bool:
        """Whether the clock has been set back since the tick."""
        return tick - self._now() > AHEAD

    async def _put_right(self, last: datetime) -> datetime:
        """Continue from now instead of a tick from a fast clock; the ticks up to it come again."""
        now = self._now()
        self._settled = None if self._settled is None else min(self._settled, now)
        await self._positions.put(self._position_name, now.isoformat())
        text = f"the clock was ahead, up to {last:%Y-%m-%d %H:%M:%S} UTC, and has been corrected; ticks up to then"
        self._report(f"clock:{self.name}", f"{self.name}: {text} that have fired are duplicates when their time comes")
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
        """Deliveries for the ticks up to now that `missed` selects, including those given back at once."""
        now = self._now() + timedelta(seconds=_ROUNDING_S)
        due = self._walk_to(now) if self._next <= now else []
        due = sorted({*due, *self._untaken})
        self._untaken.clear()
        passed, due = due[: -self._cap], due[-self._cap :]
        if self._rule == "none" and (now - due[-1]).total_seconds() > ON_TIME_S:
            logger.warning("%s: the tick of %s was missed", self.name, due[-1])
            passed, due = [*passed, *due], []
        for tick in passed:
            self._unsettled.open.pop(tick, None)
        return [self._unsettled.open.get(tick) or self._delivery(tick) for tick in due]

    def _walk_to(self, now: datetime) -> list[datetime]:
        first, walked = self._next, self._ticks
        following = next(walked)
        if following > now:
            due, self._last, self._next = [first], first, following
        else:
            due = self._latest(now)
            logger.info("%s: several ticks were due; %s is the last", self.name, due[-1])
            self._walk_from(due[-1])
        return due

    def _latest(self, now: datetime) -> list[datetime]:
        """The last ticks up to now, up to `missed_cap`, without iterating from the last start."""
        span = timedelta(minutes=1)
        while True:
            after = max(self._last, now - span)
            found = list(takewhile(lambda tick: tick <= now, self._ticks_after(after)))
            if len(found) >= self._cap or after == self._last:
                break
            span *= 8
        if self._rule == "all" and (after > self._last or len(found) > self._cap):
            logger.warning("%s: only the last %d missed ticks are delivered", self.name, self._cap)
        return list(islice(found, max(0, len(found) - self._cap), None))

    def _delivery(self, tick: datetime) -> Delivery:
        id = f"{self._schedule}|{self._timezone}/{tick:%Y-%m-%dT%H:%M:%SZ}"
        return Delivery(Event({"scheduled_for": tick}, id, self.name, None, NO_HEADERS, tick), tick)
