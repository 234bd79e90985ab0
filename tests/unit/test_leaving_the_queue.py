"""Runs that leave the queue without beginning, while the store is away, the Lab closes, or a later event comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import pytest

from sagaz_lab import Lab, OutcomeKind, Saga, TriggerConfig, action, skip, trigger
from sagaz_lab.abc import Acceptance, Refusal, Store
from sagaz_lab.errors import LeaseLost, StoreUnavailable
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, statuses, until


class Faulty(MemoryStore):
    """Raises the `faults` of its calls, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: dict[str, Exception] = {}

    def _answer(self, call: str) -> None:
        if (fault := self.faults.get(call)) is not None:
            raise fault

    def begin(self, *args: Any, **more: Any) -> Awaitable[None]:
        self._answer("begin")
        return super().begin(*args, **more)

    def end(self, *args: Any, **more: Any) -> Awaitable[None]:
        self._answer("end")
        return super().end(*args, **more)

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        self._answer("accept")
        return await super().accept(batch)


@pytest.fixture
def store() -> Faulty:
    return Faulty()


@pytest.fixture
async def faulty_lab(store: Faulty) -> AsyncIterator[Lab]:
    async with Lab(store) as lab:
        yield lab


async def test_what_could_not_be_cancelled_keeps_its_place(faulty_lab: Lab, store: Faulty) -> None:
    gate, began = asyncio.Event(), []

    class Keyed(Saga):
        @trigger(source="memory", topic="keyed", concurrency_key="k")
        def on(self, event):
            return {"n": event["n"]}

        @action()
        async def work(self, ctx):
            began.append(ctx["n"])
            await gate.wait()

    outcomes = [(await faulty_lab.fire("Keyed.on", {"k": 1, "n": n}, wait=False))[0] for n in range(5)]
    store.faults["end"] = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await faulty_lab.compensate_run(outcomes[3].run_id or "")
    store.faults.clear()
    gate.set()
    await faulty_lab.drain()
    assert began == [0, 1, 2, 3, 4]


class Retried(Saga, abstract=True):
    """Runs of the number 0 fail once; others go on until they are let go."""

    begun: ClassVar[list[int]]
    gate: ClassVar[asyncio.Event]
    trigger_config = TriggerConfig(retry_backoff_seconds=(10.0,), queue_size=2, backpressure_strategy="drop_oldest")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.begun, cls.gate = [], asyncio.Event()
        super().__init_subclass__(**kwargs)

    @action("work")
    async def work(self, ctx):
        self.begun.append(ctx["n"])
        if ctx["n"] == 0 and self.begun.count(0) == 1:
            raise ValueError("once")
        if ctx["n"]:
            await self.gate.wait()


@asynccontextmanager
async def with_a_retry_that_waits(store: Store, clock: VirtualClock, **options: Any) -> AsyncIterator[Lab]:
    """The retry of event 0 is due, and event 1 has the only slot."""
    async with Lab(store, clock=clock) as lab:

        class One(Retried):
            @trigger(source="memory", topic="t", max_concurrent_sagas=1, **options)
            def on(self, event):
                return {"n": event["n"]}

        await lab.start()
        await lab.fire("One.on", {"n": 0, "k": "a"}, id="e0")
        await until(lambda: statuses(lab) == ["waiting"])
        await lab.fire("One.on", {"n": 1, "k": "b"}, id="e1")
        await clock.advance(11)
        yield lab
        One.gate.set()
        await lab.drain()
        assert_adds_up(lab)


async def test_a_retry_that_waits_for_a_slot_is_cancelled_for_a_later_run_of_its_key(clock: VirtualClock) -> None:
    store = MemoryStore()
    async with with_a_retry_that_waits(store, clock, singleton="cancel", concurrency_key="k") as lab:
        await lab.fire("One.on", {"n": 2, "k": "a"}, id="e2", wait=False)
        await until(lambda: statuses(lab)[0] == "cancelled")
    assert statuses(lab) == ["cancelled", "completed", "completed"]
    assert counted(lab, "One.on") == {"received": 3, "started": 3}
    async with Lab(store, clock=clock) as lab:
        await lab.start()
        assert statuses(lab) == ["cancelled", "completed", "completed"], "it does not come back"


async def test_a_retry_that_waits_for_a_slot_makes_room_for_no_event(clock: VirtualClock) -> None:
    async with with_a_retry_that_waits(MemoryStore(), clock) as lab:
        for n in (2, 3):
            await lab.fire("One.on", {"n": n}, wait=False)
    assert statuses(lab) == ["completed", "completed", "completed"]
    assert counted(lab, "One.on") == {"received": 4, "started": 3, "dropped": 1}


async def test_a_retry_that_waits_for_a_slot_goes_on_when_its_code_has_changed_or_gone(clock: VirtualClock) -> None:
    async with with_a_retry_that_waits(MemoryStore(), clock, concurrency_key="k", cooldown=60.0) as lab:
        lab.unregister("One")
    assert statuses(lab) == ["completed", "completed"]


# --- the close ---


