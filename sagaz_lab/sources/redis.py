"""Redis streams, as one consumer of a group. Needs Redis 7 or newer."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from sagaz_lab.abc import Delivery, Event, Outcomes, SourceTraits, Surroundings
from sagaz_lab.errors import SourceError, StaleDelivery, StoreError
from sagaz_lab.model.event import NO_HEADERS
from sagaz_lab.model.keys import indexable
from sagaz_lab.model.source_traits import TRAITS
from sagaz_lab.sources.read_ahead import CLOSE_S, ReadAhead
from sagaz_lab.sources.redis_group import BLOCK_S, START, ConsumerGroup, Entry, GroupLost
from sagaz_lab.sources.unsettled import Unsettled
from sagaz_lab.texts import logger_of, secrets_of_address

logger = logger_of(__name__)

_ID = re.compile(r"\d{1,20}(-\d{1,20})?")

REMEMBER_S = 1.0  # maximum age of the durable position; entries after it may repeat if the group is lost


class RedisSource:
    """Entries of a stream, with the ids `<stream>/<entry id>` and the timestamp from the entry's id.

    The payload is the field `field` (default: `payload`) as bytes; the other fields are headers. An entry without it
    has an empty payload if `field` was given, else all its fields as strings. A task reads ahead. Entries trimmed
    while pending are lost: they are counted in `lost_by_trimming` and reported. Redis has no redelivery delay, so a
    nacked entry waits here, still pending.
    """

    traits: ClassVar[SourceTraits] = TRAITS["redis"]

    def __init__(
        self, *, surroundings: Surroundings, stream: str, consumer_group: str | None = None,
        consumer: str | None = None, url: str | None = None, field: str | None = None, start_from: str = "earliest",
        claim_idle_ms: int = 60_000,
    ) -> None:  # fmt: skip
        self.name = f"redis {stream}"
        self.lost_by_trimming = 0
        self._stream, self._url, self._start_from = stream, url, start_from
        self._group_name = consumer_group or surroundings.group
        self._reads_as = surroundings.consumer or surroundings.group
        self._consumer = consumer or self._reads_as
        self._entries = _Entries(stream, field)
        self._claim_idle_ms = claim_idle_ms
        self._clock, self._positions, self._lease = surroundings.clock, surroundings.positions, surroundings.lease
        self._lost = surroundings.lost
        self._orphans: set[bytes] = set()  # open but no longer pending: the group is lost, or they were trimmed
        self._unsettled = Unsettled(self._clock)  # including entries read ahead, by entry id
        url = self._url or os.environ.get("REDIS_URL", "")
        self._ahead = ReadAhead(self.name, self._unsettled.arrived, secrets_of_address(url))
        self._ready_since = 0.0
        self._remembered_at = 0.0

    async def __aenter__(self) -> Self:
        url = self._url or os.environ.get("REDIS_URL") or "redis://localhost:6379/0"
        self._group = ConsumerGroup(url, self._stream, self._group_name, self._consumer)
        self._position_name = indexable(f"redis {self._group.server} {self._stream} {self._group_name}")
        try:
            await self._ensure_group()
            await self._succeed()
        except BaseException:
            await self._close()
            raise
        self._ahead.start(self._read)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._ahead.stop()
        self._unsettled.revoke()
        self._orphans.clear()
        if self._ahead.failure is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._remember()
        await self._close()

    async def _close(self) -> None:
        with suppress(TimeoutError, SourceError):
            async with asyncio.timeout(CLOSE_S):
                await self._group.close()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        ahead = self._ahead
        ahead.limit = limit
        while not (deliveries := self._unsettled.take(limit)):
            if ahead.ready and self._clock.monotonic() - self._ready_since > self._claim_idle_ms / 2000:
                await self._keep(())
            if ahead.ready:
                return ahead.take()
            await ahead.want()
        return deliveries

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        revoked = self._unsettled.revoked(deliveries)
        ids = self._unsettled.settle(deliveries)
        pending = await self._group.ack(ids) if ids else 0
        if ids and self._clock.monotonic() - self._remembered_at >= REMEMBER_S:
            await self._remember()
        if stale := len(revoked) + len(ids) - pending:
            raise StaleDelivery(f"{self.name}: {stale} of {len(deliveries)} entries were no longer pending", revoked)

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        by_attempt: dict[int, list[Delivery]] = {}
        for delivery in self._unsettled.held(deliveries):
            by_attempt.setdefault(delivery.event.attempt, []).append(delivery)
        stale = self._unsettled.revoked(deliveries)
        for attempt, alike in by_attempt.items():
            stale += await self._lose_others(alike, attempt + 1)
        self._unsettled.give_back(deliveries, delay_s)
        self._refuse(stale)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        stale = self._unsettled.revoked(deliveries)
        self._refuse(stale + await self._keep(self._unsettled.held(deliveries)))

    async def _keep(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Keep these and the entries read ahead from being claimed; returns those of these already claimed."""
        ahead = self._ahead
        stale = await self._lose_others([*deliveries, *ahead.ready])
        ahead.ready = deque(delivery for delivery in ahead.ready if delivery.token in self._unsettled.open)
        self._ready_since = self._clock.monotonic()
        gone = {delivery.token for delivery in stale}
        return [delivery for delivery in deliveries if delivery.token in gone]

    async def _lose_others(self, deliveries: Sequence[Delivery], attempt: int | None = None) -> list[Delivery]:
        """Reset the idle times; forgets and returns those that others have taken over or settled."""
        if not deliveries:
            return []
        try:
            own, trimmed = await self._group.keep([delivery.token for delivery in deliveries], attempt)
        except GroupLost:
            return []  # the reader recreates the group; the payloads are here, so nothing is lost
        self._orphans |= trimmed
        stale = [it for it in deliveries if it.token not in own and it.token not in self._orphans]
        for delivery in stale:
            self._unsettled.open.pop(delivery.token, None)
        return stale

    def _refuse(self, stale: Sequence[Delivery]) -> None:
        if stale:
            ids = ", ".join(delivery.event.id for delivery in stale[:3])
            raise StaleDelivery(f"{self.name}: {len(stale)} entries are no longer pending here, such as {ids}", stale)

    # --- reading ahead ---

    async def _read(self) -> AsyncGenerator[Sequence[Delivery], None]:
        await self._lease()
        try:
            async for batch in self._read_pending():
                yield batch
        except GroupLost as error:
            await self._renew_group(error)
        claim_at = 0.0
        while True:
            await self._lease()  # a stale process would take entries from its successor
            try:
                if self._clock.monotonic() >= claim_at:
                    async for batch in self._claim():
                        yield batch
                    claim_at = self._clock.monotonic() + self._claim_idle_ms / 1000
                entries = await self._group.read(b">", self._ahead.limit, self._block_ms)
            except GroupLost as error:
                await self._renew_group(error)
            else:
                yield self._deliveries(self._without_orphans(entries) if self._orphans else entries)

    @property
    def _block_ms(self) -> int:
        return min(round(BLOCK_S * 1000), self._claim_idle_ms)

    async def _read_pending(self) -> AsyncGenerator[Sequence[Delivery], None]:
        """Entries that this consumer left unsettled in an earlier process."""
        after = START
        while entries := await self._group.read(after, self._ahead.limit):
            after = entries[-1][0]
            yield await self._take_over(entries)

    async def _claim(self) -> AsyncGenerator[Sequence[Delivery], None]:
        """Entries that other consumers left unsettled."""
        cursor, opened = START, self._unsettled.open
        while True:
            cursor, entries, trimmed = await self._group.claim(self._claim_idle_ms, cursor, self._ahead.limit)
            self._count_lost([id for id in trimmed if id not in opened])
            yield await self._take_over([entry for entry in entries if entry[0] not in opened])
            if cursor == START:
                return

    async def _take_over(self, entries: Sequence[Entry]) -> Sequence[Delivery]:
        if lost := [id for id, fields in entries if fields is None]:
            self._count_lost(lost)
            await self._group.ack(lost)
        if not (whole := [entry for entry in entries if entry[1] is not None]):
            return ()
        return self._deliveries(whole, await self._group.deliveries(whole[0][0], whole[-1][0]))

    def _deliveries(self, entries: Sequence[Entry], attempts: Mapping[bytes, int] | None = None) -> Sequence[Delivery]:
        deliveries = self._entries.deliveries(entries, attempts)
        self._unsettled.add(deliveries)
        self._ready_since = self._clock.monotonic()
        return deliveries

    def _count_lost(self, ids: Sequence[bytes]) -> None:
        if ids:
            self.lost_by_trimming += len(ids)
            shown = ", ".join(id.decode() for id in ids[:3])
            more = ", ..." if len(ids) > 3 else ""
            why = f"trimmed from the stream before they were settled: {shown}{more}; raise its MAXLEN"
            self._lost(len(ids), why)

    # --- the group and its position ---

    async def _ensure_group(self) -> None:
        position = await self._positions.get(self._position_name)
        if position is not None and not _ID.fullmatch(position):
            logger.warning("%s: its stored position %r is not an entry id; a new group begins with the oldest entry",
                           self.name, position)  # fmt: skip
            position = "0-0"
        start = await self._group.ensure(position, self._start_from)
        if start is None and position is None:
            start = await self._group.settled()
        if start is not None:
            await self._positions.put(self._position_name, start)
        self._remembered_at = self._clock.monotonic()

    async def _succeed(self) -> None:
        """Take over at once the entries that the previous owner of these triggers fetched under another name."""
        name = f"redis consumer {self._group.server} {self._stream} {self._group_name} {self._reads_as}"
        last = await self._positions.get(name)
        if last == self._consumer:
            return
        if last is not None:
            await self._group.inherit(last)
        await self._positions.put(name, self._consumer)

    async def _renew_group(self, error: GroupLost) -> None:
        logger.warning("%s: %s; it is created again from the last settled entry", self.name, error)
        self._orphans |= self._unsettled.open.keys()
        await self._ensure_group()

    def _without_orphans(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Drop entries of a new group still open from the old one: they are pending again, not delivered twice."""
        known = {id for id, _ in entries} & self._orphans
        self._orphans -= known
        return [entry for entry in entries if entry[0] not in known or entry[0] not in self._unsettled.open]

    async def _remember(self) -> None:
        self._remembered_at = self._clock.monotonic()
        try:
            if position := await self._group.settled():
                await self._positions.put(self._position_name, position)
        except (SourceError, StoreError) as error:
            logger.info("%s: the position was not stored: %s", self.name, error)


class _Entries:
    """Turns raw entries into deliveries."""

    def __init__(self, stream: str, field: str | None) -> None:
        self._prefix, self._source = f"{stream}/", f"redis {stream}"
        self._named = field is not None
        self._field = (field or "payload").encode()

    def deliveries(self, entries: Sequence[Entry], attempts: Mapping[bytes, int] | None) -> list[Delivery]:
        """`attempts` has the delivery counts; without it, this is the first delivery of all."""
        deliveries = []
        prefix, field, source = self._prefix, self._field, self._source
        last_ms, moment = b"", None
        for id, fields in entries:
            ms = id.partition(b"-")[0]
            if ms != last_ms:
                last_ms, moment = ms, _moment(ms)
            if len(fields) == 2 and fields[0] == field:
                payload, headers = fields[1], NO_HEADERS
            else:
                payload, headers = self._split(fields)
            attempt = 1 if attempts is None else attempts.get(id, 2)
            deliveries.append(
                Delivery(Event(payload, prefix + id.decode(), source, None, headers, moment, attempt), id)
            )
        return deliveries

    def _split(self, fields: Sequence[bytes]) -> tuple[Any, Any]:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        if self._field in pairs:
            payload = pairs.pop(self._field)
            return payload, {_text(name): _text(value) for name, value in pairs.items()}
        texts = {_text(name): _text(value) for name, value in pairs.items()}
        return (b"", texts) if self._named else (texts, NO_HEADERS)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _moment(milliseconds: bytes) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(milliseconds) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None  # a custom id without a time
