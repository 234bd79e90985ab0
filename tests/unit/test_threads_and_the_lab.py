"""A plain `def` action runs in a thread, where the Lab's loop is not: its error names the way that works."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, fire_event, trigger
from sagaz_lab.errors import LabClosed
from tests.unit.tools import statuses


class Calls:
    """What an action may call of the Lab: each gives a coroutine."""

    def __init__(self, lab: Lab, child: type[Saga]) -> None:
        self.by_name: dict[str, Any] = {
            "fire": lambda: lab.fire("Leaf.on", {}, wait=False),
            "fire_event": lambda: fire_event("Leaf.on", {}),
            "run": lambda: child().run({}),
            "stop": lab.stop,
        }


def define(lab: Lab, name: str, returned: bool) -> None:
    class Leaf(Saga):
        @trigger(source="memory", topic="leaf")
        def on(self, event):
            return {}

        @action()
        async def work(self, ctx):
            return {"done": True}

    call = Calls(lab, Leaf).by_name[name]

    class Caller(Saga):
        @trigger(source="memory", topic="caller", config=TriggerConfig(max_retries=0))
        def on(self, event):
            return {}

        @action()
        def work(self, ctx):
            return call() if returned else asyncio.run(call())


@pytest.mark.parametrize("name", ["fire", "fire_event", "run", "stop"])
async def test_a_call_from_the_thread_names_the_way_that_works(each_lab: Lab, name: str) -> None:
    define(each_lab, name, returned=False)
    await each_lab.fire("Caller.on", {})
    await each_lab.drain()
    (error,) = each_lab.dead_letters()["error"]
    assert error.startswith("LabClosed: Caller.work runs in a worker thread")
    assert "`async def`" in error
    assert "return the call's coroutine" in error


@pytest.mark.parametrize("name", ["fire", "fire_event", "run"])
async def test_returning_the_coroutine_works(each_lab: Lab, name: str) -> None:
    define(each_lab, name, returned=True)
    await each_lab.fire("Caller.on", {})
    await each_lab.drain()
    assert (len(each_lab.dead_letters()), statuses(each_lab)) == (0, ["completed"] * 2)


async def test_whoever_is_no_action_is_told_to_stop_it_there(each_lab: Lab) -> None:
    with pytest.raises(LabClosed, match="stop it there first"):
        await asyncio.to_thread(lambda: asyncio.run(each_lab.open()))
