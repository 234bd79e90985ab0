"""The cron source, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from sagaz_lab import Event, Lab, Saga, trigger
from sagaz_lab.abc import Delivery, Missed, Surroundings
from sagaz_lab.sources.cron import CronSource
from sagaz_lab.testing.clock import VirtualClock
from sagaz_lab.testing.sources import MemoryPositions

HOUR_S, DAY_S = 3600, 86_400


class Process:
    """One process after another on one store, at one clock."""

    def __init__(self, start: datetime) -> None:
        self.clock = VirtualClock(start)
        self.positions = MemoryPositions()
        self.got: list[Delivery] = []
        self.missed: list[Missed] = []

    @asynccontextmanager
    async def running(self, *, settle: bool = True, **options: Any) -> AsyncIterator[CronSource]:
        here = Surroundings(clock=self.clock, positions=self.positions, group="lab-1", missed=self.missed.append)
        async with CronSource(surroundings=here, **options) as source:
            pump = asyncio.create_task(self._pump(source, settle))
            await self.clock.advance(0)
            yield source
            await self.clock.advance(0)
            pump.cancel()
            await asyncio.wait([pump])

    async def _pump(self, source: CronSource, settle: bool) -> None:
        while True:
            deliveries = await source.receive(100)
            self.got += deliveries
            if settle:
                await source.settle(deliveries, ())

    @property
    def times(self) -> list[str]:
        return [f"{delivery.event.timestamp:%d %H:%M}" for delivery in self.got]


async def test_a_tick_comes_at_its_time_with_an_id_that_all_processes_share() -> None:
    process = Process(datetime(2024, 10, 26, 20, tzinfo=UTC))
    async with process.running(schedule="30 2 * * *", timezone="Europe/Berlin"):
        await process.clock.advance(2 * DAY_S)
    events = [delivery.event for delivery in process.got]
    assert [event.id for event in events] == [
        "30 2 * * *|Europe/Berlin/2024-10-27T00:30:00Z",
        "30 2 * * *|Europe/Berlin/2024-10-28T01:30:00Z",
    ]
    assert all(event.payload == {"scheduled_for": event.timestamp} for event in events)


async def test_a_first_start_has_missed_nothing() -> None:
    process = Process(datetime(2024, 1, 1, 12, 30, tzinfo=UTC))
    async with process.running(schedule="@hourly", missed="all"):
        assert process.times == []
        await process.clock.advance(HOUR_S)
    assert process.times == ["01 13:00"]


@pytest.mark.parametrize(
    ("missed", "cap", "expected"),
    [
        ("last", 100, ["01 16:00", "01 17:00"]),
        ("all", 100, ["01 14:00", "01 15:00", "01 16:00", "01 17:00"]),
        ("all", 2, ["01 15:00", "01 16:00", "01 17:00"]),
        ("none", 100, ["01 17:00"]),
    ],
)
async def test_ticks_missed_while_away(missed: str, cap: int, expected: list[str]) -> None:
    process = Process(datetime(2024, 1, 1, 12, 30, tzinfo=UTC))
    options = {"schedule": "@hourly", "missed": missed, "missed_cap": cap}
    async with process.running(**options):
        await process.clock.advance(HOUR_S)
    await process.clock.advance(3 * HOUR_S)
    async with process.running(**options):
        await process.clock.advance(HOUR_S / 2)
    assert process.times == ["01 13:00", *expected]


async def test_a_tick_before_the_first_settled_one_counts_as_missed() -> None:
    process = Process(datetime(2024, 1, 1, 20, tzinfo=UTC))
    async with process.running(schedule="30 2 * * *"):
        await process.clock.advance(HOUR_S)
    await process.clock.advance(12 * HOUR_S)
    async with process.running(schedule="30 2 * * *"):
        pass
    assert process.times == ["02 02:30"]


async def test_a_tick_that_was_not_settled_comes_again_in_the_next_process() -> None:
    process = Process(datetime(2024, 1, 1, 12, 30, tzinfo=UTC))
    async with process.running(schedule="@hourly", settle=False):
        await process.clock.advance(HOUR_S)
    async with process.running(schedule="@hourly"):
        pass
    first, again = process.got
    assert first.event.id == again.event.id


async def test_an_early_tick_that_is_still_open_is_not_forgotten_over_a_later_one() -> None:
    process = Process(datetime(2024, 1, 1, 12, 30, tzinfo=UTC))
    async with process.running(schedule="@hourly", settle=False) as source:
        await process.clock.advance(2 * HOUR_S)
        await source.settle(process.got[1:], ())
    async with process.running(schedule="@hourly", missed="all"):
        pass
    assert process.times == ["01 13:00", "01 14:00", "01 13:00", "01 14:00"]


async def test_a_clock_that_is_set_back_brings_its_ticks_again_with_their_ids() -> None:
    process = Process(datetime(2024, 1, 1, 12, 59, tzinfo=UTC))
    async with process.running(schedule="@hourly"):
        await process.clock.advance(120)
        process.clock.jump(-HOUR_S / 2)
        await process.clock.advance(HOUR_S)
        assert process.times == ["01 13:00", "01 13:00"]
        await process.clock.advance(HOUR_S)
    assert process.times == ["01 13:00", "01 13:00", "01 14:00"]
    assert process.got[0].event.id == process.got[1].event.id


async def test_a_clock_that_is_set_back_by_less_than_a_second_repeats_nothing() -> None:
    process = Process(datetime(2024, 1, 1, 12, 59, tzinfo=UTC))
    async with process.running(schedule="@hourly"):
        await process.clock.advance(60.2)
        process.clock.jump(-0.5)
        await process.clock.advance(HOUR_S + 1)
    assert process.times == ["01 13:00", "01 14:00"]


async def test_a_machine_that_slept_is_late_by_a_minute_at_most() -> None:
    process = Process(datetime(2024, 1, 1, 20, tzinfo=UTC))
    async with process.running(schedule="30 2 * * *"):
        process.clock.jump(10 * HOUR_S)
        await process.clock.advance(61)
        assert process.times == ["02 02:30"]


async def test_a_schedule_of_seconds_after_a_year_away_starts_at_once() -> None:
    process = Process(datetime(2024, 1, 1, tzinfo=UTC))
    async with process.running(schedule="* * * * * *"):
        pass
    await process.clock.advance(365 * DAY_S)
    async with asyncio.timeout(5), process.running(schedule="* * * * * *", missed="all", missed_cap=10):
        assert len(process.got) == 10


async def test_a_tick_that_is_fired_by_hand_is_scheduled_for_now() -> None:
    async with Lab(store="memory") as lab:

        class Nightly(Saga):
            @trigger(source="cron", schedule="@daily")
            def on_tick(self, tick: Event) -> dict[str, Any]:
                return {"at": tick.scheduled_for, "same": tick.scheduled_for == tick.timestamp}

        for payload in (None, {}):
            decided = await lab.preview("Nightly.on_tick", payload)
            assert decided.context is not None
            assert decided.context["same"]


async def test_it_says_how_many_ticks_came_due_while_nobody_was_there_and_how_many_come() -> None:
    for missed, come in (("last", 1), ("all", 5), ("none", 0)):
        process = Process(datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
        options: dict[str, Any] = {"schedule": "0 * * * *", "missed": missed, "missed_cap": 5}
        async with process.running(**options):
            pass
        await process.clock.advance(14 * HOUR_S)
        async with process.running(**options):
            pass
        assert process.missed == [(0, 0), (14, come)]
        assert len(process.got) == come


async def test_a_tick_that_is_hardly_late_is_missed_by_no_rule() -> None:
    process = Process(datetime(2026, 1, 1, 0, 59, 50, tzinfo=UTC))
    async with process.running(schedule="0 * * * *", missed="none"):
        pass
    await process.clock.advance(15)
    async with process.running(schedule="0 * * * *", missed="none"):
        pass
    assert process.missed[-1] == (1, 1)
    assert process.times == ["01 01:00"]


@pytest.mark.parametrize(
    ("missed", "expected"), [("last", ["07"]), ("all", ["03", "04", "05", "06", "07"]), ("none", [])]
)
async def test_ticks_of_a_pause_are_missed_as_the_rule_says(missed: str, expected: list[str]) -> None:
    clock = VirtualClock(datetime(2024, 1, 1, tzinfo=UTC))
    seen: list[str] = []
    async with Lab("memory", clock=clock) as lab:

        class Job(Saga):
            @trigger(source="cron", schedule="@hourly", missed=missed, overlap="allow")
            def on_tick(self, tick: Event) -> dict[str, Any]:
                seen.append(f"{tick.scheduled_for:%H}")
                return {}

        await lab.start()
        await clock.advance(2 * HOUR_S + 90)
        seen.clear()
        lab.pause("Job.on_tick")
        await clock.advance(5 * HOUR_S)
        assert seen == []
        lab.resume("Job.on_tick")
        await clock.advance(60)
        assert seen == expected
