"""Errors of the Redis client that are no errors of its own."""

import asyncio
import traceback

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from sagaz_lab.abc import Publication, Surroundings
from sagaz_lab.errors import SourceUnavailable
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.sources.redis_group import ConsumerGroup
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


async def test_a_fault_of_the_client_is_logged_without_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def answers(*_: object) -> None: ...

    async def fails(*_: object) -> None:
        raise LookupError("login as C4n4ryPW")

    monkeypatch.setattr(RedisSource, "_ensure_group", answers)
    monkeypatch.setattr(RedisSource, "_succeed", answers)
    monkeypatch.setattr(ConsumerGroup, "read", fails)
    monkeypatch.setattr(ConsumerGroup, "settled", answers)
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="lab-1")
    async with asyncio.timeout(5), RedisSource(surroundings=here, stream="s", url="redis://u:C4n4ryPW@h:1") as source:
        with pytest.raises(SourceUnavailable, match="see the log") as raised:
            await source.receive(1)
    assert "login as ***" in caplog.text
    assert "C4n4ryPW" not in caplog.text + "".join(traceback.format_exception(raised.value))
