"""Each trigger has its own position in a schedule, or among the dead letters, whatever other triggers have read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_lab import Lab, Saga, all_of, skip, trigger
from sagaz_lab.errors import DefinitionError
from sagaz_lab.sources import dead_letters
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import until

MINUTE_S = 60.0
START = datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)


class Ticks:
    """What the triggers of one store have seen, in one process after another."""

    def __init__(self, path: Path) -> None:
        self.store = f"sqlite:///{path}"
        self.clock = VirtualClock(START)
        self.seen: dict[str, list[str]] = {}

    async def run(self, minutes: int, **options: dict[str, Any]) -> None:
        """A process that lives so long, with a trigger of each name on these settings of its schedule."""
        async with Lab(self.store, clock=self.clock) as lab:
            for name, given_options in options.items():
                self._define(name, given_options)
            await lab.start()
            await self.clock.advance(minutes * MINUTE_S)
            await lab.drain()

    def _define(self, name: str, options: dict[str, Any]) -> None:
        seen = self.seen.setdefault(name, [])

        class Ticking(Saga):
            saga_name = name

            @trigger(source="cron", **{"schedule": "* * * * *", "overlap": "allow", **options})
            def on_tick(self, tick: Any) -> dict[str, Any]:
                seen.append(f"{tick.scheduled_for:%H:%M}")
                return {}


def minutes(first: int, last: int) -> list[str]:
    return [f"{datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=n):%H:%M}" for n in range(first, last + 1)]


@pytest.fixture
def ticks(tmp_path: Path) -> Ticks:
    return Ticks(tmp_path / "lab.db")


async def test_two_triggers_on_one_schedule_catch_up_as_each_says(ticks: Ticks) -> None:
    both: dict[str, Any] = {"every": {"missed": "all"}, "latest": {"missed": "last"}}
    await ticks.run(2, **both)
    await ticks.clock.advance(4 * MINUTE_S)
    await ticks.run(1, latest=both["latest"])
    await ticks.run(1, **both)
    assert ticks.seen == {"every": minutes(1, 8), "latest": [*minutes(1, 2), *minutes(6, 8)]}


async def test_a_trigger_that_was_away_catches_up_though_another_read_the_schedule(ticks: Ticks) -> None:
    a: dict[str, Any] = {"a": {"missed": "all"}}
    b: dict[str, Any] = {"b": {"missed": "all"}}
    await ticks.run(1, **a, **b)
    await ticks.run(3, **a)
    await ticks.run(1, **a, **b)
    assert ticks.seen == {"a": minutes(1, 5), "b": minutes(1, 5)}


async def test_a_new_trigger_on_a_schedule_that_another_has_read_has_missed_nothing(ticks: Ticks) -> None:
    await ticks.run(2, a={})
    await ticks.clock.advance(3 * MINUTE_S)
    await ticks.run(1, b={"missed": "all"})
    assert ticks.seen["b"] == minutes(6, 6)


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.sets(st.sampled_from("abc")), st.integers(1, 4)), min_size=1, max_size=6))
async def test_each_tick_since_its_first_start_comes_once_to_each_trigger(
    tmp_path_factory: pytest.TempPathFactory, processes: list[tuple[set[str], int]]
) -> None:
    ticks = Ticks(tmp_path_factory.mktemp("store") / "lab.db")
    rules: dict[str, dict[str, Any]] = {name: {"missed": "all"} for name in "ab"}
    rules["c"] = {"missed": "all", "missed_cap": 1000}
    begun: dict[str, int] = {}
    now = 0
    for names, lasting in [*processes, ({"a", "b", "c"}, 1)]:
        begun.update({name: now + 1 for name in names if name not in begun})
        await ticks.run(lasting, **{name: rules[name] for name in sorted(names)})
        now += lasting
    assert ticks.seen == {name: minutes(first, now) for name, first in begun.items()}


@pytest.mark.parametrize("missed", ["last", "all"])
async def test_a_schedule_that_is_edited_and_edited_back_brings_each_tick_of_its_own_time_only(missed: str) -> None:
    clock = VirtualClock(START)
    seen: list[str] = []
    async with Lab("memory", clock=clock) as lab:
        for schedule in ("0 3 * * *", "0 4 * * *", "0 3 * * *", "0 */5 * * *"):

            class Edited(Saga):
                @trigger(source="cron", schedule=schedule, missed=missed, overlap="allow")
                def on_tick(self, tick: Any) -> dict[str, Any]:
                    seen.append(f"{tick.scheduled_for:%d %H}")
                    return {}

            await lab.start()
            for _ in range(36):
                await clock.advance(60 * MINUTE_S)
            await lab.drain()
    # Edited at 00:00 of the first day, at noon of the second, at midnight of the fourth and at noon of the fifth.
    assert seen == ["01 03", "02 03", "03 04", "04 03", "05 03", *(f"05 {n}" for n in (15, 20)),
                    *(f"06 {n:02}" for n in (0, 5, 10, 15, 20)), "07 00"]  # fmt: skip


async def test_a_filter_of_letters_that_is_edited_back_brings_no_letter_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "POLL_S", 0.01)
    read: list[int] = []
    for number, wanted in enumerate(({"saga": "Failing"}, {"trigger": "Failing.on_event"}, {"saga": "Failing"})):
        async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

            class Reading(Saga):
                @trigger(source="dead_letters", **wanted)
                def on_letter(self, letter: dict[str, Any]) -> Any:
                    read.append(letter["payload"]["n"])
                    return skip("read")

            class Failing(Saga):
                @trigger(source="memory", topic="t")
                def on_event(self, event: Any) -> dict[str, Any]:
                    raise ValueError(event["n"])

            await lab.start()
            await lab.fire("Failing.on_event", {"n": number})
            await until(lambda: number in read)  # noqa: B023
            await lab.drain()
    assert read == [0, 1, 2]


async def test_letters_that_came_while_a_trigger_was_away_come_to_it_though_another_has_read_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "POLL_S", 0.01)
    read: dict[str, list[int]] = {"one": [], "other": []}

    def reader(name: str) -> None:
        class Reading(Saga):
            saga_name = name

            @trigger(source="dead_letters", saga="Failing")
            def on_letter(self, letter: dict[str, Any]) -> dict[str, Any]:
                read[name].append(letter["payload"]["n"])
                return {}

    for number, names in enumerate((["one", "other"], ["one"], ["one", "other"])):
        async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
            for name in names:
                reader(name)

            class Failing(Saga):
                @trigger(source="memory", topic="t")
                def on_event(self, event: Any) -> dict[str, Any]:
                    raise ValueError(event["n"])

            await lab.start()
            await lab.fire("Failing.on_event", {"n": number})
            await until(lambda: all(number in read[name] for name in names))  # noqa: B023
            await lab.drain()
    assert read == {"one": [0, 1, 2], "other": [0, 1, 2]}


def test_parts_of_one_trigger_read_a_schedule_with_the_same_settings() -> None:
    tick = {"source": "cron", "schedule": "* * * * *"}
    all_of(tick, dict(tick))
    with pytest.raises(DefinitionError, match=r"two parts read cron \* \* \* \* \* with different settings"):
        all_of(tick, {**tick, "missed": "all"})
