"""One consumer of a Redis stream's group: commands with raw replies and our errors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, RedisError, ResponseError

from sagaz_lab.errors import SourceError, SourceNotReady, SourceUnavailable, describe
from sagaz_lab.model.options import Address
from sagaz_lab.model.redis_address import FILES, options_of, redis_address

Entry = tuple[bytes, Any]
"""An entry's id and its alternating fields and values, as bytes; None if it was trimmed while pending."""

BLOCK_S = 2.0
ANSWER_S = 5.0
START = b"0-0"
PAGE = 1000
_LAST_SEQUENCE = 2**64 - 1

LOST = (RedisError, OSError, RuntimeError, AttributeError)
"""Raised by the client when its connection breaks. The last two come from a transport closed during a
write: CPython 3.13.0 raises `AttributeError` there, uvloop `RuntimeError`."""


def client_at(url: str, answer_s: float) -> Redis:
    """A client that is not connected yet. Raises `SourceNotReady` for an address that cannot work.

    The client never resends a command by itself: entries in a lost reply are pending and read at the next opening; the
    relay publishes again and reports it. Replies stay raw: parsing them into dicts costs more than all other work per
    entry.
    """
    at = Address(url).masked
    if wrong := redis_address(url):
        raise SourceNotReady(f"the address {at} {wrong}")
    for name, [path, *_] in options_of(url).items():
        if name in FILES and not os.path.exists(path):
            raise SourceNotReady(f"the address {at} sets {name}, but there is no {path}")
    try:  # options of the address override these
        client: Redis = Redis.from_url(
            url, protocol=2, decode_responses=False, retry=Retry(NoBackoff(), 0), socket_timeout=answer_s,
            socket_connect_timeout=ANSWER_S, socket_keepalive=True,
        )  # fmt: skip
        client.connection_pool.make_connection()  # type: ignore[no-untyped-call]
    except (TypeError, ValueError):
        raise SourceNotReady(f"{at} is not an address of a Redis server, or redis-py rejects its options") from None
    return client


class GroupLost(SourceError):
    """The stream or the group is gone."""


