"""The promises of the `Source` protocol as a test suite for sources.

Subclass `SourceSuite` in a test module and define two fixtures: `source`, an empty source that is not entered yet, and
`feed`. If an event's payload is not `{"n": number}`, plain or as JSON, override `number_of`; if the source's clock is
virtual, override `pass_time`. Needs pytest and pytest-asyncio with asyncio_mode=auto.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from sagaz_lab.abc import Delivery, Event, Outcome, Positions, Source, SourceTraits
from sagaz_lab.errors import EndOfSource, StaleDelivery
from sagaz_lab.model.run import OutcomeKind

Feed = Callable[[int], Awaitable[None]]

DELAY_S = 0.4
QUIET_S = 0.15
CLOSE_S = 5.0


class MemoryPositions(Positions):
    """Positions in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    async def get(self, name: str) -> str | None:
        return self.values.get(name)

    async def put(self, name: str, value: str) -> None:
        self.values[name] = value


async def take(source: Source, count: int, limit: int = 100) -> list[Delivery]:
    """Receive `count` deliveries in as many calls as needed."""
    found: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await source.receive(min(limit, count - len(found)))
    return found


async def settle(source: Source, deliveries: Sequence[Delivery]) -> None:
    """Settle them as having started a run each."""
    ids = [delivery.event.id for delivery in deliveries]
    started = [(Outcome(OutcomeKind.STARTED, "", id, "suite.on_event", f"r-{id}", 1, 0.0),) for id in ids]
    await source.settle(deliveries, started)


async def nothing_comes(source: Source) -> bool:
    """Whether the source delivers nothing for a moment."""
    try:
        await asyncio.wait_for(source.receive(1), QUIET_S)
    except (TimeoutError, EndOfSource):
        return True
    return False


