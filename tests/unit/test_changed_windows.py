"""Events that wait in windows when their cell is run again with other options: they follow those."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_lab import Batch, Lab, Saga, action, trigger
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, until

NAME = "Many.on_events"


def define(asked: list[list[int]], gate: asyncio.Event | None = None, **options: Any) -> None:
    class Many(Saga):
        @trigger(source="memory", topic="t", **options)
        async def on_events(self, events):
            asked.append([event["n"] for event in events])
            if gate is not None:
                await gate.wait()
            return {}

        @action()
        async def work(self, ctx): ...


async def give(lab: Lab, *ns: int, key: str | None = "k") -> None:
    for n in ns:
        payload = {"n": n} if key is None else {"n": n, key: n % 2}
        await lab.fire(NAME, payload, id=f"e{n}", wait=False)


async def test_windows_that_are_full_by_a_smaller_size_are_closed_at_once(timed_lab: Lab, clock: VirtualClock) -> None:
    asked: list[list[int]] = []
    define(asked, batch=Batch(10, "1m"))
    await give(timed_lab, *range(7))
    define(asked, batch=Batch(2, "1m"))
    await clock.advance(1)
    await until(lambda: len(asked) == 3)
    assert asked == [[0, 1], [2, 3], [4, 5]]
    await clock.advance(60)
    assert asked[3:] == [[6]]
    assert_adds_up(timed_lab)


async def test_full_windows_that_are_not_being_decided_yet_follow_the_new_size(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    asked, gate = list[list[int]](), asyncio.Event()
    define(asked, gate, batch=Batch(4, "1m"))
    await give(timed_lab, 0, 1, 2)
    given = [asyncio.create_task(give(timed_lab, n)) for n in range(3, 8)]  # the last four come while it is decided
    await until(lambda: asked)
    define(asked, batch=Batch(3, "1m"))
    gate.set()
    await asyncio.gather(*given)
    await clock.advance(100)
    await until(lambda: len(asked) == 3)
    assert asked == [[0, 1, 2, 3], [4, 5, 6], [7]]


@pytest.mark.parametrize("again", ["cell", "restart"])
async def test_a_batch_that_gets_a_key_regroups_what_waits(tmp_path: Any, clock: VirtualClock, again: str) -> None:
    asked, address = list[list[int]](), f"sqlite:///{tmp_path}/lab.db"
    lab = Lab(address, clock=clock)
    with lab.activate():
        define(asked, batch=Batch(10, "1m"))
    await give(lab, 0, 1, 2, 3)
    await give(lab, 4, key=None)  # it has no such key, and stays in its own window
    if again == "restart":
        await lab.stop()
        lab = Lab(address, clock=clock)
    with lab.activate():
        define(asked, batch=Batch(3, "1m", key="k"))
    await lab.start()
    await clock.advance(1)
    assert asked == []
    await give(lab, 6)
    await until(lambda: asked)
    assert asked == [[0, 2, 6]]
    await clock.advance(60)
    await until(lambda: len(asked) == 3)
    assert sorted(asked[1:]) == [[1, 3], [4]]
    await lab.stop()


@given(steps=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 5), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_no_list_is_longer_than_the_size_and_each_has_one_key(steps: list[tuple[int, int, bool]]) -> None:
    async def check() -> None:
        clock, given_n, asked = VirtualClock(), 0, list[list[int]]()
        lab = Lab("memory", clock=clock)
        await lab.open()
        with lab.activate():
            for events, size, keyed in steps:
                define(asked, batch=Batch(size, "1m", key="k" if keyed else None))
                before = len(asked)
                await give(lab, *range(given_n, given_n + events))
                given_n += events
                await clock.advance(1)
                await lab.drain()
                assert all(len(ns) == size for ns in asked[before:]), (asked, size)
                assert not keyed or all(len({n % 2 for n in ns}) == 1 for ns in asked[before:])
                assert_adds_up(lab)
            await clock.advance(100)
            await lab.drain()
        assert sorted(n for ns in asked for n in ns) == list(range(given_n))
        await lab.stop()

    asyncio.run(check())
