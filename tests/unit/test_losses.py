"""Dead letters of which no caller hears, and events that a source cannot deliver, are reported and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, SagaListener, action, all_of, trigger
from sagaz_lab.abc import Delivery, Surroundings
from sagaz_lab.notebook.cards import status_card
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.test_user_errors import Moody
from tests.unit.tools import counted, until


class Hears(SagaListener):
    def __init__(self) -> None:
        self.dead: list[str] = []

    def on_trigger_dead(self, saga: str, event: Any, error: str) -> None:
        self.dead.append(event.id)


def raising() -> Any:
    def on(self: Any, event: Any) -> Any:
        raise RuntimeError("boom")

    return on


def reports_of(lab: Lab) -> list[str]:
    reports: list[str] = []
    lab.on_report(lambda kind, text: reports.append(text))
    return reports


PARTS = ({"source": "memory", "topic": "a"}, {"source": "memory", "topic": "b"})
WINDOWS: dict[str, dict[str, Any]] = {
    "batch": {"source": "memory", "batch": Batch(2, "1h")},
    "debounce": {"source": "memory", "debounce": Debounce("100ms", "1s")},
    "all": {"source": "memory", "debounce": Debounce("100ms", "1s", mode="all")},
    "all_of": {"source": all_of(*PARTS)},
}


@pytest.mark.parametrize("kind", WINDOWS)
async def test_a_dead_letter_decided_when_its_window_closes(timed_lab: Lab, clock: VirtualClock, kind: str) -> None:
    reports, hears = reports_of(timed_lab), Hears()
    type("S", (Saga,), {"listeners": [hears], "on": trigger(**WINDOWS[kind])(raising())})
    for part in range(2):
        where = {"part": part} if kind == "all_of" else {}
        await timed_lab.fire("S.on", {"n": part}, id=f"e{part}", wait=False, **where)
    await clock.advance(2)
    await until(lambda: "waiting" not in counted(timed_lab, "S.on"))
    # Who fires the event that fills a window has its outcome; of the others nobody else hears.
    answered = kind in ("batch", "all_of")
    assert any(text.startswith(f"S.on: event e{int(not answered)} is dead: RuntimeError: boom") for text in reports)
    assert len(reports) + answered == len(hears.dead) == len(timed_lab.dead_letters())
    assert timed_lab.status().warnings


async def test_a_dead_letter_of_an_event_that_another_revision_decides_at_its_turn(lab: Lab) -> None:
    reports, hears, gate = reports_of(lab), Hears(), asyncio.Event()

    def define(on: Callable[[Any, Any], Any]) -> None:
        async def work(self: Any, ctx: Any) -> None:
            await gate.wait()

        on = trigger(source="memory", max_concurrent_sagas=1)(on)
        type("S", (Saga,), {"listeners": [hears], "on": on, "work": action("work")(work)})

    define(lambda self, event: {})
    await lab.fire("S.on", {}, id="e0")
    await lab.fire("S.on", {}, id="e1", wait=False)
    define(raising())
    gate.set()
    await lab.drain()
    assert counted(lab, "S.on") == {"received": 2, "started": 1, "dead": 1}
    assert reports == ["S.on: event e1 is dead: RuntimeError: boom"]
    assert hears.dead == ["e1"]


async def test_an_event_that_cannot_be_stored_while_it_waits_is_a_dead_letter(tmp_path: Path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
        type("S", (Saga,), {"on": trigger(source="memory", batch=Batch(2, "1h"))(raising())})
        await lab.fire("S.on", {"lock": asyncio.Lock()}, id="e0", wait=False)
        assert list(lab.dead_letters()["event_id"]) == ["e0"]
        assert counted(lab, "S.on") == {"received": 1, "dead": 1}


class Trimmed(Moody):
    """Two of its entries are gone."""

    def __init__(self, settings: Any, surroundings: Surroundings) -> None:
        super().__init__("", OSError)
        self.lost = surroundings.lost

    async def receive(self, limit: int) -> Sequence[Delivery]:
        if len(self.left) == 4:
            del self.left[:2]
            self.lost(2, "trimmed: e0, e1; raise its MAXLEN")
        return await super().receive(limit)


async def test_what_a_source_cannot_deliver_is_reported_and_counted() -> None:
    lab = Lab("memory", sources={"redis": Trimmed})
    reports = reports_of(lab)
    with lab.activate():
        for name in ("A", "B"):
            type(name, (Saga,), {"on": trigger(source="redis", stream="orders")(lambda self, event: None)})
    await lab.start()
    await until(lambda: lab.counters()["B.on"]["filtered"] == 2)
    assert reports == ["source redis orders has lost 2 event(s): trimmed: e0, e1; raise its MAXLEN"]
    assert [counts["lost"] for counts in lab.counters().values()] == [2, 2]
    status = lab.status()
    assert (status.sources[0].lost, status.warnings) == (2, reports)
    assert "connected, 2 lost" in repr(status_card(status))
    await lab.stop()
