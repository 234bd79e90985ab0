"""Events in the windows of a trigger that is removed: they wait for its code, and are decided by what it is then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagaz_lab import Batch, Debounce, Lab, Saga, action, trigger
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, statuses, until

NAME = "Haul.on_event"
NEEDS_CODE = f"2 events in windows wait for the code of trigger {NAME}: define it"

KINDS: dict[str, dict[str, Any]] = {
    "batch": {"batch": Batch(4, "1m")},
    "pairs": {"batch": Batch(2, "1m")},
    "latest": {"debounce": Debounce("10s", "1m")},
    "all": {"debounce": Debounce("10s", "1m", mode="all")},
    "first": {"debounce": Debounce("10s", "1m", mode="leading")},
    "none": {},
}


def define(asked: list[list[int]], kind: str, method: str = "on_event", gate: asyncio.Event | None = None) -> None:
    """A saga whose trigger method notes what it is asked."""

    async def decide(self: Any, events: Any) -> Any:
        asked.append([event["n"] for event in (events if isinstance(events, list) else [events])])
        if gate is not None:
            await gate.wait()
        return {}

    async def lift(self: Any, ctx: Any) -> None: ...

    decide.__name__, decide.__qualname__ = method, f"Haul.{method}"
    decided = trigger(source="memory", topic="t", **KINDS[kind])(decide)
    type("Haul", (Saga,), {method: decided, "lift": action()(lift), "__module__": __name__})


async def give(lab: Lab, *ns: int) -> None:
    for n in ns:
        await lab.fire(NAME, {"n": n}, id=f"e{n}", wait=False)


@pytest.mark.parametrize("new", KINDS)
@pytest.mark.parametrize("old", ["batch", "all"])
@pytest.mark.parametrize("how", ["unregistered", "renamed"])
@pytest.mark.parametrize("started", [True, False], ids=["started", "open"])
async def test_they_wait_until_their_trigger_is_registered_again(
    timed_lab: Lab, clock: VirtualClock, old: str, new: str, how: str, started: bool
) -> None:
    lab, asked = timed_lab, list[list[int]]()
    define(asked, old)
    if started:
        await lab.start()
    await give(lab, 1, 2)
    if how == "unregistered":
        lab.unregister("Haul")
    else:
        define(asked, old, "on_other")
    await clock.advance(3600)
    async with asyncio.timeout(10):
        await lab.drain()
    assert (asked, statuses(lab)) == ([], [])
    assert lab.status().warnings[-1:] == [NEEDS_CODE]
    [waiting] = [one for one in lab.status().triggers if one.name == NAME]
    assert (waiting.state, waiting.queue.waiting) == ("removed", 2)
    assert counted(lab, NAME) == {"received": 2, "waiting": 2}
    define(asked, new)
    await clock.advance(0)
    await until(lambda: counted(lab, NAME).get("waiting", 0) == 0)
    await lab.drain()
    decided = {"latest": [[2]], "first": [[1], [2]], "none": [[1], [2]]}.get(new, [[1, 2]])
    assert asked == decided
    assert statuses(lab) == ["completed"] * len(decided)
    assert_adds_up(lab)


async def test_what_is_being_decided_goes_on_to_its_end_and_the_next_window_waits(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    lab, asked, gate = timed_lab, list[list[int]](), asyncio.Event()
    define(asked, "pairs", gate=gate)
    given = [asyncio.create_task(give(lab, n)) for n in range(1, 6)]
    await until(lambda: asked)
    lab.unregister("Haul")
    gate.set()
    await asyncio.gather(*given)
    await clock.advance(3600)
    await lab.drain()
    assert asked == [[1, 2]]
    assert statuses(lab) == ["completed"]
    assert counted(lab, NAME) == {"received": 5, "started": 2, "waiting": 3}
    define(asked, "batch")
    await clock.advance(0)
    await until(lambda: len(asked) == 2)
    assert asked == [[1, 2], [3, 4, 5]]


async def test_who_waits_for_the_outcome_is_told_that_it_waits(timed_lab: Lab) -> None:
    define([], "batch")
    fired = asyncio.create_task(timed_lab.fire(NAME, {"n": 1}))
    await until(lambda: counted(timed_lab, NAME).get("waiting"))
    timed_lab.unregister("Haul")
    [outcome] = await asyncio.wait_for(fired, 10)
    assert (outcome.kind, outcome.reason) == ("waiting", f"for the code of trigger {NAME}")


@pytest.mark.parametrize("again", ["at once", "after a restart"])
async def test_they_are_in_the_store(tmp_path: Path, clock: VirtualClock, again: str) -> None:
    asked, address = list[list[int]](), f"sqlite:///{tmp_path}/lab.db"
    lab = Lab(address, clock=clock)
    with lab.activate():
        define(asked, "batch")
    await lab.start()
    await give(lab, 1, 2)
    lab.unregister("Haul")
    if again == "after a restart":
        await lab.stop()
        lab = Lab(address, clock=clock)
        await lab.start()
        assert (away := lab.status().away) is not None
        assert away.events_need_code == {NAME: 2}
    await clock.advance(3600)
    with lab.activate():
        define(asked, "batch")
    await until(lambda: (lab.counters().get(NAME) or {}).get("started") == 2)
    await lab.drain()
    assert (asked, statuses(lab)) == ([[1, 2]], ["completed"])
    assert_adds_up(lab)
    await lab.stop()


STEPS = st.lists(st.sampled_from(["give", "remove", *KINDS, "1", "20", "100"]), max_size=15)


@given(steps=STEPS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_removed_code_decides_nothing_and_every_event_is_decided_once(steps: list[str]) -> None:
    async def check() -> None:
        clock, asked, given_n, there = VirtualClock(), list[list[int]](), 0, True
        lab = Lab("memory", clock=clock)
        await lab.open()
        with lab.activate():
            define(asked, "batch")
            for step in steps:
                before = len(asked)
                if step == "give" and there:
                    given_n += 1
                    await give(lab, given_n)
                elif step == "remove" and there:
                    lab.unregister("Haul")
                    there = False
                elif step in KINDS:
                    define(asked, step)
                    there = True
                elif step.isdigit():
                    await clock.advance(float(step))
                assert there or len(asked) == before
                assert_adds_up(lab)
            define(asked, "all")
            await clock.advance(1000)
            await lab.drain()
        decided = sorted(n for ns in asked for n in ns)
        filtered = lab.counters()[NAME]["filtered"]
        assert len(decided) == len(set(decided)) == given_n - filtered
        await lab.stop()

    asyncio.run(check())


async def test_a_removal_inside_a_decision_counts_all_that_wait_after_it(lab: Lab) -> None:
    told, asked = list[str](), list[list[int]]()
    lab.on_report(lambda _, text: told.append(text))

    class Haul(Saga):
        @trigger(source="recording", data=[{"n": n, "k": n % 2} for n in range(6)], batch=Batch(2, "1h", key="k"))
        def on_event(self, events):
            asked.append([event["n"] for event in events])
            lab.unregister("Haul")
            return {}

        @action()
        async def lift(self, ctx): ...

    await lab.start()
    await until(lambda: counted(lab, NAME).get("waiting") == 4)
    await until(lambda: told)
    assert (asked, told) == ([[0, 2]], [NEEDS_CODE.replace("2", "4")])