class SourceSuite:
    """Tests that every source must pass. `feed(n)` creates the next n events, numbered from 0, in order."""

    @pytest.fixture
    def source(self) -> Source:
        raise NotImplementedError("define a fixture `source`")

    @pytest.fixture
    def feed(self, source: Source) -> Feed:
        raise NotImplementedError("define a fixture `feed`")

    @pytest.fixture
    def traits(self, source: Source) -> SourceTraits:
        return source.traits

    def number_of(self, event: Event) -> int:
        payload = json.loads(event.payload) if isinstance(event.payload, bytes) else event.payload
        number: int = payload["n"]
        return number

    async def pass_time(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def comes_next(self, source: Source, feed: Feed, traits: SourceTraits, number: int) -> bool:
        """Whether nothing comes before what is fed now, which has this number."""
        if traits.finite or not traits.ordered:
            return await nothing_comes(source)
        await feed(1)
        came = await take(source, 1)
        await settle(source, came)
        return self.numbers(came) == [number]

    def numbers(self, deliveries: list[Delivery]) -> list[int]:
        return [self.number_of(delivery.event) for delivery in deliveries]

    async def test_all_that_is_fed_arrives_in_order(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        async with source:
            await feed(25)
            numbers = self.numbers(await take(source, 25))
        assert (numbers if traits.ordered else sorted(numbers)) == list(range(25))

    async def test_receive_returns_at_most_the_limit(self, source: Source, feed: Feed) -> None:
        async with source:
            await feed(10)
            sizes: list[int] = []
            while sum(sizes) < 10:
                sizes.append(len(await source.receive(3)))
        assert all(1 <= size <= 3 for size in sizes)

    async def test_a_smaller_limit_holds_at_once(self, source: Source, feed: Feed) -> None:
        async with source:
            await feed(30)
            first = await source.receive(10)
            assert len(await source.receive(1)) == 1
            assert len(await take(source, 30 - len(first) - 1, limit=4)) == 30 - len(first) - 1

    async def test_an_event_is_complete(self, source: Source, feed: Feed) -> None:
        async with source:
            await feed(3)
            events = [delivery.event for delivery in await take(source, 3)]
        assert len({event.id for event in events}) == 3
        for event in events:
            assert event.id
            assert event.source
            assert event.attempt == 1
            assert event.timestamp.utcoffset() == timedelta(0)
            assert isinstance(event.headers, Mapping)

    async def test_receive_waits_for_an_event(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        if traits.finite:
            pytest.skip("it is finite: it ends where others wait")
        async with source:
            waiting = asyncio.create_task(take(source, 1))
            await asyncio.sleep(QUIET_S)
            assert not waiting.done()
            await feed(1)
            assert self.numbers(await waiting) == [0]

    async def test_a_cancelled_receive_loses_nothing(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        numbers: list[int] = []
        async with source:
            await feed(20 if traits.finite else 0)
            for turn in range(20):
                receiving = asyncio.create_task(take(source, 1))
                await asyncio.sleep(turn % 2 / 1000)
                await feed(0 if traits.finite else 1)
                await asyncio.sleep(turn % 4 / 2000)
                receiving.cancel()
                with suppress(asyncio.CancelledError):
                    numbers += self.numbers(await receiving)
            numbers += self.numbers(await take(source, 20 - len(numbers)))
        assert sorted(numbers) == list(range(20))

    async def test_a_nacked_delivery_comes_back_with_its_id(
        self, source: Source, feed: Feed, traits: SourceTraits
    ) -> None:
        async with source:
            await feed(3)
            one, *others = await take(source, 3)
            await settle(source, others)
            await source.nack([one])
            (again,) = await take(source, 1)
            assert again.event.id == one.event.id
            assert self.number_of(again.event) == self.number_of(one.event)
            assert again.event.attempt == one.event.attempt + 1
            await settle(source, [again])
            assert await self.comes_next(source, feed, traits, 3)

    async def test_nacked_deliveries_keep_their_order(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        if not traits.ordered:
            pytest.skip("unordered")
        async with source:
            await feed(5)
            for delivery in await take(source, 5):
                await source.nack([delivery])
            assert self.numbers(await take(source, 5)) == list(range(5))

    async def test_a_delayed_nack_waits(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        if not traits.delays_nack:
            pytest.skip("it does not delay a nack")
        async with source:
            await feed(1)
            (delivery,) = await take(source, 1)
            await source.nack([delivery], delay_s=DELAY_S)
            assert await nothing_comes(source)
            waiting = asyncio.create_task(take(source, 1))
            await self.pass_time(DELAY_S + 0.1)
            assert (await waiting)[0].event.id == delivery.event.id

    async def test_settling_twice_changes_nothing(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        async with source:
            await feed(2)
            one, two = await take(source, 2)
            await settle(source, [one, two])
            await settle(source, [one, two])
            await source.nack([one])
            assert await self.comes_next(source, feed, traits, 2)

    async def test_several_are_given_back_at_once(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        async with source:
            await feed(4)
            one, *others = await take(source, 4)
            await settle(source, [one])
            await source.nack([one, *others])
            again = await take(source, 3)
            numbers = self.numbers(again)
            assert (numbers if traits.ordered else sorted(numbers)) == [1, 2, 3]
            assert all(delivery.event.attempt == 2 for delivery in again)
            await settle(source, others)
            await source.nack(again)
            assert len(await take(source, 3)) == 3

    async def test_what_is_kept_alive_can_be_settled_and_given_back(
        self, source: Source, feed: Feed, traits: SourceTraits
    ) -> None:
        async with source:
            await feed(3)
            one, two, three = await take(source, 3)
            for _ in range(3):
                await source.keep_alive([one, two, three])
            assert await self.comes_next(source, feed, traits, 3)
            await settle(source, [one, two])
            await source.keep_alive([three])
            await source.nack([three])
            (again,) = await take(source, 1)
            assert (again.event.id, again.event.attempt) == (three.event.id, 2)
            await settle(source, [again])
            assert await self.comes_next(source, feed, traits, 4)

    async def test_a_nack_counts_once(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        async with source:
            await feed(1)
            (delivery,) = await take(source, 1)
            await source.nack([delivery])
            await source.nack([delivery])
            (again,) = await take(source, 1)
            await source.nack([delivery])
            assert again.event.attempt == 2
            assert await self.comes_next(source, feed, traits, 1)

    async def test_leaving_settles_nothing(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        if not traits.redelivers:
            pytest.skip("it does not redeliver")
        async with source:
            await feed(6)
            first = await take(source, 4)
            await settle(source, first[:2])
        async with source:
            again = await take(source, 4)
            ids = {delivery.event.id: delivery.event.attempt for delivery in again}
            assert {delivery.event.id for delivery in first[2:]} <= ids.keys()
            assert not {delivery.event.id for delivery in first[:2]} & ids.keys()
            assert all(ids[delivery.event.id] > 1 for delivery in first[2:])
            await settle(source, again)
            assert await self.comes_next(source, feed, traits, 6)

    async def test_settling_after_leaving_harms_nothing(self, source: Source, feed: Feed) -> None:
        async with source:
            await feed(2)
            old = await take(source, 2)
        async with source:
            with suppress(StaleDelivery):
                await settle(source, old)
            await feed(1)
            came = await take(source, 1)
            with suppress(EndOfSource, TimeoutError):
                while True:
                    came += await asyncio.wait_for(source.receive(10), QUIET_S if 2 in self.numbers(came) else CLOSE_S)
        assert set(self.numbers(came)) in ({2}, {0, 1, 2})

    async def test_leaving_takes_bounded_time_and_leaves_no_task(self, source: Source, feed: Feed) -> None:
        before = asyncio.all_tasks()
        async with asyncio.timeout(CLOSE_S):
            async with source:
                await feed(3)
                one, *_ = await take(source, 2)
                await source.nack([one], delay_s=3600)
        async with asyncio.timeout(CLOSE_S):
            while asyncio.all_tasks() != before:  # noqa: ASYNC110  one of another library may end later
                await asyncio.sleep(0.01)

    async def test_a_finite_source_says_that_it_ended(self, source: Source, feed: Feed, traits: SourceTraits) -> None:
        if not traits.finite:
            pytest.skip("endless")
        async with source:
            await feed(3)
            one, *others = await take(source, 3)
            await settle(source, others)
            with pytest.raises(EndOfSource):
                await source.receive(1)
            await source.nack([one])
            assert self.numbers(await take(source, 1)) == [0]
            with pytest.raises(EndOfSource):
                await source.receive(1)

    async def test_it_says_what_it_is(self, source: Source) -> None:
        """The class has the traits too, since they are read before a source is created."""
        assert source.name
        assert isinstance(source.traits, SourceTraits)
        assert type(source).traits == source.traits
        assert source.traits.keeps_s is None or source.traits.keeps_s >= 0
