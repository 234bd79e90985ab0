"""A saga's cell is run again and again while events flow: each event is decided once, by one revision."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.acceptance.kernel import LOAD, Kernel

EVENTS, CELLS = 10_000, 50

FEED = f"""
import asyncio
from sagaz_lab.abc import Delivery, Event, SourceTraits

class Numbers:
    name, traits, opened, given = "numbers", SourceTraits(), 0, 0

    async def __aenter__(self):
        Numbers.opened += 1
        return self

    async def __aexit__(self, *_): ...

    async def receive(self, limit):
        await asyncio.sleep(0.005)
        n = min(10, limit, {EVENTS} - Numbers.given)
        if n == 0:
            await asyncio.Event().wait()
        first = Numbers.given
        Numbers.given += n
        ids = range(first, first + n)
        return [Delivery(Event({{"n": i}}, id=str(i), source="numbers", key=str(i % 7))) for i in ids]

    async def ack(self, deliveries): ...

    async def nack(self, delivery, *, delay_s=0.0):
        raise RuntimeError("given back")

numbers, handled = Numbers(), []
"""

CELL = """%%saga
class Counting(Saga):
    @trigger(source=numbers, concurrency_key=lambda event: event.key)
    def on_number(self, event):
        return {{"n": event["n"], "text": {text!r}}} if event["n"] % {keep} == 0 else skip("not kept")

    @action("note")
    async def note(self, ctx):
        handled.append(ctx["n"])
{tail}
"""


def cell(n: int) -> tuple[str, bool]:
    """The cell's text at its n-th run, and whether it succeeds: edited, unchanged, a syntax error, an error."""
    keep, text = 2 + n // 10 % 2, f"version {n // 3}"
    tail, good = {2: ("x = = 1", False), 3: ("1 / 0", False)}.get(n % 5, ("", True))
    return CELL.format(keep=keep, text=text, tail=tail), good


RESULT = """
while default_lab().counters()["Counting.on_number"]["received"] < %d:
    await asyncio.sleep(0.05)
await default_lab().drain()
outcomes = default_lab().outcomes(limit=None).query("outcome != 'held'")
kinds = outcomes.outcome.value_counts()
runs = default_lab().runs(limit=None)
by_key = {key: [n for n in handled if n %% 7 == key] for key in range(7)}
{
    "ids": (len(outcomes), outcomes.event_id.nunique()),
    "kinds": (int(kinds["filtered"] + kinds["started"]), len(kinds[kinds > 0])),
    "runs": (int(kinds["started"]), int((runs.status == "completed").sum()), len(handled), len(set(handled))),
    "in order": all(numbers == sorted(numbers) for numbers in by_key.values()),
    "opened": Numbers.opened,
    "revisions": len(default_lab().revisions("Counting")),
}
"""


@pytest.mark.timeout(180)
def test_each_event_is_decided_once_while_the_cell_is_run_fifty_times(tmp_path: Path) -> None:
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD + FEED)
        assert kernel.run(cell(0)[0]).ok
        assert kernel.run("%triggers start").ok
        texts = {cell(0)[0]}
        for n in range(1, CELLS + 1):
            text, good = cell(n)
            assert kernel.run(text).ok is good, text
            if good:
                texts.add(text)
        found = ast.literal_eval(kernel.run(RESULT % EVENTS, timeout_s=120).text)
    assert found["ids"] == (EVENTS, EVENTS)
    assert found["kinds"] == (EVENTS, 2)
    assert len(set(found["runs"])) == 1
    assert found["in order"]
    assert found["opened"] == 1
    assert found["revisions"] >= len(texts)
