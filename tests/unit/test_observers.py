"""Observers see what flows: any number of them, none in another's way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sagaz_lab import Lab, OutcomeKind, RunStatus, Saga, action, skip, trigger
from sagaz_lab.abc import DecidedOutcomes, Delivery, Observer
from sagaz_lab.errors import DefinitionError
from sagaz_lab.model.run import Run
from tests.unit.tools import assert_adds_up, counted


class Notes(Observer):
    """Writes all down."""

    def __init__(self) -> None:
        self.received_ids: list[str] = []
        self.outcomes: list[tuple[str, OutcomeKind]] = []
        self.contexts: list[Any] = []
        self.ends: list[tuple[str, RunStatus]] = []
        self.closed = 0

    def received(self, deliveries: Sequence[Delivery], triggers: Sequence[tuple[str, int]]) -> None:
        assert triggers == [("Numbers.on_number", 0)]
        self.received_ids += [delivery.event.id for delivery in deliveries]

    def decided(self, outcomes: DecidedOutcomes) -> None:
        self.outcomes += [(outcome.event_id, outcome.kind) for outcome in outcomes]
        self.contexts += outcomes.contexts.values()

    def ended(self, run: Run) -> None:
        assert run.event is not None
        self.ends.append((run.event.id, run.status))

    async def close(self) -> None:
        self.closed += 1


class Breaks(Observer):
    """Raises whatever it hears."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def received(self, deliveries: object, triggers: object) -> None:
        raise self.error

    def decided(self, outcomes: DecidedOutcomes) -> None:
        raise self.error

    def ended(self, run: Run) -> None:
        raise self.error

    async def caught_up(self) -> None:
        raise self.error

    async def close(self) -> None:
        raise self.error


def numbers(least: int, **gates: Any) -> type[Saga]:
    class Numbers(Saga):
        @trigger(source="memory", topic="numbers", **gates)
        def on_number(self, event):
            return {"n": event["n"]} if event["n"] >= least else skip("too small", n=event["n"])

        @action()
        async def work(self, ctx):
            if ctx["n"] == 13:
                raise OSError("down")

    return Numbers


def observe(lab: Lab, *observers: Observer) -> None:
    for observer in observers:
        lab.observe(observer)


async def fire(lab: Lab, *given: int) -> None:
    await asyncio.gather(*(lab.fire("Numbers.on_number", {"n": n}, id=f"e{n}") for n in given))


async def test_two_observers_and_a_shadow_see_the_same(lab: Lab) -> None:
    numbers(2)
    one, other = Notes(), Notes()
    observe(lab, one)
    with Lab("memory").activate():
        edited = numbers(3)
    lab.shadow(edited)
    observe(lab, other)
    await fire(lab, 1, 2, 3)
    await lab.drain()
    assert one.received_ids == ["e1", "e2", "e3"]
    assert dict(one.outcomes) == {"e1": OutcomeKind.FILTERED, "e2": OutcomeKind.STARTED, "e3": OutcomeKind.STARTED}
    assert one.contexts == [{"n": 2}, {"n": 3}]
    assert sorted(one.ends) == [("e2", RunStatus.COMPLETED), ("e3", RunStatus.COMPLETED)]
    report = lab.shadows["Numbers"]
    assert (report.seen, report.same, report.different) == (3, 2, {("started", "filtered"): 1})
    lab.shadows.end("Numbers")
    await fire(lab, 4)
    await lab.drain()
    assert one.received_ids[-1] == other.received_ids[-1] == "e4"
    assert (one.outcomes, one.contexts, one.ends) == (other.outcomes, other.contexts, other.ends)
    await lab.stop()
    assert one.closed == other.closed == 1


async def test_a_run_that_has_waited_for_its_turn_is_decided_twice(lab: Lab) -> None:
    numbers(0, max_concurrent_sagas=1)
    notes = Notes()
    observe(lab, notes)
    await fire(lab, 1, 2)
    await lab.drain()
    assert sorted(notes.outcomes) == [("e1", "started"), ("e2", "started"), ("e2", "waiting")]
    assert notes.contexts == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError, SystemExit])
async def test_one_that_raises_is_reported_and_disturbs_nothing(lab: Lab, error: type[BaseException]) -> None:
    numbers(0)
    notes, told = Notes(), list[str]()
    observe(lab, Breaks(error("no")), notes)
    lab.on_report(lambda kind, text: told.append(f"{kind} {text}"))
    await fire(lab, 1, 2)
    async with asyncio.timeout(5):
        await lab.drain()
    assert counted(lab, "Numbers.on_number") == {"received": 2, "started": 2}
    assert notes.received_ids == ["e1", "e2"]
    assert [status for _, status in notes.ends] == [RunStatus.COMPLETED] * 2
    assert told
    assert all(each.startswith("observer:Breaks observer Breaks failed: ") for each in told)
    await lab.stop()
    assert notes.closed == 1


async def test_it_stays_over_a_stop_until_it_is_removed(lab: Lab) -> None:
    numbers(0)
    notes = Notes()
    lab.observe(notes)
    remove = lab.observe(notes)
    await fire(lab, 1)
    await lab.stop()
    await fire(lab, 2)
    await lab.start(isolated=True)
    await fire(lab, 3)
    await lab.drain()
    assert notes.received_ids == ["e1", "e2", "e3"]
    remove()
    await fire(lab, 4)
    await lab.stop()
    await fire(lab, 5)
    assert notes.received_ids == ["e1", "e2", "e3"]


def test_what_is_no_observer_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be an Observer"):
        Lab("memory").observe(Notes)  # type: ignore[arg-type]


async def test_each_attempt_of_a_run_ends_for_it(lab: Lab) -> None:
    numbers(0)
    notes = Notes()
    observe(lab, notes)
    await fire(lab, 13)
    await lab.stop(grace_s=0.2)
    assert notes.ends == [("e13", RunStatus.WAITING)]
    assert_adds_up(lab)


async def test_outcomes_are_made_when_they_are_read_and_once_for_all() -> None:
    made: list[str] = []

    def make() -> list[Any]:
        made.append("outcomes")
        return [1, 2]

    outcomes = DecidedOutcomes(make, dict)
    assert made == []
    assert (len(outcomes), outcomes[0], outcomes[1:], list(outcomes)) == (2, 1, [2], [1, 2])
    assert made == ["outcomes"]