async def forever() -> None:
    await asyncio.Event().wait()


def one_at_a_time(gate: asyncio.Event, version: int = 1, decide: Callable[[], Any] = dict) -> list[int]:
    """Returns the numbers of the events whose runs have begun. From the second version on `decide` has its say."""
    began: list[int] = []

    class Turns(Saga):
        v = version

        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        async def on(self, event):
            if self.v > 1:
                said = decide()
                if asyncio.iscoroutine(said):
                    said = await said
                if said is not None and not isinstance(said, dict):
                    return said
            return {"n": event["n"]}

        @action("work")
        async def work(self, ctx):
            began.append(ctx["n"])
            await gate.wait()

    return began


@pytest.mark.parametrize("how", ["lease", "store", "method"])
async def test_who_waits_for_a_run_that_leaves_the_queue_is_answered_at_the_close(store: Faulty, how: str) -> None:
    lab, gate = Lab(store), asyncio.Event()
    await lab.open()
    with lab.activate():
        one_at_a_time(gate)
        await lab.start()
        await lab.fire("Turns.on", {"n": 1})
        waiting = [asyncio.create_task(lab.fire("Turns.on", {"n": n})) for n in (2, 3)]
        await until(lambda: counted(lab, "Turns.on").get("waiting") == 2)
        if how == "method":
            one_at_a_time(gate, 2, forever)
        else:
            store.faults["begin"] = LeaseLost("taken over") if how == "lease" else StoreUnavailable("away")
        gate.set()
        await until(lambda: not lab.runs().query("status == 'completed'").empty)
        await asyncio.sleep(0.05)
        await lab.stop(grace_s=0)
        async with asyncio.timeout(5):
            answers = [await one for one in waiting]
    assert [answer.kind for (answer,) in answers] == [OutcomeKind.WAITING] * 2
    assert counted(lab, "Turns.on") == {"received": 1, "started": 1}


# --- turned away while the store is away ---


def fails() -> None:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("decide", "kind"), [(fails, "dead"), (lambda: skip("no"), "filtered")], ids=["fails", "skips"]
)
@pytest.mark.parametrize("closes", [False, True])
async def test_a_run_has_no_outcome_before_the_store_knows_that_it_was_turned_away(
    store: Faulty, clock: VirtualClock, decide: Any, kind: str, closes: bool
) -> None:
    gate = asyncio.Event()
    lab = Lab(store, clock=clock)
    await lab.open()
    with lab.activate():
        one_at_a_time(gate)
        await lab.start()
        await lab.fire("Turns.on", {"n": 1})
        waiting = asyncio.create_task(lab.fire("Turns.on", {"n": 2}, id="two"))
        await until(lambda: counted(lab, "Turns.on").get("waiting") == 1)
        one_at_a_time(gate, 2, decide)
        await clock.advance(1)
        store.faults["accept"] = StoreUnavailable("away")
        gate.set()
        await clock.advance(3)
        assert (waiting.done(), counted(lab, "Turns.on")) == (False, {"received": 2, "started": 1, "waiting": 1})
        if not closes:
            store.faults.clear()
            await clock.advance(10)
            assert (await waiting)[0].kind == kind
            assert counted(lab, "Turns.on") == {"received": 2, "started": 1, kind: 1}
        with suppress(StoreUnavailable):  # it cannot store what it has counted
            await lab.stop(grace_s=0)
        store.faults.clear()
    assert (await waiting)[0].kind == (OutcomeKind.WAITING if closes else kind)
    async with Lab(store, clock=clock) as lab:
        began = one_at_a_time(gate, 2, decide)
        await lab.start()
        await clock.advance(10)
        assert (began, len(lab.dead_letters())) == ([], kind == "dead")
        assert "waiting" not in statuses(lab)


async def test_a_run_that_cools_down_while_the_store_is_away_has_no_outcome_before_the_store_knows(
    faulty_lab: Lab, store: Faulty
) -> None:
    gate, began = asyncio.Event(), list[int]()

    class Cools(Saga):
        @trigger(source="memory", topic="t", concurrency_key="k", max_concurrent_sagas=1, cooldown="1h")
        def on(self, event):
            return {"n": event["n"]}

        @action("work")
        async def work(self, ctx):
            began.append(ctx["n"])
            await gate.wait()

    await faulty_lab.fire("Cools.on", {"n": 1, "k": "a"})
    waiting = [asyncio.create_task(faulty_lab.fire("Cools.on", {"n": n, "k": "b"})) for n in (2, 3)]
    await until(lambda: counted(faulty_lab, "Cools.on").get("waiting") == 2)
    store.faults["accept"] = StoreUnavailable("away")
    gate.set()
    await until(lambda: began == [1, 2])
    await asyncio.sleep(0.05)
    assert counted(faulty_lab, "Cools.on") == {"received": 3, "started": 2, "waiting": 1}
    store.faults.clear()
    assert [(await one)[0].kind for one in waiting] == ["started", "filtered"]
    await faulty_lab.drain()
    assert statuses(faulty_lab) == ["completed", "completed"]
