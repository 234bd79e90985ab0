"""From the moment a saga is registered its triggers decide what comes, whichever connections are still to follow."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.abc import RevisionRow
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from tests.unit.tools import Taps, counted, settle, until


class SlowToOwn(MemoryStore):
    """Takes up triggers only when it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.may_own = asyncio.Semaphore(2)  # as often as a start does

    async def own_triggers(self, triggers: Collection[str]) -> None:
        await self.may_own.acquire()
        await super().own_triggers(triggers)


@pytest.fixture
async def slow() -> Any:
    """A Lab whose saga reads the topic "t", which will take its time to follow a change."""
    taps = Taps()
    async with Lab(SlowToOwn(), sources={"memory": taps}) as lab:
        define("on_first")
        await lab.start()
        yield lab, taps["t"]


def define(*methods: str, **options: Any) -> None:
    decide = {name: trigger(source="memory", topic="t", **options)(lambda self, event: {}) for name in methods}
    type("Scores", (Saga,), decide)


async def test_what_comes_after_a_trigger_was_renamed_is_decided_under_the_new_name(slow: Any) -> None:
    lab, source = slow
    source.put_nowait({})
    await until(lambda: counted(lab, "Scores.on_first") == {"received": 1, "started": 1})
    define("on_renamed")
    source.put_nowait({})
    await until(lambda: counted(lab, "Scores.on_renamed") == {"received": 1, "started": 1})
    assert counted(lab, "Scores.on_first") == {"received": 1, "started": 1}
    assert (source.entered, source.left) == (1, 0)


async def test_what_comes_after_a_trigger_was_removed_stays_at_its_source(slow: Any) -> None:
    lab, source = slow
    define()
    source.put_nowait({})
    await settle()
    assert counted(lab, "Scores.on_first") == {}
    define("on_first")
    await until(lambda: counted(lab, "Scores.on_first") == {"received": 1, "started": 1})
    assert (source.entered, source.left) == (1, 0)


async def test_an_earlier_change_that_is_still_followed_brings_nothing_back(slow: Any) -> None:
    lab, source = slow
    define("on_second")
    await settle()
    define("on_third")
    lab.store.may_own.release()
    await settle()
    source.put_nowait({})
    await until(lambda: counted(lab, "Scores.on_third") == {"received": 1, "started": 1})
    assert counted(lab, "Scores.on_second") == {}


async def test_a_source_does_not_wait_for_a_trigger_that_is_gone(slow: Any) -> None:
    lab, source = slow
    lab.pause("Scores.on_first")
    source.put_nowait({})
    await until(lambda: lab.status().sources[0].state == "paused")
    define("on_renamed")
    await until(lambda: counted(lab, "Scores.on_renamed") == {"received": 1, "started": 1})


async def test_a_cell_that_is_run_while_the_lab_opens_is_started_too() -> None:
    class Slow(MemoryStore):
        async def save_revision(self, row: RevisionRow) -> bool:
            kept = await super().save_revision(row)
            if row.number == 1:
                define("on_first", "on_second")
            return kept

    taps = Taps()
    lab = Lab(Slow(), sources={"memory": taps})
    with lab.activate():
        define("on_first")
        await lab.start()
        taps["t"].put_nowait({})
        await until(lambda: lab.counters()["Scores.on_first"]["received"])
        assert counted(lab, "Scores.on_second") == {"received": 1, "started": 1}
    await lab.stop()


async def test_who_waits_for_the_triggers_to_end_is_told_also_if_the_store_fails_then() -> None:
    class Failing(MemoryStore):
        async def close(self) -> None:
            raise StoreUnavailable("the disk is full")

    lab = Lab(Failing())
    with lab.activate():
        define("on_first")
        waiting = asyncio.ensure_future((await lab.start()).wait())
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await lab.stop()
        await asyncio.wait_for(waiting, 5.0)
