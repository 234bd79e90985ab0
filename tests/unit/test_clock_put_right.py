"""A clock that was ahead and is put right: nothing waits until the wrong time comes, and nothing happens twice.

A clock that is put forward counts as time that has passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, SagaContext, Throttle, TriggerConfig, action, trigger
from sagaz_lab.abc import Store
from sagaz_lab.runtime.gates.moments import Moments
from sagaz_lab.runtime.lifetime.timers import NAP_S
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, until

RIGHT = datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
HOUR_S = 3600.0
AHEAD = [timedelta(hours=3), timedelta(days=40), timedelta(days=1700)]


class Place:
    """One store, opened by one process after another, each with a clock of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.told: list[str] = []
        self.ran: list[Any] = []

    @asynccontextmanager
    async def lab(self, at: datetime, **gates: Any) -> AsyncIterator[tuple[Lab, VirtualClock]]:
        clock = VirtualClock(at)
        lab = Lab(self._store, clock=clock)
        lab.on_report(lambda _, text: self.told.append(text))
        source = gates.pop("source", {"source": "memory", "topic": "in"})
        fails = gates.pop("fails", False)
        ran = self.ran

        class S(Saga):
            saga_name = "s"
            trigger_config = TriggerConfig(max_retries=1, retry_backoff_seconds=[HOUR_S])

            @trigger(**source, **gates)
            def on_event(self, event: Any) -> dict[str, Any]:
                return {"n": event[0]["n"] if isinstance(event, list) else event.payload.get("n", 0)}

            @action()
            async def work(self, ctx: SagaContext) -> None:
                ran.append(ctx["n"])
                if fails and clock.now() > RIGHT.timestamp() + 2 * HOUR_S:
                    raise ValueError("not yet")

        await lab.open()
        lab.register(S)
        yield lab, clock
        assert_adds_up(lab)
        await lab.stop(grace_s=0)


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(MemoryStore() if request.param == "memory" else SqlStore(SqliteDriver(tmp_path / "lab.db")))


async def quiet(lab: Lab, clock: VirtualClock, seconds: float = 0.0) -> None:
    """Let so much time pass, in which threads have their say too."""
    for _ in range(10):
        await clock.advance(seconds / 10)
        await asyncio.sleep(0.005)
    await lab.drain()


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_cooldown_ends_at_its_length_from_now(place: Place, ahead: timedelta) -> None:
    async with place.lab(RIGHT + ahead, cooldown="1h") as (lab, _):
        await lab.fire("s.on_event", {"n": 1})
    for _ in range(2):  # another opening does not cut it again
        async with place.lab(RIGHT, cooldown="1h") as (lab, clock):
            [early] = await lab.fire("s.on_event", {"n": 2})
            assert early.kind == "filtered"
    await_s = HOUR_S - 60
    async with place.lab(RIGHT, cooldown="1h") as (lab, clock):
        await clock.advance(await_s)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 3})] == ["filtered"]
        await clock.advance(120)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 4})] == ["started"]
    told = [text for text in place.told if "the clock was ahead" in text]
    assert len(told) == 1
    assert "1 cooldown(s)" in told[0]


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_claim_ends_at_its_length_from_now(place: Place, ahead: timedelta) -> None:
    gates: dict[str, Any] = {"idempotency_key": "n", "idempotency_ttl": "1h"}
    async with place.lab(RIGHT + ahead, **gates) as (lab, _):
        await lab.fire("s.on_event", {"n": 1})
    for _ in range(3):
        async with place.lab(RIGHT, **gates) as (lab, clock):
            await clock.advance(600)
            assert [it.kind for it in await lab.fire("s.on_event", {"n": 1})] == ["duplicate"]
    async with place.lab(RIGHT, **gates) as (lab, clock):
        await clock.advance(HOUR_S + 60)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 1})] == ["started"]


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("gate", [{"debounce": Debounce("1h", max_wait="2h")}, {"batch": Batch(10, timeout="1h")}])
async def test_a_window_closes_at_its_length_from_now(place: Place, ahead: timedelta, gate: dict[str, Any]) -> None:
    async with place.lab(RIGHT + ahead, **gate) as (lab, _):
        await lab.fire("s.on_event", {"n": 1}, wait=False)
    async with place.lab(RIGHT, **gate) as (lab, clock):
        await lab.start()
        await quiet(lab, clock, HOUR_S - 60)
        assert place.ran == []
        await quiet(lab, clock, 120)
        await until(lambda: place.ran == [1])
    assert any("1 waiting event(s)" in text for text in place.told)


@pytest.mark.parametrize("ahead", AHEAD)
async def test_a_retry_comes_at_its_length_from_now(place: Place, ahead: timedelta) -> None:
    async with place.lab(RIGHT + ahead, fails=True) as (lab, _):
        await lab.fire("s.on_event", {"n": 1})
        await lab.drain()
        assert list(lab.runs()["status"]) == ["waiting"]
    async with place.lab(RIGHT, fails=True) as (lab, clock):
        await lab.start()
        await quiet(lab, clock, HOUR_S - 60)
        assert len(place.ran) == 1
        await quiet(lab, clock, 120)
        await until(lambda: len(place.ran) == 2)
    assert any("retried in 1 h" in text for text in place.told)