class ConsumerGroup:
    """Raises `GroupLost`, `SourceUnavailable` if the server does not answer, `SourceNotReady` if it refuses."""

    def __init__(self, url: str, stream: str, group: str, consumer: str) -> None:
        self._at = Address(url).masked
        self._stream, self._group, self._consumer = stream, group, consumer
        # The socket's time-out must exceed BLOCK.
        self._client = client_at(url, BLOCK_S + ANSWER_S)
        for command in ("XREADGROUP", "XAUTOCLAIM", "XPENDING", "XCLAIM"):
            self._client.set_response_callback(command, _raw)
        self._reading = ("XREADGROUP", "GROUP", group, consumer)

    @property
    def server(self) -> str:
        """The address without a password."""
        return self._at

    async def close(self) -> None:
        with self._answering():
            await self._client.aclose()

    async def read(self, after: bytes, count: int, block_ms: int | None = None) -> list[Entry]:
        """New entries (`after` is `>`), or this consumer's pending ones after an id."""
        block = () if block_ms is None else ("BLOCK", block_ms)
        reply = await self._do(*self._reading, "COUNT", count, *block, "STREAMS", self._stream, after)
        entries: list[Entry] = reply[0][1] if reply else []
        return entries

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Returns how many were still pending."""
        return int(await self._do("XACK", self._stream, self._group, *ids))

    async def claim(self, idle_ms: int, cursor: bytes, count: int) -> tuple[bytes, list[Entry], list[bytes]]:
        """Take over entries unsettled for `idle_ms`: the next cursor, the entries, and the trimmed ids."""
        reply = await self._do(
            "XAUTOCLAIM", self._stream, self._group, self._consumer, idle_ms, cursor, "COUNT", count
        )  # fmt: skip
        return reply[0], [entry for entry in reply[1] if entry], reply[2] if len(reply) > 2 else []

    async def deliveries(self, first: bytes, last: bytes) -> dict[bytes, int]:
        """Delivery counts of this consumer's pending entries between two ids."""
        found: dict[bytes, int] = {}
        while rows := await self._do("XPENDING", self._stream, self._group, first, last, PAGE, self._consumer):
            found.update((row[0], int(row[3])) for row in rows)
            if len(rows) < PAGE:
                break
            first = b"(" + rows[-1][0]
        return found

    async def inherit(self, consumer: str) -> None:
        """Take over all pending entries of another consumer."""
        while rows := await self._do("XPENDING", self._stream, self._group, "-", "+", PAGE, consumer):
            ids = [row[0] for row in rows]
            await self._do("XCLAIM", self._stream, self._group, self._consumer, 0, *ids, "JUSTID")

    async def keep(self, ids: Sequence[bytes], attempt: int | None = None) -> tuple[set[bytes], set[bytes]]:
        """Reset the idle time of this consumer's entries and set their delivery count.

        Returns its own entries and, of these, the trimmed ones, which are no longer pending. Entries that another
        consumer has taken over stay there.
        """
        mine = await self.deliveries(min(ids, key=_numbers), max(ids, key=_numbers))
        if not (own := [id for id in ids if id in mine]):
            return set(), set()
        count = () if attempt is None else ("RETRYCOUNT", attempt)
        kept = await self._do("XCLAIM", self._stream, self._group, self._consumer, 0, *own, *count, "JUSTID")
        return set(own), set(own).difference(kept)

    async def ensure(self, position: str | None, start_from: str) -> str | None:
        """Create the group if missing, starting after `position`; returns its start if it was created."""
        try:
            last: bytes | None = (await self._do("XINFO STREAM", self._stream))["last-generated-id"]
        except GroupLost:
            last = None
        start = position.encode() if position else START
        if position is None and start_from == "latest" and last is not None:
            start = last
        if last is None or _numbers(start) > _numbers(last):
            start = START  # the position is from a deleted stream: the new one is unread
        try:
            await self._do("XGROUP CREATE", self._stream, self._group, start, "MKSTREAM")
        except _GroupExists:
            return None
        return start.decode()

    async def settled(self) -> str | None:
        """The id up to which all delivered entries are acked; None without a group."""
        try:
            groups = await self._do("XINFO GROUPS", self._stream)
            mine = next((group for group in groups if group["name"] == self._group.encode()), None)
            if mine is None:
                return None
            delivered = _numbers(mine["last-delivered-id"])
            # Read second: entries delivered in between are pending or after `delivered`.
            pending, lowest, *_ = await self._do("XPENDING", self._stream, self._group)
        except GroupLost:
            return None
        if pending:
            delivered = min(delivered, _before(_numbers(lowest)))
        return "{}-{}".format(*delivered)

    async def _do(self, *command: Any) -> Any:
        with self._answering():
            return await self._client.execute_command(*command)  # type: ignore[no-untyped-call]

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (AuthenticationError, AuthorizationError, NoPermissionError) as error:
            raise SourceNotReady(f"Redis at {self._at} refuses: {error}") from error
        except ResponseError as error:
            raise self._refused(error) from error
        except LOST as error:
            raise SourceUnavailable(f"Redis at {self._at}: {describe(error)}") from error

    def _refused(self, error: ResponseError) -> SourceError:
        text = str(error)
        if text.startswith(("NOGROUP", "UNBLOCKED", "no such key")):
            return GroupLost(f"group {self._group!r} of stream {self._stream!r} at {self._at}: {text}")
        if text.startswith("BUSYGROUP"):
            return _GroupExists(text)
        if text.startswith(("WRONGTYPE", "unknown command", "syntax error", "DB index")):
            return SourceNotReady(f"stream {self._stream!r} of Redis at {self._at}: {text}")
        return SourceUnavailable(f"Redis at {self._at}: {text}")


class _GroupExists(SourceError):
    pass


def _raw(response: Any, **kwargs: Any) -> Any:
    return response


def _numbers(id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = id.partition(b"-")
    return int(milliseconds), int(sequence or 0)


def _before(id: tuple[int, int]) -> tuple[int, int]:
    milliseconds, sequence = id
    if sequence:
        return milliseconds, sequence - 1
    return (milliseconds - 1, _LAST_SEQUENCE) if milliseconds else (0, 0)
