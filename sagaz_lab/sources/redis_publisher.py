"""Publishes to Redis streams."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError, ResponseError

from sagaz_lab.abc import Publication
from sagaz_lab.errors import SourceError, SourceNotReady, SourceUnavailable, describe
from sagaz_lab.model.options import Address
from sagaz_lab.sources.redis_group import LOST

ANSWER_S = 5.0


class RedisPublisher:
    """Adds to the stream named like the topic an entry with the fields `payload`, `sagaz-id` and `sagaz-run`.

    A batch is one round trip. Raises `SourceUnavailable` where the server does not answer, `SourceNotReady` where it
    refuses, as for a key that is no stream; what stands before the refused one in the batch is in its stream then.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        url = settings.get("url") or os.environ.get("REDIS_URL") or "redis://localhost:6379/0"
        self._at = Address(url).masked
        try:
            # An entry is never added twice behind our back: the relay publishes again, and tells of it.
            self._client = Redis.from_url(
                url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S, socket_keepalive=True,
            )  # fmt: skip
        except ValueError:
            raise SourceNotReady(f"{self._at} is no address of a Redis server") from None

    async def __aenter__(self) -> Self:
        try:
            with self._answering():
                await self._client.ping()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        with self._answering():
            await self._client.aclose()

    async def publish(self, publications: Sequence[Publication]) -> None:
        with self._answering():
            pipeline = self._client.pipeline(transaction=False)
            for it in publications:
                fields = {"payload": it.payload, "sagaz-id": it.id, "sagaz-run": it.run_id}
                pipeline.xadd(it.topic, fields)  # type: ignore[arg-type]
            replies = await pipeline.execute(raise_on_error=False)
        for publication, reply in zip(publications, replies, strict=True):
            if isinstance(reply, ResponseError):
                raise self._refused(publication.topic, reply)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (AuthenticationError, AuthorizationError) as error:
            raise SourceNotReady(f"Redis at {self._at} refuses: {error}") from error
        except LOST as error:
            raise SourceUnavailable(f"Redis at {self._at}: {describe(error)}") from error

    def _refused(self, topic: str, error: ResponseError) -> SourceError:
        text = f"stream {topic!r} of Redis at {self._at}: {error}"
        if isinstance(error, NoPermissionError) or str(error).startswith("WRONGTYPE"):
            return SourceNotReady(text)
        return SourceUnavailable(text)
