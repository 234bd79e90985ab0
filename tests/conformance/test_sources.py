"""Every source keeps the promises of the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from uuid import uuid4

import pytest

from sagaz_lab.abc import Acceptance, DeadLetter, Event, Source, Surroundings
from sagaz_lab.history.recording import RecordingSource
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.sources.cron import CronSource
from sagaz_lab.sources.dead_letters import DeadLetterSource
from sagaz_lab.sources.memory import MemorySource
from sagaz_lab.sources.redis import RedisSource
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from sagaz_lab.testing.sources import Feed, MemoryPositions, SourceSuite
from tests.services.redis import RedisServer, running_redis


@pytest.fixture
def surroundings() -> Surroundings:
    return Surroundings(clock=SystemClock(), positions=MemoryPositions(), group="lab-1")


class TestMemory(SourceSuite):
    @pytest.fixture
    def source(self, surroundings: Surroundings) -> MemorySource:
        return MemorySource(surroundings=surroundings, topic="orders")

    @pytest.fixture
    def feed(self, source: MemorySource) -> Feed:
        numbers = iter(range(1000))

        async def feed(count: int) -> None:
            for _ in range(count):
                await source.put({"n": next(numbers)})

        return feed


class TestRecordingOfData(SourceSuite):
    @pytest.fixture
    def rows(self) -> list[object]:
        return []

    @pytest.fixture
    def source(self, surroundings: Surroundings, rows: list[object]) -> Source:
        return RecordingSource(surroundings=surroundings, data=rows)

    @pytest.fixture
    def feed(self, rows: list[object]) -> Feed:
        async def feed(count: int) -> None:
            rows.extend({"n": number} for number in range(len(rows), len(rows) + count))

        return feed


class TestRecordingOfLines(SourceSuite):
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "events.jsonl"
        path.touch()
        return path

    @pytest.fixture
    def source(self, surroundings: Surroundings, path: Path) -> Source:
        return RecordingSource(surroundings=surroundings, path=path, keep_ids=True)

    @pytest.fixture
    def feed(self, path: Path) -> Feed:
        numbers = iter(range(1000))

        async def feed(count: int) -> None:
            with path.open("a") as file:
                file.writelines(f'{{"n": {next(numbers)}}}\n' for _ in range(count))

        return feed


class TestCron(SourceSuite):
    @pytest.fixture
    def clock(self) -> VirtualClock:
        self.clock = VirtualClock(datetime(2024, 1, 1, tzinfo=UTC))
        return self.clock

    @pytest.fixture
    def source(self, clock: VirtualClock) -> Source:
        here = Surroundings(clock=clock, positions=MemoryPositions(), group="lab-1")
        return CronSource(surroundings=here, schedule="* * * * *", missed="all", missed_cap=1000)

    @pytest.fixture
    def feed(self, clock: VirtualClock) -> Feed:
        async def feed(count: int) -> None:
            await clock.advance(60 * count)

        return feed

    def number_of(self, event: Event) -> int:
        assert event.payload["scheduled_for"] == event.timestamp
        return round((event.timestamp - datetime(2024, 1, 1, tzinfo=UTC)).total_seconds() / 60) - 1

    async def pass_time(self, seconds: float) -> None:
        await self.clock.advance(seconds)


class TestDeadLetters(SourceSuite):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    @pytest.fixture
    def source(self, store: MemoryStore) -> Source:
        here = Surroundings(
            clock=SystemClock(), positions=store.positions(), group="lab-1", letters=store.letters_after
        )
        return DeadLetterSource(surroundings=here)

    @pytest.fixture
    def feed(self, store: MemoryStore) -> Feed:
        numbers = iter(range(1000))

        async def feed(count: int) -> None:
            await store.accept(Acceptance(dead=[self.letter(number) for number in islice(numbers, count)]))

        return feed

    def letter(self, number: int) -> DeadLetter:
        return DeadLetter(
            id=f"d-{number:012x}", event=Event({"n": number}, f"e{number}"), trigger="S.on_event", saga="S", cause="c",
            error="e", traceback="", attempts=1, revision=1, at=0.0,
        )  # fmt: skip

    def number_of(self, event: Event) -> int:
        number: int = event.payload["payload"]["n"]
        return number


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


class TestRedis(SourceSuite):
    @pytest.fixture
    def stream(self) -> str:
        return f"stream-{uuid4().hex}"

    @pytest.fixture
    def source(self, surroundings: Surroundings, redis_server: RedisServer, stream: str) -> Source:
        return RedisSource(surroundings=surroundings, stream=stream, url=redis_server.url)

    @pytest.fixture
    def feed(self, redis_server: RedisServer, stream: str) -> Feed:
        numbers = iter(range(1000))

        async def feed(count: int) -> None:
            with redis_server.client() as client:
                for _ in range(count):
                    client.xadd(stream, {"payload": json.dumps({"n": next(numbers)})})

        return feed