@pytest.mark.parametrize("ahead", AHEAD)
async def test_ticks_go_on_and_those_that_came_already_are_duplicates(place: Place, ahead: timedelta) -> None:
    gates: dict[str, Any] = {"source": {"source": "cron", "schedule": "0 * * * *"}}
    async with place.lab(RIGHT + ahead, **gates) as (lab, clock):
        await lab.start()
        await quiet(lab, clock, 2 * HOUR_S)
        assert len(lab.runs()) == 2
    hours = 3
    async with place.lab(RIGHT, **gates) as (lab, clock):
        await lab.start()
        for _ in range(hours):
            await quiet(lab, clock, HOUR_S)
        assert counted(lab, "s.on_event")["started"] == 3
        for _ in range(2 if ahead == AHEAD[0] else 0):
            await quiet(lab, clock, HOUR_S)
            await until(lambda: any("has come before" in text for text in place.told))
        assert counted(lab, "s.on_event").get("duplicate", 0) == (2 if ahead == AHEAD[0] else 0)
    assert any("the clock was ahead" in text for text in place.told)


async def test_a_running_process_goes_on_when_its_clock_is_put_right(place: Place) -> None:
    async with place.lab(RIGHT, source={"source": "cron", "schedule": "0 * * * *"}) as (lab, clock):
        await lab.start()
        clock.jump(5 * 86400.0)
        await quiet(lab, clock, HOUR_S)
        before = counted(lab, "s.on_event")["started"]
        clock.jump(-5 * 86400.0)
        for _ in range(3):
            await quiet(lab, clock, HOUR_S)
        assert counted(lab, "s.on_event")["started"] == before + 3
    assert any("has been corrected" in text for text in place.told)


async def test_a_cooldown_lasts_its_time_when_the_clock_is_put_back(place: Place) -> None:
    async with place.lab(RIGHT, cooldown="1h") as (lab, clock):
        clock.jump(5 * 86400.0)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 1})] == ["started"]
        clock.jump(-5 * 86400.0)
        await clock.advance(HOUR_S - 1)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 2})] == ["filtered"]
        await clock.advance(2)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 3})] == ["started"]


@pytest.mark.parametrize("gate", [{"cooldown": "1h"}, {"idempotency_key": "k", "idempotency_ttl": "1h"}])
async def test_what_is_taken_is_free_once_the_clock_is_put_forward(place: Place, gate: dict[str, Any]) -> None:
    async with place.lab(RIGHT, **gate) as (lab, clock):
        kinds = []
        for forward_s in (0.0, HOUR_S - 60, 60.0):
            clock.jump(forward_s)
            kinds += [it.kind for it in await lab.fire("s.on_event", {"k": 1})]
        assert kinds == ["started", "filtered" if "cooldown" in gate else "duplicate", "started"]


@pytest.mark.parametrize("gate", [{"batch": Batch(9, "1h")}, {"debounce": Debounce("1h", max_wait="2h")},
                                  {"throttle": Throttle(1, "1h", burst=0)}])  # fmt: skip
async def test_what_waits_goes_on_once_the_clock_is_put_forward(place: Place, gate: dict[str, Any]) -> None:
    async with place.lab(RIGHT, **gate) as (lab, clock):
        for n in range(2):
            await lab.fire("s.on_event", {"n": n}, wait=False)
        begun = int("throttle" in gate)
        await until(lambda: len(place.ran) == begun)
        clock.jump(HOUR_S - 600)
        await clock.advance(NAP_S)
        assert len(place.ran) == begun
        clock.jump(600.0)
        await clock.advance(NAP_S)
        await until(lambda: len(place.ran) == begun + 1)


async def test_a_clock_that_was_right_cuts_nothing(place: Place) -> None:
    async with place.lab(RIGHT, cooldown="10h") as (lab, _):
        await lab.fire("s.on_event", {"n": 1})
    async with place.lab(RIGHT, cooldown="1h") as (lab, clock):
        await clock.advance(2 * HOUR_S)
        assert [it.kind for it in await lab.fire("s.on_event", {"n": 2})] == ["filtered"]
    assert not any("clock" in text for text in place.told)


async def test_a_run_of_the_wrong_time_is_moved_with_its_steps(place: Place) -> None:
    async with place.lab(RIGHT + timedelta(days=900)) as (lab, _):
        await lab.fire("s.on_event", {"n": 1})
        await lab.drain()
    async with place.lab(RIGHT) as (lab, _):
        [run] = lab.runs().to_dict("records")
        assert run["ended_at"].to_pydatetime() <= RIGHT
        assert run["ended_at"] >= run["started_at"]


async def test_moments_never_go_back_and_follow_a_clock_that_is_ahead() -> None:
    clock = VirtualClock(1000.0)
    moments = Moments(clock)
    seen = [moments.now()]
    for jump_s, passed_s in [(0, 5), (100, 1), (-300, 2), (0, 3), (50, 1), (1000, 0)]:
        clock.jump(jump_s)
        await clock.advance(passed_s)
        seen.append(moments.now())
    assert seen == [1000, 1005, 1106, 1108, 1111, 1112, 1862]


def test_event_times_are_those_of_the_wall() -> None:
    clock = VirtualClock(1000.0)
    moments = Moments(clock)
    clock.jump(-100.0)
    assert moments.shown() == datetime.fromtimestamp(900.0, UTC)
    assert Moments.of(moments) is moments
