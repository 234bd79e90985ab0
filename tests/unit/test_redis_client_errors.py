"""Errors of the Redis client that are no errors of its own."""

import asyncio

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sagaz_lab.abc import Publication, Surroundings
from sagaz_lab.errors import SourceUnavailable
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.sources.redis_publisher import RedisPublisher
from sagaz_lab.testing.sources import MemoryPositions

BROKEN = [
    AttributeError("'NoneType' object has no attribute '_add_writer'"),
    RuntimeError("unable to perform operation on <TCPTransport closed=True>"),
    RedisError("Connection closed by server"),
    ConnectionResetError(104, "Connection reset by peer"),
]


@pytest.fixture(params=BROKEN, ids=lambda error: type(error).__name__)
def error(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    async def fails(*_arguments: object, **_options: object) -> None:
        raise request.param

    monkeypatch.setattr(Redis, "execute_command", fails)
    monkeypatch.setattr("redis.asyncio.client.Pipeline.execute", fails)
    return request.param


async def test_a_connection_that_breaks_under_a_command_means_that_redis_is_away(error: Exception) -> None:
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="g")
    with pytest.raises(SourceUnavailable, match="Redis at"):
        async with asyncio.timeout(5), RedisSource(surroundings=here, stream="s", url="redis://127.0.0.1:1"):
            pass


async def test_a_connection_that_breaks_under_a_publication_means_that_redis_is_away(error: Exception) -> None:
    with pytest.raises(SourceUnavailable, match="Redis at"):
        async with asyncio.timeout(5), RedisPublisher({"url": "redis://127.0.0.1:1"}) as publisher:
            await publisher.publish([Publication("p1", "topic", b"{}", "s.t", "r1")])
