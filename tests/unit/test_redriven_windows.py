"""Dead letters of windows: each brings its own event back to the method, however often it is redriven."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagaz_lab import Batch, Debounce, Event, Lab, Saga, TriggerConfig, action, trigger
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, until

WINDOWS: dict[str, dict[str, Any]] = {
    "batch": {"batch": Batch(3, 8.0)},
    "all": {"debounce": Debounce(4.0, 10.0, mode="all")},
    "trailing": {"debounce": Debounce(4.0, 10.0)},
    "leading": {"debounce": Debounce(4.0, 10.0, mode="leading")},
}
LISTS = ("batch", "all")


class Failing:
    """A saga on a window: its method, or its action, fails the first `times` times."""

    def __init__(self, how: str, where: str, times: int) -> None:
        self.given: list[Any] = []
        self.ran: list[list[int]] = []
        failing = self

        def fail(place: str) -> None:
            nonlocal times
            if place == where and times > 0:
                times -= 1
                raise ValueError(where)

        class Flow(Saga):
            saga_name = "flow"
            trigger_config = TriggerConfig(max_retries=0, persist_events=True)

            @trigger(source="memory", topic="t", concurrency_key="k", **WINDOWS[how])
            def on_event(self, given: Any) -> Mapping[str, Any]:
                failing.given.append(given)
                fail("method")
                return {"ns": [event["n"] for event in (given if isinstance(given, list) else [given])]}

            @action("work")
            async def work(self, ctx: Any) -> None:
                fail("action")
                failing.ran.append(ctx["ns"])

    def check(self, how: str) -> None:
        """The method has had events, in a list where it takes one, each with the payload that was sent."""
        for one in self.given:
            assert isinstance(one, list) is (how in LISTS)
            for event in one if isinstance(one, list) else [one]:
                assert isinstance(event, Event)
                assert event.payload == {"n": event["n"], "k": "a"}


async def put(lab: Lab, clock: VirtualClock, events: int) -> None:
    for n in range(events):
        await lab.fire("flow.on_event", {"n": n, "k": "a"}, id=f"e{n}", wait=False)
    await clock.advance(20.0)
    await lab.drain()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    how=st.sampled_from(sorted(WINDOWS)), where=st.sampled_from(["method", "action"]), times=st.integers(1, 9),
    events=st.integers(1, 5), together=st.lists(st.booleans(), min_size=3, max_size=3),
)  # fmt: skip
async def test_a_redriven_letter_brings_its_own_event_to_the_method(
    how: str, where: str, times: int, events: int, together: list[bool]
) -> None:
    clock = VirtualClock()
    async with Lab("memory", clock=clock) as lab:
        flow = Failing(how, where, times)
        await put(lab, clock, events)
        for at_once in together:
            letters = await open_letters(lab)
            for ids in [[*letters]] if at_once else [[id] for id in letters]:
                if ids:
                    await lab.redrive(ids)
                    await clock.advance(20.0)
                    await lab.drain()
        flow.check(how)
        for letter in (await open_letters(lab)).values():
            listed = isinstance(letter.event.payload, list)
            assert listed is (how in LISTS and letter.run_id is not None), "only a run's letter has the list"
        if how in LISTS and where == "method" and not await open_letters(lab):
            assert sorted(n for ns in flow.ran for n in ns) == [*range(events)], "each event runs once"
        for _, row in lab.events().iterrows():
            assert row["event_id"] == f"e{row['payload']['n']}" if isinstance(row["payload"], dict) else True
        assert_adds_up(lab)


async def open_letters(lab: Lab) -> dict[str, Any]:
    """The open ones, by id."""
    return {it.id: it for _, it in await lab.store.letters_after(0, 1000)}


@pytest.mark.parametrize("how", LISTS)
async def test_each_event_of_a_window_that_dies_has_its_own_payload_in_its_letter(how: str) -> None:
    clock = VirtualClock()
    async with Lab("memory", clock=clock) as lab:
        flow = Failing(how, "method", 1)
        await put(lab, clock, 3)
        letters = await open_letters(lab)
        assert {it.event.id: it.event.payload for it in letters.values()} == {
            f"e{n}": {"n": n, "k": "a"} for n in range(3)
        }
        await lab.redrive([*letters])
        await clock.advance(20.0)
        await lab.drain()
        assert flow.ran == [[0, 1, 2]]
        assert counted(lab, "flow.on_event")["started"] == 3


class Plain:
    """The same saga in a second revision, whose method raises."""

    def __init__(self, how: str, say: str) -> None:
        class Flow(Saga):
            saga_name = "flow"
            trigger_config = TriggerConfig(max_retries=0, persist_events=True)

            @trigger(source="memory", topic="t", concurrency_key="k", **WINDOWS[how])
            def on_event(self, given: Any) -> Mapping[str, Any]:
                raise ValueError(say)

            @action("work")
            async def work(self, ctx: Any) -> None: ...


@pytest.mark.parametrize("blob", [1, 300_000], ids=["small", "in files"])
@pytest.mark.parametrize("how", LISTS)
async def test_after_a_restart_the_events_of_a_window_that_dies_stay_claimed(
    how: str, blob: int, tmp_path: Path
) -> None:
    """Its run waited for its turn, and the revision that is current then raises."""
    address, clock = f"sqlite:///{tmp_path}/lab.db", VirtualClock()
    lab = Lab(address, clock=clock)
    await lab.open()
    with lab.activate():
        Waiting(how)
        await put_large(lab, clock, "first", 1, blob)
        await put_large(lab, clock, "second", 3, blob)
        await until(lambda: sorted(lab.runs()["status"]) == ["running", "waiting"])
    await lab.stop(grace_s=0)
    again = Lab(address, clock=clock)
    with again.activate():
        Plain(how, "no")
        await again.start()
        await again.compensate_run(list(again.runs()["run_id"])[-1])
        await until(lambda: len(again.dead_letters()))
        await again.drain()
        [letter] = (await open_letters(again)).values()
        assert [row["n"] for row in letter.event.payload] == [0, 1, 2]
        for n in range(3):
            [outcome] = await again.fire("flow.on_event", {"n": n, "k": "a"}, id=f"second{n}")
            assert outcome.kind == "duplicate", n
        again.unregister("flow")
        flow = Failing(how, "method", 1)
        for expected in ("dead", "started"):
            [outcome] = await again.redrive([*await open_letters(again)])
            assert outcome.kind == expected
        await again.drain()
        assert [[event["n"] for event in one] for one in flow.given] == [[0, 1, 2]] * 2
        assert flow.ran == [[0, 1, 2]]
    await again.stop(grace_s=0)


class Waiting:
    """A run of it never ends by itself."""

    def __init__(self, how: str) -> None:
        class Flow(Saga):
            saga_name = "flow"
            trigger_config = TriggerConfig(max_retries=0, persist_events=True)

            @trigger(source="memory", topic="t", concurrency_key="k", **WINDOWS[how])
            def on_event(self, given: Any) -> Mapping[str, Any]:
                return {"ns": [event["n"] for event in given]}

            @action("work")
            async def work(self, ctx: Any) -> None:
                await VirtualClock().sleep(1000.0)


async def put_large(lab: Lab, clock: VirtualClock, name: str, events: int, blob: int) -> None:
    for n in range(events):
        payload = {"n": n, "k": "a", "blob": "z" * blob}
        await lab.fire("flow.on_event", payload, id=f"{name}{n}", wait=False)
    await clock.advance(20.0)
