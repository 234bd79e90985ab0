"""While the store is away a source keeps its deliveries; they are decided when it answers, at their first attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import pytest

from sagaz_lab import Lab, Saga, SagaContext, action, skip, trigger
from sagaz_lab.abc import Acceptance, Delivery, Refusal, SourceTraits, Surroundings
from sagaz_lab.errors import StaleDelivery, StoreError, StoreUnavailable
from sagaz_lab.runtime import heartbeat
from sagaz_lab.runtime.triggers.stored_params import ParamsInStore
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from sagaz_lab.testing.store_values import frame
from tests.unit.tools import Tap, assert_adds_up, counted, until


class Away(MemoryStore):
    """A store that does not answer while it is `away`."""

    away = False

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("nobody there")

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        self._answer()
        return await super().accept(batch)

    async def heartbeat(self) -> bool:
        self._answer()
        return await super().heartbeat()


class Watched(Tap):
    """Counts how often its deliveries were kept alive and given back."""

    kept = 0
    given_back = 0
    stale: ClassVar[set[str]] = set()

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        self.kept += 1
        if gone := [delivery for delivery in deliveries if delivery.event.id in self.stale]:
            raise StaleDelivery("taken over", gone)

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        self.given_back += len(deliveries)
        await super().nack(deliveries, delay_s=delay_s)


class Impatient(Watched):
    """One that can keep them for ten seconds."""

    traits: ClassVar[SourceTraits] = Watched.traits._replace(keeps_s=10.0)


class Webhook(Watched):
    """One that can keep nothing."""

    traits: ClassVar[SourceTraits] = Watched.traits._replace(keeps_s=0.0)


class Losing(Watched):
    """Its broker takes one of them back."""

    stale: ClassVar[set[str]] = {"e1"}


class Reader:
    """A Lab that reads one source, and the attempts of the events that it has started."""

    def __init__(self, clock: VirtualClock, kind: type[Watched]) -> None:
        self.clock, self.store = clock, Away()
        self.attempts: dict[str, int] = {}
        self.lab = Lab(self.store, clock=clock, sources={"memory": self._make})
        self.decided = 0
        attempts = self.attempts
        reader = self
        with self.lab.activate():

            class Orders(Saga):
                @trigger(source="memory", topic="orders")
                def on_order(self, event: Any) -> dict[str, Any]:
                    reader.decided += 1
                    return {}

                @action("ship")
                async def ship(self, ctx: SagaContext) -> None:
                    assert ctx.event is not None
                    attempts[ctx.event.id] = ctx.event.attempt

        self._kind = kind

    def _make(self, settings: Any, surroundings: Surroundings) -> Watched:
        if not hasattr(self, "source"):
            self.source = self._kind(surroundings=surroundings, topic="orders")
        return self.source

    @property
    def state(self) -> str:
        return self.lab.status().sources[0].state

    async def lose_the_store(self, events: int = 3) -> None:
        await self.lab.start()
        self.store.away = True
        for n in range(events):
            await self.source.put({"n": n}, id=f"e{n}")
        await until(lambda: self.source.waiting == 0)
        await self.clock.advance(0)

    async def find_it(self) -> None:
        self.store.away = False
        await self.clock.advance(2)


@pytest.fixture
async def reader(request: pytest.FixtureRequest) -> AsyncIterator[Reader]:
    reader = Reader(VirtualClock(), getattr(request, "param", Watched))
    yield reader
    await reader.lab.stop()


async def test_a_store_that_is_away_for_a_minute_uses_up_no_attempt(reader: Reader) -> None:
    await reader.lose_the_store()
    await reader.clock.advance(60)
    assert reader.source.kept == pytest.approx(60, abs=2)
    assert counted(reader.lab, "Orders.on_order") == {}
    await reader.find_it()
    assert reader.attempts == {"e0": 1, "e1": 1, "e2": 1}
    assert (reader.source.given_back, reader.source.left, reader.source.unsettled) == (0, 0, 0)
    assert reader.decided <= 6  # at the first try, and when the store has answered
    assert reader.lab.status().sources[0].received == 3
    assert sum("waits for the store" in text for text in reader.lab.status().warnings) == 1


@pytest.mark.parametrize("reader", [Impatient], indirect=True, ids=["impatient"])
async def test_past_its_bound_a_source_gives_all_back_once_and_is_left_until_the_store_answers(reader: Reader) -> None:
    await reader.lose_the_store()
    await reader.clock.advance(9)
    assert reader.source.given_back == 0
    await reader.clock.advance(100)
    assert (reader.source.given_back, reader.source.entered, reader.source.left) == (3, 1, 1)
    assert reader.state == "reconnecting"
    await reader.find_it()
    await until(lambda: len(reader.attempts) == 3)
    assert reader.attempts == {"e0": 2, "e1": 2, "e2": 2}
    assert (reader.source.given_back, reader.source.entered, reader.state) == (3, 2, "connected")


@pytest.mark.parametrize("reader", [Webhook], indirect=True, ids=["webhook"])
async def test_a_source_that_keeps_nothing_gives_all_back_at_once(reader: Reader) -> None:
    await reader.lose_the_store(1)
    assert (reader.source.given_back, reader.source.kept) == (1, 0)
    await reader.clock.advance(60)
    assert (reader.source.given_back, reader.source.entered) == (1, 1)
    await reader.find_it()
    assert reader.attempts == {"e0": 2}


@pytest.mark.parametrize("reader", [Losing], indirect=True, ids=["losing"])
async def test_what_becomes_stale_meanwhile_leaves_the_batch(reader: Reader) -> None:
    await reader.lose_the_store()
    await reader.clock.advance(5)
    await reader.find_it()
    assert reader.attempts == {"e0": 1, "e2": 1}
    assert counted(reader.lab, "Orders.on_order") == {"received": 2, "started": 2}


async def test_a_stop_while_the_store_is_away_gives_all_back(reader: Reader) -> None:
    await reader.lose_the_store()
    await reader.clock.advance(5)
    with suppress(StoreUnavailable):  # its counts cannot be stored
        async with asyncio.timeout(5):
            await reader.lab.stop()
    assert reader.source.given_back == 3
    assert len(reader.source.ledger.take(10)) == 3


async def test_what_came_is_decided_once_the_trigger_has_room_and_the_store_answers(reader: Reader) -> None:
    await reader.lose_the_store(1)
    reader.lab.pause("Orders.on_order")
    await reader.clock.advance(2)
    assert (reader.source.given_back, reader.state) == (1, "paused")
    reader.lab.resume("Orders.on_order")
    await reader.clock.advance(2)
    await reader.find_it()
    assert reader.attempts == {"e0": 2}
    assert_adds_up(reader.lab)


class NoPositions(Away):
    """Keeps runs but not, for a while, how far a source has been read."""

    failures = 0

    def positions(self) -> Any:
        positions, store = super().positions(), self

        class Failing:
            async def get(self, name: str) -> str | None:
                return await positions.get(name)

            async def put(self, name: str, value: str) -> None:
                if store.failures and name.startswith("cron"):
                    store.failures -= 1
                    raise StoreUnavailable("nobody there")
                await positions.put(name, value)

        return Failing()


async def test_a_source_that_cannot_note_its_position_is_entered_again(clock: VirtualClock) -> None:
    store, ticks = NoPositions(), list[Any]()
    lab = Lab(store, clock=clock)
    with lab.activate():

        class Nightly(Saga):
            @trigger(source="cron", schedule="* * * * *")
            def on_tick(self, event: Any) -> None:
                ticks.append(event.scheduled_for)

    await lab.start()
    store.failures = 1
    await clock.advance(61)
    await until(lambda: ticks)
    for _ in range(5):
        await clock.advance(30)
    assert lab.status().sources[0].state == "connected"
    assert len(set(ticks)) == 3
    await lab.stop()


class Choosy(MemoryStore):
    """A store that refuses one batch with counts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if batch.filtered and not self.calls:
            self.calls.append("refused")
            raise StoreError("this text cannot be stored")
        return await super().accept(batch)


async def test_counts_that_a_store_has_refused_come_with_the_next_and_the_rest_of_the_beat_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Choosy()

    async def follow(params: ParamsInStore) -> None:
        if store.calls:
            store.calls.append("params")

    monkeypatch.setattr(heartbeat, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(ParamsInStore, "follow", follow)
    async with Lab(store) as lab:

        class Counted(Saga):
            @trigger(source="memory")
            def on_event(self, event):
                return skip(event["why"])

        for why in ("low", "low", "high"):
            await lab.fire("Counted.on_event", {"why": why})
        await until(lambda: sum(row["count"] for row in frame(store, "counts")) == 3)
        assert store.calls[:2] == ["refused", "params"]
        await lab.fire("Counted.on_event", {"why": "low"})
    assert {row["reason"]: row["count"] for row in frame(store, "counts")} == {"low": 3, "high": 1}
