"""A start while windows are open, are being decided or wait for the store: each event is decided once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, SagaListener, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Ending, Refusal, WaitingEvent
from sagaz_lab.errors import LabClosed, StoreUnavailable
from sagaz_lab.model.run import RunStatus
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.stores.sql.sqlite_driver import SqliteDriver
from sagaz_lab.stores.sql.store import SqlStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, settle, until

WINDOWS: dict[str, dict[str, Any]] = {
    "batch": {"batch": Batch(3, "100ms", key="k")},
    "all": {"debounce": Debounce("100ms", "1s", key="k", mode="all")},
    "trailing": {"debounce": Debounce("100ms", "1s", key="k")},
}


class Slow(MemoryStore):
    """Answers after a while and now and then not at all, until it is calm."""

    def __init__(self, dice: random.Random, clock: VirtualClock) -> None:
        super().__init__()
        self._dice, self._clock = dice, clock
        self.calm = False

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if not self.calm:
            await self._clock.sleep(self._dice.choice([0.0, 0.0, 0.05, 0.3]))
            if self._dice.random() < 0.1:
                raise StoreUnavailable("away")
        refused = await super().accept(batch)
        if not self.calm:
            await self._clock.sleep(self._dice.choice([0.0, 0.05]))
        return refused

    async def waiting(self, triggers: Sequence[str]) -> Sequence[WaitingEvent]:
        waiting = await super().waiting(triggers)
        await self._clock.sleep(0.0 if self.calm else self._dice.choice([0.0, 0.05, 0.3]))
        return waiting


def slow_windows(options: Mapping[str, Any], clock: VirtualClock) -> list[int]:
    """A saga whose method takes a while; returns the events that its runs have had."""
    ran: list[int] = []

    class Windowed(Saga):
        @trigger(source="memory", topic="t", **options)
        async def on_events(self, events):
            await clock.sleep(0.2)
            return {"ns": [event["n"] for event in (events if isinstance(events, list) else [events])]}

        @action("work")
        async def work(self, ctx):
            ran.extend(ctx["ns"])

    return ran


@pytest.mark.parametrize("fresh", [False, True], ids=["again", "afresh"])
@pytest.mark.parametrize("how", WINDOWS)
@pytest.mark.parametrize("seed", range(6))
async def test_each_event_is_decided_once_however_often_the_lab_is_started(seed: int, how: str, fresh: bool) -> None:
    dice, clock = random.Random(seed), VirtualClock()
    store = Slow(dice, clock)
    lab = Lab(store, clock=clock)
    await lab.open()
    with lab.activate():
        ran = slow_windows({**WINDOWS[how], "config": TriggerConfig(queue_size=1000)}, clock)
    taken: list[str] = []

    async def deliver(n: int) -> None:
        try:
            await lab.fire("Windowed.on_events", {"n": n, "k": dice.choice("xy")}, id=f"e{n}", wait=False)
        except StoreUnavailable:
            return
        taken.append(f"e{n}")

    async def start() -> None:
        with contextlib.suppress(StoreUnavailable):
            await lab.start(fresh=fresh and dice.random() < 0.5)

    tasks = []
    for n in range(40):
        tasks.append(asyncio.create_task(deliver(n)))
        if dice.random() < 0.4:
            tasks.append(asyncio.create_task(start()))
        await clock.advance(dice.choice([0.0, 0.03, 0.1]))
        counters = lab.counters()["Windowed.on_events"]
        assert min(value for value in counters.values() if isinstance(value, int)) >= 0
        assert_adds_up(lab)
    store.calm = True
    for _ in range(400):
        await clock.advance(0.1)
    assert all(task.done() for task in tasks)
    assert await store.waiting(["Windowed.on_events"]) == []
    assert_adds_up(lab)
    assert counted(lab, "Windowed.on_events")["received"] == len(taken)
    assert [n for n, times in Counter(ran).items() if times > 1] == []
    told = {id: [str(outcome.kind) for outcome in lab.why(id).outcomes] for id in taken}
    finals = {id: [kind for kind in kinds if kind != "waiting"] for id, kinds in told.items()}
    assert {id: len(kinds) for id, kinds in finals.items()} == dict.fromkeys(taken, 1)
    if how != "trailing" and not fresh:
        assert sorted(f"e{n}" for n in ran) == sorted(taken)
    await lab.stop(grace_s=0)


async def test_a_fresh_start_forgets_what_waits_once_what_came_before_is_decided(each_lab: Lab) -> None:
    decides, goes_on = asyncio.Event(), asyncio.Event()
    ran: list[list[int]] = []

    class Windowed(Saga):
        @trigger(source="memory", topic="t", batch=Batch(2, "1h"))
        async def on_events(self, events):
            decides.set()
            await goes_on.wait()
            return {"ns": [event["n"] for event in events]}

        @action("work")
        async def work(self, ctx):
            ran.append(ctx["ns"])

    async def give(n: int) -> None:
        await each_lab.fire("Windowed.on_events", {"n": n}, id=f"e{n}", wait=False)

    given = [asyncio.create_task(give(n)) for n in range(5)]
    await decides.wait()
    starts = asyncio.ensure_future(each_lab.start(fresh=True))
    await settle()
    goes_on.set()
    await asyncio.gather(starts, *given)
    assert counted(each_lab, "Windowed.on_events")["filtered"] == 1
    await give(5)
    await give(6)
    await until(lambda: ran == [[0, 1], [2, 3], [5, 6]])
    await each_lab.drain()
    assert_adds_up(each_lab)


class Memory(MemoryStore):
    """Letters and cancellings find it away while `away`; how many have is counted."""

    away, missed = False, 0

    def end(self, run_id: str, ending: Ending, **more: Any) -> Awaitable[None]:
        if ending.status is RunStatus.CANCELLED and self.away:
            self.missed += 1
            raise StoreUnavailable("away")
        return super().end(run_id, ending, **more)

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if batch.dead and self.away:
            self.missed += 1
            raise StoreUnavailable("away")
        return await super().accept(batch)


class Sqlite(SqlStore):
    """The same."""

    away, missed = False, 0

    def end(self, run_id: str, ending: Ending, **more: Any) -> Awaitable[None]:
        if ending.status is RunStatus.CANCELLED and self.away:
            self.missed += 1
            raise StoreUnavailable("away")
        return super().end(run_id, ending, **more)

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        if batch.dead and self.away:
            self.missed += 1
            raise StoreUnavailable("away")
        return await super().accept(batch)


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Memory | Sqlite:
    return Memory() if request.param == "memory" else Sqlite(SqliteDriver(tmp_path / "lab.db"))


def unstorable(**options: Any) -> None:
    """A saga whose runs no store can keep."""

    class Unstorable(Saga):
        @trigger(source="memory", topic="t", **options)
        def on_events(self, events):
            return {"rows": iter([1])}

        @action("work")
        async def work(self, ctx): ...


@pytest.mark.parametrize("how", ["batch", "all", "trailing"])
async def test_an_event_waits_until_its_dead_letter_is_stored(
    store: Memory | Sqlite, clock: VirtualClock, how: str
) -> None:
    store.away = True
    lab = Lab(store, clock=clock)
    await lab.open()
    with lab.activate():
        unstorable(**WINDOWS[how])
    fired = []
    for n in range(3):
        fire = lab.fire("Unstorable.on_events", {"n": n, "k": "x"}, id=f"e{n}", wait=False)
        fired.append(task := asyncio.create_task(fire))
        await until(lambda task=task: store.missed or task.done())  # type: ignore[misc]
    await clock.advance(1)
    await until(lambda: store.missed)
    # The event that fills a batch is not taken before its letter is stored.
    ids = {"trailing": ["e2"], "batch": ["e0", "e1"]}.get(how, ["e0", "e1", "e2"])
    assert [it.event.id for it in await store.waiting(["Unstorable.on_events"])] == ids
    await lab.stop(grace_s=0)
    refused = [one for one in await asyncio.gather(*fired, return_exceptions=True) if isinstance(one, LabClosed)]
    assert len(refused) == (how == "batch")

    store.away = False
    async with Lab(store, clock=clock) as lab:
        unstorable(**WINDOWS[how])
        await lab.start()
        await clock.advance(1)
        await until(lambda: lab.counters()["Unstorable.on_events"]["dead"] == len(ids))
        assert sorted(lab.dead_letters()["event_id"]) == ids
        assert await store.waiting(["Unstorable.on_events"]) == []
        assert counted(lab, "Unstorable.on_events") == {"received": len(ids), "dead": len(ids)}


async def pass_until(clock: VirtualClock, condition: Callable[[], object]) -> None:
    """Virtual time passes until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await clock.advance(0.1)
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("how", ["no window", *WINDOWS])
async def test_a_dead_letter_waits_until_the_store_is_back(
    store: Memory | Sqlite, clock: VirtualClock, how: str
) -> None:
    store.away = True
    lab = Lab(store, clock=clock)
    await lab.open()
    with lab.activate():
        unstorable(**WINDOWS.get(how, {}))
    fired = [
        asyncio.create_task(lab.fire("Unstorable.on_events", {"n": n, "k": n}, id=f"e{n}", wait=False))
        for n in range(3)
    ]
    await pass_until(clock, lambda: store.missed >= 5)
    counters = lab.counters()["Unstorable.on_events"]
    assert min(value for value in counters.values() if isinstance(value, int)) >= 0
    assert_adds_up(lab)
    store.away = False
    await pass_until(clock, lambda: lab.counters()["Unstorable.on_events"]["dead"] == 3)
    await asyncio.gather(*fired)
    assert sorted(lab.dead_letters()["event_id"]) == ["e0", "e1", "e2"]
    assert counted(lab, "Unstorable.on_events") == {"received": 3, "dead": 3}
    await asyncio.wait_for(lab.drain(), 20)
    await lab.stop(grace_s=0)


