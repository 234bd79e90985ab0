"""`%%saga --shadow` in a real kernel: edit, let it decide beside the current revision, look, adopt."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.kernel import LOAD, Kernel, told

CELL = """%%saga{options}
class Retraining(Saga):
    saga_name = "retraining"

    @trigger(source={source}, topic="drift")
    def on_drift(self, event):
        if event.score <= {threshold}:
            return skip("score too low", score=event.score)
        return {{"score": event.score}}

    @action("train")
    def train(self, ctx):
        with open("trained", "a") as lines:
            print({threshold}, ctx["score"], file=lines)
{tail}
"""

FEED = """
import asyncio
from sagaz_lab.abc import Delivery, Event, SourceTraits

class Scores:
    name, traits = "scores", SourceTraits()
    waiting = asyncio.Queue()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_): ...

    async def receive(self, limit):
        n = await Scores.waiting.get()
        return [Delivery(Event({"score": n / 100}, id=f"e{n}", source="scores"))]

    async def settle(self, deliveries, outcomes): ...

    async def nack(self, deliveries, *, delay_s=0.0): ...

    async def keep_alive(self, deliveries): ...

scores = Scores()

async def feed(first, last):
    for n in range(first, last):
        Scores.waiting.put_nowait(n)
    before = default_lab().counters()["retraining.on_drift"]["received"]
    while default_lab().counters()["retraining.on_drift"]["received"] < before + last - first:
        await asyncio.sleep(0.01)
    await default_lab().drain()
"""


def cell(threshold: object, options: str = "", tail: str = "", source: str = '"memory"') -> str:
    text = CELL.format(threshold=threshold, options=options, tail=tail, source=source)
    return text.replace(', topic="drift"', "") if source == "scores" else text


@pytest.fixture
def kernel(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


def test_an_edit_is_tried_beside_the_running_source_and_then_adopted(kernel: Kernel, tmp_path: Path) -> None:
    assert kernel.run(FEED).ok
    assert kernel.run(cell(0.5, source="scores")).ok
    assert kernel.run("%triggers start").ok
    assert kernel.run("await feed(20, 40)").ok

    (card,) = kernel.run(cell(0.55, " --shadow", source="scores")).shown
    assert "retraining: shadow of revision 1; it would be revision 2" in card["text/plain"]
    assert "+        if event.score <= 0.55:" in card["text/plain"]
    assert "%triggers shadow retraining shows the current comparison" in card["text/plain"]
    assert "0 seen" in card["text/plain"]

    assert kernel.run("await feed(60, 80); await feed(45, 60)").ok
    shown = kernel.run("%triggers shadow")
    assert "35 seen, 30 the same, 5 different, 0 waiting" in shown.text
    assert "e51" in shown.data["text/html"]
    kernel.run("frame = default_lab().shadows['retraining'].frame()")
    assert kernel.run("sorted(frame.event_id), set(frame.current), set(frame.shadow)").text == (
        "(['e51', 'e52', 'e53', 'e54', 'e55'], {'started'}, {'filtered'})"
    )
    trained = (tmp_path / "trained").read_text()
    assert "0.55 " not in trained

    adopted = kernel.run(cell(0.55, source="scores"))
    assert "retraining: revision 2 (was 1)" in adopted.shown[0]["text/plain"]
    assert "the shadow of retraining has ended; since" in adopted.stdout
    assert kernel.run("%triggers shadow").text == "no shadows; begin one with %%saga --shadow"
    assert kernel.run("await feed(80, 81)").ok
    assert (tmp_path / "trained").read_text() == trained + "0.55 0.8\n"


def test_a_shadow_is_replaced_quietly_and_ended_by_hand(kernel: Kernel) -> None:
    kernel.run(cell(0.5))
    quiet = kernel.run(cell(0.6, " --shadow --quiet"))
    assert quiet.stdout == (
        "saga retraining: shadow of revision 1; it would be revision 2; %triggers shadow retraining shows it\n"
    )
    kernel.run('%triggers fire retraining.on_drift {"score": 0.55}')
    assert "1 seen, 0 the same, 1 different" in kernel.run("%triggers shadow retraining").text
    again = kernel.run(cell(0.5, " --quiet --shadow"))
    assert "shadow of revision 1; same code" in again.stdout
    assert "0 seen" in kernel.run("%triggers shadow retraining").text
    ended = kernel.run("%triggers shadow retraining --end")
    assert "ended shadow of revision 1" in ended.text
    assert kernel.run("default_lab().sagas['retraining'].revision").text == "1"
    assert "no shadow of 'retraining'" in kernel.run("%triggers shadow retraining").stderr
    assert "--end needs a saga with a shadow; there are: none" in kernel.run("%triggers shadow --end").stderr


def test_a_saga_that_is_not_registered_is_told_in_one_line(kernel: Kernel) -> None:
    assert told(kernel.run(cell(0.5, " --shadow"))) == (
        "no shadow began: no saga 'retraining' is registered, so there is nothing to run it beside; "
        "register it first: run its cell without --shadow"
    )
    assert kernel.run("len(default_lab().sagas), len(default_lab().shadows)").text == "(0, 0)"


def test_a_cell_that_fails_begins_no_shadow_and_a_new_trigger_is_told_of(kernel: Kernel) -> None:
    kernel.run(cell(0.5))
    failed = kernel.run(cell(0.6, " --shadow", tail="1 / 0"))
    assert "retraining stays at revision 1" in failed.stderr
    assert kernel.run("len(default_lab().shadows)").text == "0"
    more = '\n    @trigger(source="memory", topic="more")\n    def on_more(self, event): ...\n'
    (card,) = kernel.run(cell(0.6, " --shadow", tail=more)).shown
    assert "! trigger retraining.on_more is new: it gets no events while it is a shadow" in card["text/plain"]
    assert "%triggers shadow retraining" in kernel.completions("%triggers shadow re")
    assert "%%saga --quiet --shadow" in kernel.completions("%%saga --quiet --s")


def test_a_helper_of_the_current_revision_stays_as_it_was(kernel: Kernel) -> None:
    kernel.run("LIMIT = 0.5")
    kernel.run(cell("LIMIT"))
    refused = told(kernel.run(cell("LIMIT", " --shadow", tail="LIMIT = 0.7")))
    assert "no shadow began: the cell also changes LIMIT, which revision 1 of retraining uses" in refused
    assert kernel.run("LIMIT").text == "0.5"
    assert kernel.run("default_lab().sagas['retraining'].revision").text == "1"
    assert kernel.run(cell("NEW_LIMIT", " --shadow", tail="NEW_LIMIT = 0.7")).ok
    kernel.run('%triggers fire retraining.on_drift {"score": 0.6}')
    assert "1 different" in kernel.run("%triggers shadow").text
