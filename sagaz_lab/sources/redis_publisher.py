"""Publishes to Redis streams."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from sagaz_lab.abc import Publication
from sagaz_lab.errors import SourceError, SourceNotReady, SourceUnavailable, describe
from sagaz_lab.model.options import Address
from sagaz_lab.sources.redis_group import LOST, client_at

ANSWER_S = 5.0

_FOR_ALL = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MISCONF", "NOREPLICAS", "BUSY")


class RedisPublisher:
    """Adds entries with the fields `payload`, `sagaz-id` and `sagaz-run` to the stream named by the topic.

    A batch is one round trip, plus one per change of topic within a run. Refuses publications that Redis refuses, as
    for a key that is not a stream. Raises `SourceUnavailable` if the server does not answer or accepts no writes,
    `SourceNotReady` if it denies access.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        url = settings.get("url") or os.environ.get("REDIS_URL") or "redis://localhost:6379/0"
        self._at = Address(url).masked
        self._atomic = False
        self._client = client_at(url, ANSWER_S)

    async def __aenter__(self) -> Self:
        try:
            with self._answering():
                await self._client.ping()
                self._atomic = await self._may_transact()
        except ResponseError as error:
            await self.__aexit__()
            raise SourceNotReady(f"Redis at {self._at} refuses: {error}") from error
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_exception: object) -> None:
        with self._answering():
            await self._client.aclose()

    async def _may_transact(self) -> bool:
        try:
            pipeline = self._client.pipeline(transaction=True)
            pipeline.execute_command("PING")
            await pipeline.execute()
        except ResponseError:
            return False
        return True

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        refused: dict[str, Exception] = {}
        stopped: set[str] = set()
        left = list(publications)
        while left:
            now, later = _split_at_topic_changes(left)
            for publication, reply in zip(now, await self._add(now), strict=True):
                if isinstance(reply, ResponseError) and publication.order not in stopped:
                    refused[publication.id] = SourceError(
                        f"stream {publication.topic!r} of Redis at {self._at}: {reply}"
                    )
                    stopped.add(publication.order)
            left = [it for it in later if it.order not in stopped]
        return refused

    async def _add(self, publications: Sequence[Publication]) -> Sequence[Any]:
        """Redis's reply to each; a separate error for those after a refused one."""
        if self._atomic and len(publications) > 1:
            try:
                return await self._execute(publications, transaction=True)
            except ResponseError:
                pass  # a command rejected when queued leaves the transaction without replies
        elif len({it.order for it in publications}) == len(publications):
            return await self._execute(publications, transaction=False)
        replies: list[Any] = []
        stopped: dict[str, Any] = {}
        for it in publications:
            if it.order not in stopped:
                [reply] = await self._execute([it], transaction=False)
                if isinstance(reply, ResponseError):
                    stopped[it.order] = reply
            replies.append(stopped.get(it.order))
        return replies

    async def _execute(self, publications: Sequence[Publication], *, transaction: bool) -> Sequence[Any]:
        with self._answering():
            pipeline = self._client.pipeline(transaction=transaction)
            for it in publications:
                fields = {"payload": it.payload, "sagaz-id": it.id, "sagaz-run": it.run_id}
                pipeline.xadd(it.topic, fields)  # type: ignore[arg-type]
            replies: Sequence[Any] = await pipeline.execute(raise_on_error=False)
            for reply in replies:
                if isinstance(reply, ResponseError) and _is_for_all(reply):
                    raise reply
        return replies

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (AuthenticationError, AuthorizationError) as error:
            raise SourceNotReady(f"Redis at {self._at} refuses: {error}") from error
        except ResponseError as error:
            if not _is_for_all(error):
                raise
            raise SourceUnavailable(f"Redis at {self._at}: {describe(error)}") from error
        except LOST as error:
            raise SourceUnavailable(f"Redis at {self._at}: {describe(error)}") from error


def _split_at_topic_changes(publications: Sequence[Publication]) -> tuple[list[Publication], list[Publication]]:
    """Split off, for each run, the publications before its topic changes."""
    topics: dict[str, str | None] = {}
    now, later = [], []
    for it in publications:
        if topics.setdefault(it.order, it.topic) == it.topic:
            now.append(it)
        else:
            topics[it.order] = None
            later.append(it)
    return now, later


def _is_for_all(error: ResponseError) -> bool:
    """Whether the server accepts no writes at all now; else it refuses this entry only."""
    return isinstance(error, OutOfMemoryError | ReadOnlyError) or str(error).startswith(_FOR_ALL)
