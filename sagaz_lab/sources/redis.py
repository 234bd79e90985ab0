"""Redis streams, as one consumer of a group. Needs Redis 7 or newer."""

from __future__ import annotations

import asyncio
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from sagaz_lab.abc import Delivery, Event, OnLost, SourceTraits, Surroundings
from sagaz_lab.errors import (
    LeaseLost,
    SourceError,
    SourceUnavailable,
    StaleDelivery,
    StoreError,
    without_credentials,
)
from sagaz_lab.model.event import NO_HEADERS, next_attempt
from sagaz_lab.sources.delayed import Delayed
from sagaz_lab.sources.redis_group import BLOCK_S, START, ConsumerGroup, Entry, GroupLost
from sagaz_lab.texts import logger_of, secrets_of_address

logger = logger_of(__name__)

_ID = re.compile(r"\d{1,20}(-\d{1,20})?")

CLOSE_S = 2.0
REMEMBER_S = 1.0  # how old the durable position may be; what lies behind it may come twice if the group is lost


class RedisSource:
    """Entries of a stream, with the ids `<stream>/<entry id>` and the time in the entry's id.

    The payload is the field `field`, or `payload` if none is named and the entry has it, as bytes; the other fields
    are headers. An entry without that field has an empty payload if `field` was named, else all its fields as texts.
    A task reads ahead, up to two batches of the size asked for last. Entries that were trimmed while pending are lost:
    they are counted in `lost_by_trimming` and reported. Redis has no redelivery delay, so a nacked entry waits here,
    still pending.
    """

    traits: ClassVar[SourceTraits] = SourceTraits(delays_nack=True)

    def __init__(
        self, *, surroundings: Surroundings, stream: str, consumer_group: str | None = None,
        consumer: str | None = None, url: str | None = None, field: str | None = None, start_from: str = "earliest",
        claim_idle_ms: int = 60_000,
    ) -> None:  # fmt: skip
        self.name = f"redis {stream}"
        self.lost_by_trimming = 0
        self.on_lost: OnLost | None = None
        self._stream, self._url, self._start_from = stream, url, start_from
        self._group_name = consumer_group or surroundings.group
        self._reads_as = surroundings.consumer or surroundings.group
        self._consumer = consumer or self._reads_as
        self._entries = _Entries(stream, field)
        self._claim_idle_ms = claim_idle_ms
        self._clock, self._positions, self._lease = surroundings.clock, surroundings.positions, surroundings.lease
        self._limit = 1
        self._ready: deque[Delivery] = deque()
        self._ready_since = 0.0
        self._again: deque[Delivery] = deque()
        self._held: dict[bytes, Delivery] = {}  # all that is here and not settled, by entry id
        self._orphans: set[bytes] = set()  # held, but the group that they were pending in is lost
        self._delayed: Delayed[Delivery] = Delayed(self._clock, self._give_back)
        self._arrived = asyncio.Event()
        self._wanted = asyncio.Event()
        self._failure: BaseException | None = None
        self._closing = False
        self._remembered_at = 0.0

    async def __aenter__(self) -> Self:
        url = self._url or os.environ.get("REDIS_URL") or "redis://localhost:6379/0"
        self._group = ConsumerGroup(url, self._stream, self._group_name, self._consumer)
        self._position_name = f"redis {self._group.server} {self._stream} {self._group_name}"
        try:
            await self._ensure_group()
            await self._succeed()
        except BaseException:
            await self._close()
            raise
        self._failure, self._closing = None, False
        self._wanted.clear()
        self._reader = asyncio.create_task(self._read_ahead(), name=self.name)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self._closing = True
        for _ in range(20):
            # Once may not do: Python 3.11's `wait_for`, which redis-py awaits, can swallow a cancellation.
            self._reader.cancel()
            if (await asyncio.wait([self._reader], timeout=CLOSE_S / 20))[0]:
                break
        self._delayed.clear()
        for kept in (self._ready, self._again, self._held, self._orphans):
            kept.clear()
        if self._failure is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._remember()
        await self._close()

    async def _close(self) -> None:
        with suppress(TimeoutError, SourceError):
            async with asyncio.timeout(CLOSE_S):
                await self._group.close()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self._limit = limit
        while True:
            if self._again:
                return _take(self._again, limit)
            if self._ready and self._clock.monotonic() - self._ready_since > self._claim_idle_ms / 2000:
                await self._drop_claimed()
            if self._ready:
                deliveries = _take(self._ready, limit)
                if len(self._ready) <= limit:
                    self._wanted.set()
                return deliveries
            if self._failure is not None:
                raise self._failure
            self._arrived.clear()
            self._wanted.set()
            await self._arrived.wait()

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        held = self._held
        ids = [delivery[1] for delivery in deliveries if held.pop(delivery[1], None) is not None]
        if not ids:
            return
        pending = await self._group.ack(ids)
        if self._clock.monotonic() - self._remembered_at >= REMEMBER_S:
            await self._remember()
        if pending < len(ids):
            raise StaleDelivery(f"{self.name}: {len(ids) - pending} of {len(ids)} entries were pending no more")

    async def nack(self, delivery: Delivery, *, delay_s: float = 0.0) -> None:
        held = self._held.get(delivery.token)
        if held is None or held.event.attempt != delivery.event.attempt:
            return
        again = Delivery(next_attempt(delivery.event), delivery.token)
        # With no group there is nothing to settle, but the payload is here, so nothing is lost.
        with suppress(GroupLost):
            kept = await self._group.keep(delivery.token, again.event.attempt)
            if not kept and delivery.token not in self._orphans:
                self._held.pop(delivery.token, None)
                raise StaleDelivery(f"{self.name}: {delivery.event.id} is pending no more")
        self._held[delivery.token] = again
        self._delayed.put(again, delay_s)

    def _give_back(self, delivery: Delivery) -> None:
        self._again.append(delivery)
        self._arrived.set()

    # --- reading ahead ---

    async def _read_ahead(self) -> None:
        try:
            await self._wanted.wait()
            await self._lease()
            try:
                await self._read_pending()
            except GroupLost as error:
                await self._renew_group(error)
            claim_at = 0.0
            while True:
                await self._lease()  # a stale process would take entries from whoever has taken over
                try:
                    if self._clock.monotonic() >= claim_at:
                        await self._claim()
                        claim_at = self._clock.monotonic() + self._claim_idle_ms / 1000
                    entries = await self._group.read(b">", self._limit, self._block_ms)
                except GroupLost as error:
                    await self._renew_group(error)
                else:
                    await self._hand_over(self._without_orphans(entries) if self._orphans else entries)
        except (SourceError, LeaseLost) as error:
            self._failure = error
        except asyncio.CancelledError:
            if not self._closing:  # the client has raised it by itself, or somebody cancelled this task
                self._failure = SourceUnavailable(f"{self.name}: reading was cancelled from outside")
            raise
        except Exception as error:
            safe = without_credentials(error, secrets_of_address(self._url or os.environ.get("REDIS_URL", "")))
            logger.error("%s: reading failed", self.name, exc_info=safe)
            self._failure = SourceUnavailable(f"{self.name}: reading failed, see the log")
            self._failure.__cause__ = safe
        finally:
            self._arrived.set()

    @property
    def _block_ms(self) -> int:
        return min(round(BLOCK_S * 1000), self._claim_idle_ms)

    async def _read_pending(self) -> None:
        """What this consumer had and did not settle, in an earlier life."""
        after = START
        while entries := await self._group.read(after, self._limit):
            after = entries[-1][0]
            await self._take_over(entries)

    async def _claim(self) -> None:
        """What others had and did not settle."""
        cursor = START
        while True:
            cursor, entries, trimmed = await self._group.claim(self._claim_idle_ms, cursor, self._limit)
            self._count_lost([id for id in trimmed if id not in self._held])
            await self._take_over([entry for entry in entries if entry[0] not in self._held])
            if cursor == START:
                return

    async def _take_over(self, entries: Sequence[Entry]) -> None:
        if lost := [id for id, fields in entries if fields is None]:
            self._count_lost(lost)
            await self._group.ack(lost)
        if whole := [entry for entry in entries if entry[1] is not None]:
            attempts = await self._group.deliveries(whole[0][0], whole[-1][0], len(whole) + len(self._held))
            await self._hand_over(whole, attempts)

    async def _hand_over(self, entries: Sequence[Entry], attempts: Mapping[bytes, int] | None = None) -> None:
        if not entries:
            return
        deliveries = self._entries.deliveries(entries, attempts)
        self._held.update([(delivery[1], delivery) for delivery in deliveries])
        self._ready.extend(deliveries)
        self._ready_since = self._clock.monotonic()
        self._arrived.set()
        if len(self._ready) > self._limit:
            self._wanted.clear()
            await self._wanted.wait()

    async def _drop_claimed(self) -> None:
        """Others take over what has waited here for too long, as when the runtime was held up."""
        ready = self._ready
        try:
            mine = await self._group.deliveries(ready[0].token, ready[-1].token, len(self._held) + 1)
        except GroupLost:
            return  # the reader will notice; the payloads are here
        for delivery in ready:
            if delivery.token not in mine:
                self._held.pop(delivery.token, None)
        self._ready = deque(delivery for delivery in ready if delivery.token in mine)
        self._ready_since = self._clock.monotonic()

    def _count_lost(self, ids: Sequence[bytes]) -> None:
        if ids:
            self.lost_by_trimming += len(ids)
            shown = ", ".join(id.decode() for id in ids[:3])
            more = ", ..." if len(ids) > 3 else ""
            why = f"trimmed from the stream before they were handled: {shown}{more}; raise its MAXLEN"
            logger.warning("%s: %d entries were %s", self.name, len(ids), why)
            if self.on_lost is not None:
                self.on_lost(len(ids), why)

    # --- the group and its position ---

    async def _ensure_group(self) -> None:
        position = await self._positions.get(self._position_name)
        if position is not None and not _ID.fullmatch(position):
            logger.warning("%s: its position in the store is %r, no id of an entry; a new group begins with the oldest",
                           self.name, position)  # fmt: skip
            position = "0-0"
        start = await self._group.ensure(position, self._start_from)
        if start is None and position is None:
            start = await self._group.settled()
        if start is not None:
            await self._positions.put(self._position_name, start)
        self._remembered_at = self._clock.monotonic()

    async def _succeed(self) -> None:
        """Take over at once what the last owner of these triggers, gone or stale, had fetched under another name."""
        name = f"redis consumer {self._group.server} {self._stream} {self._group_name} {self._reads_as}"
        last = await self._positions.get(name)
        if last == self._consumer:
            return
        if last is not None:
            await self._group.inherit(last)
        await self._positions.put(name, self._consumer)

    async def _renew_group(self, error: GroupLost) -> None:
        logger.warning("%s: %s; it is made again from the last settled entry", self.name, error)
        self._orphans |= self._held.keys()
        await self._ensure_group()

    def _without_orphans(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The new group gives anew what is held here of the old one: it is pending again, and not handed out twice."""
        known = {id for id, _ in entries} & self._orphans
        self._orphans -= known
        return [entry for entry in entries if entry[0] not in known or entry[0] not in self._held]

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
        """`attempts` says how often each was delivered; without it this is the first time for all."""
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
        return None  # an id of the user's own that is no time


def _take(queue: deque[Delivery], limit: int) -> list[Delivery]:
    return [queue.popleft() for _ in range(min(limit, len(queue)))]
