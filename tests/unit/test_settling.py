"""A source hears what became of each delivery that it settles, and nothing is built for one that does not ask."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from sagaz_lab import Debounce, Lab, Saga, SagaContext, action, any_of, skip, trigger
from sagaz_lab.abc import Delivery, Outcomes, Surroundings
from sagaz_lab.runtime.intake import delivery_outcomes
from tests.unit.tools import Tap, until


class Asking(Tap):
    """Reads the outcomes of what it settles."""

    def __init__(self, *, surroundings: Surroundings, topic: str | None = None) -> None:
        super().__init__(surroundings=surroundings, topic=topic)
        self.heard: list[tuple[str, list[str]]] = []

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        assert len(outcomes) == len(deliveries)
        for delivery, row in zip(deliveries, outcomes, strict=True):
            assert all(outcome.event_id == delivery.event.id for outcome in row)
            self.heard.append((delivery.event.id, [str(outcome.kind) for outcome in row]))
        await super().settle(deliveries, outcomes)


async def heard_by(kind: type[Tap], sagas: Any, events: Sequence[tuple[str, Any]]) -> Tap:
    """What a source heard of events that all came in one batch."""
    made: list[Tap] = []

    def make(settings: Any, surroundings: Surroundings) -> Tap:
        made.append(kind(surroundings=surroundings, topic="t"))
        for id, payload in events:
            made[0].put_nowait(payload, id=id)
        return made[0]

    lab = Lab("memory", sources={"memory": make})
    with lab.activate():
        sagas()
    await lab.start()
    await until(lambda: made[0].waiting == made[0].unsettled == 0)
    await lab.stop(grace_s=0)
    return made[0]


def judges(name: str, **options: Any) -> None:
    """Starts, filters or dies by the payload."""

    def on(self: Any, event: Any) -> Any:
        if event["n"] < 0:
            raise ValueError("negative")
        return {"n": event["n"]} if event["n"] else skip("zero")

    async def work(self: Any, ctx: SagaContext) -> None:
        await asyncio.sleep(60)

    on = trigger(source="memory", topic="t", **options)(on)
    type(name, (Saga,), {"saga_name": name, "on": on, "work": action("work")(work)})


async def test_each_delivery_has_one_outcome_for_each_trigger_that_read_it() -> None:
    def two() -> None:
        judges("a")
        judges("b", max_concurrent_sagas=1)

    events = [("e1", {"n": 1}), ("e0", {"n": 0}), ("e-", {"n": -1}), ("e2", {"n": 2})]
    source = await heard_by(Asking, two, events)
    assert isinstance(source, Asking)
    assert source.heard == [
        ("e1", ["started", "started"]),
        ("e0", ["filtered", "filtered"]),
        ("e-", ["dead", "dead"]),
        ("e2", ["started", "waiting"]),
    ]


async def test_the_second_of_two_deliveries_with_one_id_is_the_duplicate() -> None:
    events = [("e1", {"n": 1}), ("e2", {"n": 2}), ("e1", {"n": 1}), ("e-", {"n": -1}), ("e-", {"n": -1})]
    source = await heard_by(Asking, lambda: judges("a"), events)
    assert isinstance(source, Asking)
    assert [kinds for _, kinds in source.heard] == [["started"], ["started"], ["duplicate"], ["dead"], ["duplicate"]]


async def test_what_waits_in_a_window_is_waiting() -> None:
    events = [("e1", {"n": 1}), ("e2", {"n": 2})]
    source = await heard_by(Asking, lambda: judges("a", debounce=Debounce("1h", "2h")), events)
    assert isinstance(source, Asking)
    assert [kinds for _, kinds in source.heard] == [["waiting"], ["waiting"]]


async def test_two_parts_of_a_composite_that_read_one_source_are_one_trigger() -> None:
    part = {"source": "memory", "topic": "t"}

    def pairs() -> None:
        on = trigger(source=any_of(part, {**part}))(lambda self, event: {})
        type("A", (Saga,), {"saga_name": "a", "on": on})

    source = await heard_by(Asking, pairs, [("e1", {"n": 1}), ("e2", {"n": 2})])
    assert isinstance(source, Asking)
    assert [len(kinds) for _, kinds in source.heard] == [1, 1]


async def test_nothing_is_built_for_a_source_that_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("outcomes were built")

    monkeypatch.setattr(delivery_outcomes, "outcomes_of", never)
    await heard_by(Tap, lambda: judges("a"), [("e1", {"n": 1})])
