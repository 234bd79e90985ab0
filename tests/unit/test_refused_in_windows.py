"""An event that the store refuses while its window closes concerns nobody else in the window."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, until

WINDOWS: dict[str, dict[str, Any]] = {
    "batch": {"batch": Batch(10, "100ms", key="k")},
    "small batch": {"batch": Batch(2, "100ms", key="k")},
    "all": {"debounce": Debounce("100ms", "1s", key="k", mode="all")},
    "trailing": {"debounce": Debounce("100ms", "1s", key="k")},
}


def windowed(options: dict[str, Any]) -> list[Any]:
    """A saga with this window; returns the events that its runs have had."""
    ran: list[Any] = []

    class Windowed(Saga):
        @trigger(source="memory", topic="t", **options)
        def on_events(self, events):
            together = events if isinstance(events, list) else [events]
            return {"ids": [event.id for event in together]}

        @action("work")
        async def work(self, ctx):
            ran.extend(ctx["ids"])

    return ran


def finals(lab: Lab, ids: Sequence[str]) -> dict[str, list[str]]:
    """The outcomes of each event that are neither a duplicate's nor to be followed by another."""
    told = {id: [str(outcome.kind) for outcome in lab.why(id).outcomes] for id in ids}
    return {id: [kind for kind in kinds if kind not in ("duplicate", "waiting")] for id, kinds in told.items()}


@pytest.mark.parametrize("twin", ["x", "y"], ids=["of one window", "of two windows"])
@pytest.mark.parametrize("how", WINDOWS)
async def test_a_twin_on_its_way_while_the_window_closes_takes_nobody_with_it(
    tmp_path: Path, how: str, twin: str
) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
        ran = windowed(WINDOWS[how])
        other = sqlite3.connect(tmp_path / "lab.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        events = [("e1", "x"), ("e1", twin), ("e2", twin)]
        fired = [asyncio.create_task(lab.fire("Windowed.on_events", {"k": k}, id=id, wait=False)) for id, k in events]
        await asyncio.sleep(0.4)
        other.execute("COMMIT")
        await asyncio.gather(*fired)
        await until(lambda: lab.counters()["Windowed.on_events"]["waiting"] == 0)
        await lab.drain()
        assert_adds_up(lab)
        superseded = how == "trailing" and twin == "x"
        assert sorted(ran) == (["e2"] if superseded else ["e1", "e2"])
        assert finals(lab, ["e1", "e2"]) == {"e1": ["filtered" if superseded else "started"], "e2": ["started"]}
        assert other.execute("SELECT count(*) FROM waiting_events").fetchone() == (0,)
        other.close()


class Late(MemoryStore):
    """Answers after a while, at times out of order, and now and then not at all."""

    def __init__(self, dice: random.Random, clock: VirtualClock) -> None:
        super().__init__()
        self._dice, self._clock = dice, clock
        self.calm = False

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if self.calm:
            return await super().accept(batch)
        await self._clock.sleep(self._dice.choice([0.0, 0.0, 0.05, 0.3, 0.7]))
        if self._dice.random() < 0.1:
            raise StoreUnavailable("away")
        return await super().accept(batch)


@pytest.mark.parametrize("strategy", ["block", "drop_oldest"])
@pytest.mark.parametrize("how", WINDOWS)
@pytest.mark.parametrize("seed", range(8))
async def test_each_event_has_one_outcome_whenever_the_store_answers(seed: int, how: str, strategy: str) -> None:
    dice, clock = random.Random(seed), VirtualClock()
    store = Late(dice, clock)
    lab = Lab(store, clock=clock)
    await lab.open()
    with lab.activate():
        size = 4 if strategy == "drop_oldest" else 1000
        config = TriggerConfig(backpressure_strategy=strategy, queue_size=max(size, 10 if how == "batch" else 0))
        ran = windowed({**WINDOWS[how], "config": config})
    taken: set[str] = set()

    async def deliver(id: str, key: str) -> None:
        try:
            await lab.fire("Windowed.on_events", {"k": key}, id=id, wait=False)
        except StoreUnavailable:
            return
        taken.add(id)

    tasks = []
    for n in range(40):
        id = f"e{n // 2 if dice.random() < 0.7 else dice.randrange(20)}"
        tasks.append(asyncio.create_task(deliver(id, dice.choice("xy"))))
        await clock.advance(dice.choice([0.0, 0.0, 0.03, 0.1]))
        counters = lab.counters()["Windowed.on_events"]
        assert min(value for value in counters.values() if isinstance(value, int)) >= 0
        assert_adds_up(lab)
    store.calm = True
    for _ in range(40):
        await clock.advance(0.1)
    assert all(task.done() for task in tasks)
    assert lab.counters()["Windowed.on_events"]["waiting"] == 0
    assert_adds_up(lab)
    assert len(ran) == len(set(ran))
    assert {id: len(kinds) for id, kinds in finals(lab, sorted(taken)).items()} == dict.fromkeys(sorted(taken), 1)
    if how != "trailing" and strategy == "block":
        assert sorted(ran) == sorted(taken)
    await lab.stop(grace_s=0)
