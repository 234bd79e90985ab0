"""An address of a Redis server says where it is and who asks; what else it sets works, or is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.abc import Publication, Surroundings
from sagaz_lab.errors import DefinitionError, SourceNotReady
from sagaz_lab.model.redis_address import OPTIONS, redis_address
from sagaz_lab.model.signatures import positional
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.sources.redis_publisher import RedisPublisher
from sagaz_lab.testing.sources import MemoryPositions
from tests.services.redis import RedisServer, running_redis

REFUSED = [
    "protocol=3", "protocol=9", "protocol=2", "max_connections=1", "socket_timeout=1", "decode_responses=true",
    "encoding=latin-1", "encoding_errors=ignore", "single_connection_client=true", "retry_on_timeout=true",
    "retry_on_error=x", "retry=3", "timeout=1", "host=elsewhere", "port=1", "parser_class=x", "legacy_responses=true",
]  # fmt: skip

ALLOWED = ["db=3", "client_name=me", "socket_connect_timeout=1.5", "socket_keepalive=false", "health_check_interval=1",
           "db=3&client_name=me&protocol="]  # fmt: skip

WRONG = {
    "redis://h:1?db=x": "sets db, which must be a whole number",
    "redis://h:1?client_name=a%20b": "sets client_name, which must have no spaces",
    "redis://h:1?socket_connect_timeout=nan": "sets socket_connect_timeout, which must be a number of seconds",
    "redis://h:1?health_check_interval=soon": "sets health_check_interval, which must be a whole number",
    "redis://h:1?ssl_certfile=a.pem": "sets ssl_certfile, which needs a rediss:// address",
    "rediss://h:1?ssl_cert_reqs=maybe": "sets ssl_cert_reqs, which must be one of: none, optional, required",
    "redis://h:1/orders": "must give the database as a number",
    "redis://h:1/1/2": "must give the database as a number",
    "redis://h:port/0": "with a numeric port",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.mark.parametrize("option", REFUSED)
async def test_an_option_that_the_source_sets_itself_is_refused_where_it_is_written(option: str) -> None:
    name = option.partition("=")[0]
    with pytest.raises(DefinitionError, match=rf"S.on: url='redis://h:1/0\?.*' must not set {name} after the '\?'"):

        class S(Saga):
            @trigger(source="redis", stream="s", url=f"redis://h:1/0?{option}")
            def on(self, event: object) -> None: ...


@pytest.mark.parametrize("option", REFUSED)
async def test_in_the_environment_it_is_refused_at_the_start(
    server: RedisServer, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"{server.url}?{option}")
    name = option.partition("=")[0]
    async with Lab("memory") as lab:

        class S(Saga):
            @trigger(source="redis", stream="s")
            def on(self, event: object) -> None: ...

        with pytest.raises(SourceNotReady, match=f"must not set {name}"):
            await lab.start()
    with pytest.raises(SourceNotReady, match=f"must not set {name}"):
        RedisPublisher({})


@pytest.mark.parametrize("address", WRONG)
def test_a_wrong_value_is_refused_by_name(address: str) -> None:
    assert WRONG[address] in (redis_address(address) or "")
    with pytest.raises(SourceNotReady):
        RedisPublisher({"url": address})


@pytest.mark.parametrize("option", ALLOWED)
async def test_an_option_that_is_allowed_works(server: RedisServer, option: str) -> None:
    url = f"{server.url.removesuffix('/0')}?{option}"
    stream = option.replace("=", "-")
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="lab-1")
    source = RedisSource(surroundings=here, stream=stream, url=url)
    async with asyncio.timeout(15), RedisPublisher({"url": url}) as publisher, source:
        for number in (b"1", b"2"):
            await publisher.publish([Publication("p" + number.decode(), stream, number, "s.t", "r1")])
            [delivery] = await source.receive(1)
            assert delivery.event.payload == number
            await source.settle([delivery], ())
            await asyncio.sleep(1.1 if "health" in option else 0)


async def test_a_database_that_the_server_does_not_have_is_refused_at_the_start(server: RedisServer) -> None:
    url = server.url.removesuffix("0") + "999"
    here = Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="lab-1")
    with pytest.raises(SourceNotReady, match="DB index is out of range"):
        async with RedisSource(surroundings=here, stream="s", url=url):
            pass
    with pytest.raises(SourceNotReady, match="DB index is out of range"):
        async with RedisPublisher({"url": url}):
            pass


def test_a_certificate_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(SourceNotReady, match=r"sets ssl_certfile, but there is no .*/none\.pem"):
        RedisPublisher({"url": f"rediss://h:1?ssl_certfile={tmp_path}/none.pem"})
    (tmp_path / "ca.pem").touch()
    RedisPublisher({"url": f"rediss://h:1?ssl_ca_certs={tmp_path}/ca.pem&ssl_cert_reqs=none&ssl_check_hostname=false"})


KNOWN = {name for kind in (AbstractConnection, Connection, SSLConnection, ConnectionPool)
         for name in positional(kind.__init__)[1:] + list(kind.__init__.__kwdefaults__ or ())}  # fmt: skip


@given(st.sampled_from(sorted(KNOWN)), st.sampled_from(["1", "true", "text", "3"]))
def test_no_parameter_of_the_client_is_overruled_unless_it_is_listed(name: str, value: str) -> None:
    wrong = redis_address(f"rediss://h:1?{name}={value}")
    assert name in OPTIONS or f"must not set {name}" in (wrong or "")


def test_a_credential_under_a_mistyped_name_is_not_shown() -> None:
    with pytest.raises(DefinitionError, match="must not set pasword") as raised:

        class S(Saga):
            @trigger(source="redis", stream="s", url="redis://h:1/0?pasword=C4n4ryPW")
            def on(self, event: object) -> None: ...

    assert "C4n4ryPW" not in str(raised.value)


@pytest.mark.parametrize("group", [{}, {"consumer_group": "g"}])
async def test_two_triggers_that_would_divide_a_stream_are_refused_at_the_start(
    server: RedisServer, group: dict[str, str]
) -> None:
    async with Lab("memory") as lab:

        class S(Saga):
            @trigger(source="redis", stream="both", url=server.url, **group)
            def one(self, event: object) -> None: ...

            @trigger(source="redis", stream="both", url=server.url, claim_idle_ms=5000, **group)
            def two(self, event: object) -> None: ...

        with pytest.raises(SourceNotReady, match=r"S\.one and S\.two read redis both .* a consumer group of its own"):
            await lab.start()