async def test_a_run_is_replaced_when_the_store_is_back(store: Memory | Sqlite, clock: VirtualClock) -> None:
    lab = Lab(store, clock=clock)
    await lab.open()
    with lab.activate():

        class Newest(Saga):
            @trigger(source="memory", singleton="cancel", config=TriggerConfig(retry_backoff_seconds=(1000,)))
            def on_event(self, event):
                return {"n": event["n"]}

            @action("work")
            async def work(self, ctx):
                if ctx["n"] == 1:
                    raise OSError("down")

    await lab.fire("Newest.on_event", {"n": 1}, wait=False)
    await until(lambda: list(lab.runs()["status"]) == ["waiting"])
    store.away = True
    second = asyncio.create_task(lab.fire("Newest.on_event", {"n": 2}, wait=False))
    await pass_until(clock, lambda: store.missed >= 3)
    store.away = False
    await pass_until(clock, second.done)
    await second
    await asyncio.wait_for(lab.drain(), 20)
    assert list(lab.runs()["status"]) == ["completed", "cancelled"]
    assert counted(lab, "Newest.on_event")["started"] == 2
    await lab.stop(grace_s=0)


async def test_who_stops_waiting_for_a_listener_stops_no_other_trigger(each_lab: Lab) -> None:
    listens, goes_on = asyncio.Event(), asyncio.Event()
    ran: list[int] = []

    class Listener(SagaListener):
        async def on_trigger_filtered(self, saga_name, event, reason):
            listens.set()
            await goes_on.wait()

    class First(Saga):
        listeners = [Listener()]

        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return None

        @action("work")
        async def work(self, ctx): ...

    class Second(Saga):
        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {"n": event["n"]}

        @action("work")
        async def work(self, ctx):
            ran.append(ctx["n"])

    fired = asyncio.create_task(each_lab.fire("memory", {"n": 1}, topic="t", id="e1"))
    await listens.wait()
    fired.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fired
    goes_on.set()
    await until(lambda: ran == [1])
    await asyncio.wait_for(each_lab.drain(), 20)
    assert counted(each_lab, "First.on_event") == {"received": 1, "filtered": 1}
    assert counted(each_lab, "Second.on_event") == {"received": 1, "started": 1}
