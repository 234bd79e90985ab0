"""Publishing to Redis streams, against a server that the test may kill."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from sagaz_lab.abc import Event, Publication
from sagaz_lab.errors import SourceNotReady, SourceUnavailable
from sagaz_lab.sources.redis_publisher import RedisPublisher
from tests.services.redis import RedisServer, running_redis
from tests.unit.tools import until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


def entries(server: RedisServer, stream: str) -> list[dict[str, str]]:
    with server.client() as client:
        found: Any = client.xrange(stream)
    return [{name.decode(): value.decode() for name, value in fields.items()} for _, fields in found]


def publications(*numbers: int, topic: str = "out") -> list[Publication]:
    return [Publication(f"r/1/a/{n}", topic, b'{"n":%d}' % n, "s.t", "r") for n in numbers]


async def test_a_batch_becomes_entries_in_its_order(server: RedisServer) -> None:
    async with RedisPublisher({"url": server.url}) as publisher:
        await publisher.publish(publications(1, 2))
        await publisher.publish([*publications(3), *publications(4, topic="other")])
    assert entries(server, "out") == [
        {"payload": f'{{"n":{n}}}', "sagaz-id": f"r/1/a/{n}", "sagaz-run": "r"} for n in (1, 2, 3)
    ]
    assert len(entries(server, "other")) == 1


async def test_a_server_that_is_away_or_refuses_says_so(tmp_path: Path) -> None:
    with running_redis(tmp_path, password="secret") as server:
        with pytest.raises(SourceNotReady, match="refuses"):
            async with RedisPublisher({"url": server.url.replace("secret", "wrong")}):
                pass
        async with RedisPublisher({"url": server.url}) as publisher:
            with server.client() as client:
                client.set("out", "no stream")
            refused = await publisher.publish(publications(1))
            assert re.match(r"stream 'out' of Redis at .*WRONGTYPE", str(refused["r/1/a/1"]))
            server.kill()
            with pytest.raises(SourceUnavailable, match=r"Redis at redis://:\*\*\*@127") as raised:
                await publisher.publish(publications(1, topic="other"))
            assert "secret" not in str(raised.value)
        with pytest.raises(SourceUnavailable):
            async with RedisPublisher({"url": server.url}):
                pass
    with pytest.raises(SourceNotReady, match="must be an address such as"):
        RedisPublisher({"url": "http://127.0.0.1"})


def of_run(run: str, *topics: str) -> list[Publication]:
    return [Publication(f"{run}/{n}", topic, b"1", "s.t", run) for n, topic in enumerate(topics)]


@pytest.mark.parametrize("rights", ["+@all ~*", "+@all -@transaction ~*", "+@all ~good* ~bad"])
async def test_nothing_of_a_run_overtakes_what_is_refused(server: RedisServer, rights: str) -> None:
    with server.client() as client:
        client.set("bad", "no stream")
        client.acl_setuser("maker", enabled=True, nopass=True, reset=True, commands=[], keys=[])
        client.execute_command("ACL", "SETUSER", "maker", *rights.split())
    sent = [
        *of_run("a", "good", "bad", "good", "good"),
        *of_run("b", "good", "good2", "good"),
        *of_run("c", "bad", "good"),
        *of_run("d", "good2", "good2"),
    ]
    async with RedisPublisher({"url": server.url.replace("redis://", "redis://maker:x@")}) as publisher:
        refused = await publisher.publish(sent)
        assert sorted(refused) == ["a/1", "c/0"]
    arrived = [it["sagaz-id"] for stream in ("good", "good2") for it in entries(server, stream)]
    assert sorted(arrived) == ["a/0", "b/0", "b/1", "b/2", "d/0", "d/1"]
    assert arrived.index("b/0") < arrived.index("b/2")
    assert arrived.index("d/0") < arrived.index("d/1")


async def test_what_it_may_not_write_is_refused_alone(server: RedisServer) -> None:
    with server.client() as client:
        client.acl_setuser("maker", enabled=True, nopass=True, reset=True, commands=["+@all"], keys=["good"])
    async with RedisPublisher({"url": server.url.replace("redis://", "redis://maker:x@")}) as publisher:
        refused = await publisher.publish([*of_run("a", "secret", "good"), *of_run("b", "good")])
    assert list(refused) == ["a/0"]
    assert [it["sagaz-id"] for it in entries(server, "good")] == ["b/0"]


async def test_a_server_without_memory_is_not_there_for_now(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("maxmemory", "1")
    async with RedisPublisher({"url": server.url}) as publisher:
        with pytest.raises(SourceUnavailable, match="memory"):
            await publisher.publish([*of_run("a", "good", "good"), *of_run("b", "good")])
    with server.client() as client:
        client.config_set("maxmemory", "0")
    assert entries(server, "good") == []


async def test_what_runs_publish_survives_the_server(server: RedisServer, tmp_path: Path) -> None:
    """The server dies between two runs: all that they published arrives, in order, and is heard by the next saga."""
    heard: list[Event] = []
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

        class Train(Saga):
            saga_name = "train"

            @trigger(source="redis", stream="drift", url=server.url)
            def on_drift(self, event: Event) -> dict[str, Any]:
                return {"n": event["n"]}

            @action()
            def fit(self, ctx: SagaContext) -> None:
                ctx.publish("trained", {"n": ctx["n"]})

        class Deploy(Saga):
            saga_name = "deploy"

            @trigger(source="redis", stream="trained", url=server.url)
            def on_trained(self, event: Event) -> None:
                heard.append(event)

        await lab.start()
        with server.client() as client:
            client.xadd("drift", {"payload": json.dumps({"n": 1})})
        await until(lambda: len(heard) == 1)
        server.kill()
        for n in (2, 3):
            await lab.fire("train.on_drift", {"n": n})
        await until(lambda: any("publishing to redis" in warning for warning in lab.status().warnings))
        await until(lambda: len(lab.store.rows("publications", None)[1]) == 2)
        server.start()
        await until(lambda: len({event.id for event in heard}) >= 3)
    payloads = dict.fromkeys(event["n"] for event in heard)
    assert list(payloads) == [1, 2, 3]
    assert all(event.headers["sagaz-id"].endswith("/1/fit/1") for event in heard)
