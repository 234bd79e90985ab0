"""How large batches are, the events of plain ones, and what the runs of one round see of each other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from sagaz_lab import Event, Lab, Saga, SagaListener, TriggerConfig, action, any_of, trigger
from sagaz_lab.abc import Attempt, Delivery, Observer, SourceTraits, deliveries
from sagaz_lab.engines.local.engine import LocalEngine
from sagaz_lab.errors import EndOfSource
from sagaz_lab.model.run import Run
from sagaz_lab.model.step import current_step
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.runtime.gates.batch_size import TURN_S, BatchSize
from tests.unit.tools import Taps, assert_adds_up, counted, statuses, until

SLOTS = 20
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Numbers:
    """A source of numbers from 0 on, which notes how many it was asked for."""

    traits: ClassVar[SourceTraits] = SourceTraits(redelivers=False, finite=True)

    def __init__(self, n: int) -> None:
        self.name = "numbers"
        self.asked: list[int] = []
        self.n = n
        self.given = 0

    async def __aenter__(self) -> Numbers:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self.asked.append(limit)
        numbers = range(self.given, min(self.given + limit, self.n))
        if not numbers:
            raise EndOfSource(self.name)
        self.given = numbers.stop
        return deliveries(numbers, map(str, numbers), self.name, datetime.now(UTC))

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Any) -> None:
        return None

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        raise AssertionError(f"{deliveries} was given back")

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...


async def given(lab: Lab, source: Numbers, keeps: Callable[[int], bool]) -> list[int]:
    """The numbers that have started a run."""
    kept: list[int] = []

    class Kept(Saga):
        saga_name = "kept"
        trigger_config = TriggerConfig(queue_size=1000)

        @trigger(source=source, max_concurrent_sagas=SLOTS)
        def on_number(self, event: Event) -> dict[str, Any] | None:
            return {"number": event.payload} if keeps(event.payload) else None

        @action()
        async def keep(self, ctx: Any) -> None:
            await asyncio.sleep(0)
            kept.append(ctx["number"])

    await lab.start()
    await until(lambda: source.given == source.n)
    await lab.drain()
    assert_adds_up(lab)
    return kept


# --- how many are asked for ---


def test_a_batch_size_grows_by_and_by_and_shrinks_at_once() -> None:
    batch_size = BatchSize()
    assert batch_size.events_for(SLOTS) == SLOTS, "nothing is known yet"
    grown = []
    for _ in range(20):
        batch_size.learn(100, 1, 0.0)
        grown.append(batch_size.events_for(SLOTS))
    assert grown == sorted(grown)
    assert 50 * SLOTS < grown[-1] < 100 * SLOTS, "a hundred events start one run, and there is a margin"
    batch_size.learn(10, 10, 0.0)
    assert batch_size.events_for(SLOTS) == SLOTS


def test_slow_decisions_make_small_batches_but_never_smaller_than_the_slots() -> None:
    batch_size = BatchSize()
    for _ in range(20):
        batch_size.learn(100, 0, 100 * TURN_S / 50)
    assert batch_size.events_for(SLOTS) == pytest.approx(50, abs=1)
    batch_size.learn(1, 0, 1.0)
    assert batch_size.events_for(SLOTS) == SLOTS


async def test_a_source_whose_events_are_filtered_is_asked_for_more_than_there_are_slots(lab: Lab) -> None:
    source = Numbers(20_000)
    kept = await given(lab, source, lambda number: number % 100 == 0)
    assert kept == list(range(0, 20_000, 100))
    assert source.asked[0] == SLOTS
    assert max(source.asked) > 10 * SLOTS


async def test_when_all_events_are_kept_after_none_was_nothing_is_lost_and_all_start_in_their_order(lab: Lab) -> None:
    source = Numbers(10_000)
    kept = await given(lab, source, lambda number: number >= 8000)
    assert kept == list(range(8000, 10_000))
    assert max(source.asked) > 10 * SLOTS
    counts = counted(lab, "kept.on_number")
    assert (counts["started"], counts["filtered"]) == (2000, 8000)


class Deque(Numbers):
    """Gives twice as many as it is asked for, in a sequence without slices."""

    async def receive(self, limit: int) -> Sequence[Delivery]:
        return deque(await super().receive(2 * limit))


async def test_a_source_that_gives_more_than_it_is_asked_for_waits_until_there_is_room(lab: Lab) -> None:
    assert await given(lab, Deque(500), lambda number: True) == list(range(500))


# --- the events of a plain batch ---


def test_a_plain_batch_is_a_sequence_of_deliveries() -> None:
    batch = deliveries([{"n": 1}, {"n": 2}, {"n": 3}], ["a", "b", "c"], "made", NOW, fresh=True)
    assert [(it.event.id, it.event["n"], it.token, it.fresh) for it in batch] == [
        ("a", 1, None, True), ("b", 2, None, True), ("c", 3, None, True)
    ]  # fmt: skip
    assert len(batch) == 3
    assert batch[-1].event.id == "c"
    assert (batch[0].event.source, batch[0].event.timestamp, batch[0].event.attempt) == ("made", NOW, 1)
    assert [it.event.id for it in batch[1:]] == ["b", "c"]
    assert not batch[3:]
    with pytest.raises(IndexError):
        batch[3]


def test_a_plain_batch_needs_an_id_for_each_payload() -> None:
    with pytest.raises(ValueError, match="3 payloads and 2 ids"):
        deliveries([1, 2, 3], ["a", "b"], "made", NOW)


async def test_a_payload_that_is_false_is_still_what_the_method_gets(lab: Lab) -> None:
    assert await given(lab, Numbers(3), lambda number: number == 0) == [0]


@pytest.mark.parametrize("parts", [1, 2])
async def test_however_large_a_batch_is_no_more_wait_than_the_queue_holds(parts: int) -> None:
    """Runs of one key start one at a time, so all but one of a batch wait; and two sources ask at the same time."""
    taps, end = Taps(), asyncio.Event()
    specs = [{"source": "memory", "topic": f"part {n}"} for n in range(parts)]
    where = specs[0] if parts == 1 else {"source": any_of(*specs)}

    async with Lab("memory", sources={"memory": taps}) as lab:
        with lab.activate():

            class Keyed(Saga):
                trigger_config = TriggerConfig(queue_size=50)

                @trigger(**where, concurrency_key=lambda event: "one", max_concurrent_sagas=100)
                def on_event(self, event: Event) -> dict[str, Any] | None:
                    return {} if event["go"] else None

                @action()
                async def wait(self, ctx: Any) -> None:
                    await end.wait()

        await lab.start()
        feeds = [taps[f"part {n}"] for n in range(parts)]
        for n in range(4000):
            feeds[n % parts].put_nowait({"go": False})
        await until(lambda: lab.counters()["Keyed.on_event"]["filtered"] == 4000)
        for n in range(500):
            feeds[n % parts].put_nowait({"go": True})
        most = 0
        for _ in range(50):
            await asyncio.sleep(0.001)
            most = max(most, counted(lab, "Keyed.on_event").get("waiting", 0))
        assert most == 50
        end.set()
        await until(lambda: lab.counters()["Keyed.on_event"]["started"] == 500)
        await lab.drain()
        assert statuses(lab) == ["completed"] * 500


async def test_what_was_received_and_still_waits_for_room_goes_back_when_the_lab_stops() -> None:
    taps = Taps()
    specs = [{"source": "memory", "topic": f"part {n}"} for n in range(2)]
    async with Lab("memory", sources={"memory": taps}) as lab:
        with lab.activate():

            class Full(Saga):
                trigger_config = TriggerConfig(queue_size=5)

                @trigger(source=any_of(*specs), max_concurrent_sagas=5)
                def on_event(self, event: Event) -> dict[str, Any]:
                    return {}

                @action()
                async def wait(self, ctx: Any) -> None:
                    await asyncio.Event().wait()

        await lab.start()
        for n in range(30):
            taps[f"part {n % 2}"].put_nowait({})
        await until(lambda: counted(lab, "Full.on_event").get("waiting") == 5)
        before = counted(lab, "Full.on_event")
        assert before["received"] == 10
        async with asyncio.timeout(5):
            await lab.stop(grace_s=0)
        assert sum(taps[f"part {n}"].waiting for n in range(2)) == 30 - before["received"]


# --- runs of one round ---


mark: ContextVar[Any] = ContextVar("mark")


class Incomparable:
    """Like an array: `==` is no answer."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("make", [str, Incomparable])
async def test_no_run_sees_the_context_variables_of_another(lab: Lab, make: type[Any]) -> None:
    seen: list[bool] = []
    before = make()
    mark.set(before)

    class Marks(Saga):
        @trigger(source="memory", topic="marks")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {"n": event["n"]}

        @action()
        async def set_it(self, ctx: Any) -> None:
            seen.append(mark.get() is before)
            if ctx["n"] % 2 == 0:
                mark.set("mine" if make is str else make())
            if ctx["n"] == 2:
                await asyncio.sleep(0)

    await asyncio.gather(*(lab.fire("Marks.on_event", {"n": n}) for n in range(5)))
    await lab.drain()
    assert seen == [True] * 5


class Breaks(LocalEngine):
    """Fails at the run of number 1 before that has begun or while it waits, as no engine should."""

    waits = False

    def execute(self, run: Attempt) -> Any:
        if run.ctx["n"] != 1:
            return super().execute(run)
        if not self.waits:
            raise RuntimeError("broken")
        return self._break_later()

    async def _break_later(self) -> None:
        await asyncio.sleep(0)
        raise RuntimeError("broken")


class BreaksAtAnEnd(Observer):
    def ended(self, run: Run) -> None:
        if run.ctx["n"] == 3:
            raise RuntimeError("broken as well")


@pytest.mark.parametrize("waits", [False, True])
async def test_what_breaks_one_run_and_who_is_told_of_it_stop_no_other(waits: bool) -> None:
    ran: list[int] = []
    engine = Breaks(SystemClock())
    engine.waits = waits
    async with Lab("memory", engine=engine) as lab:
        lab.observe(BreaksAtAnEnd())
        with lab.activate():

            class Kept(Saga):
                @trigger(source="memory", topic="kept", max_concurrent_sagas=3)
                def on_event(self, event: Event) -> dict[str, Any]:
                    return {"n": event["n"]}

                @action()
                async def keep(self, ctx: Any) -> None:
                    ran.append(ctx["n"])

        told: list[str] = []
        lab.on_report(lambda kind, text: [told.append(kind), 1 / 0])  # type: ignore[arg-type, return-value]
        await asyncio.gather(*(lab.fire("Kept.on_event", {"n": n}) for n in range(8)))
        async with asyncio.timeout(5):
            await lab.drain()
        assert sorted(ran) == [0, 2, 3, 4, 5, 6, 7]
        assert sorted(told) == ["engine", "observer:BreaksAtAnEnd"]
        assert lab.status().triggers[0].running == 0, "its slot is free again"


async def test_a_cancelling_that_was_taken_back_hits_no_other_run(lab: Lab) -> None:
    class Odd(Saga):
        @trigger(source="memory", topic="odd")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {"n": event["n"]}

        @action()
        async def work(self, ctx: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            if ctx["n"] == 0:
                task.cancel()
                task.uncancel()
            else:
                await asyncio.sleep(0)

    await asyncio.gather(*(lab.fire("Odd.on_event", {"n": n}) for n in range(3)))
    await lab.drain()
    assert statuses(lab) == ["completed"] * 3


async def test_a_run_whose_event_an_action_fired_begins_outside_of_that_action(lab: Lab) -> None:
    steps: list[Any] = []

    class Begins(SagaListener):
        async def on_saga_start(self, saga_name: str, saga_id: str, ctx: Any) -> None:
            steps.append(current_step.get(None))

    class Inner(Saga):
        listeners: ClassVar[list[SagaListener]] = [Begins()]

        @trigger(source="memory", topic="inner")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def work(self, ctx: Any) -> None: ...

    class Outer(Saga):
        @trigger(source="memory", topic="outer")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def fire(self, ctx: Any) -> None:
            await asyncio.sleep(0)
            await lab.fire("Inner.on_event", {})

    await lab.fire("Outer.on_event", {})
    await lab.drain()
    assert steps == [None]


async def test_a_run_sees_those_of_its_round_that_have_ended_as_ended(lab: Lab) -> None:
    seen: list[tuple[int, int]] = []

    class Seen(Saga):
        @trigger(source="memory", topic="seen", max_concurrent_sagas=10)
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def look(self, ctx: Any) -> None:
            status = lab.status()
            (row,) = [it for it in status.triggers if it.name == "Seen.on_event"]
            seen.append((len(status.runs), row.running))

    await asyncio.gather(*(lab.fire("Seen.on_event", {}) for _ in range(3)))
    await lab.drain()
    assert seen == [(3, 3), (2, 2), (1, 1)]


async def test_an_action_that_fires_finds_the_slot_of_a_run_that_has_ended_before_it(lab: Lab) -> None:
    order: list[str] = []

    class One(Saga):
        saga_name = "one"
        trigger_config = TriggerConfig(queue_size=1, backpressure_strategy="drop_newest")

        @trigger(source="memory", topic="both", max_concurrent_sagas=1)
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def note(self, ctx: Any) -> None:
            order.append("one")

    class Two(Saga):
        saga_name = "two"

        @trigger(source="memory", topic="both")
        def on_event(self, event: Event) -> dict[str, Any]:
            return {}

        @action()
        async def fire(self, ctx: Any) -> None:
            order.append("two")
            # One of these has the only slot, which is free by now, the other the only place in the queue.
            outcomes = [await lab.fire("one.on_event", {}, wait=False) for _ in range(2)]
            order.extend(str(it.kind) for (it,) in outcomes)

    await lab.fire("memory", {}, topic="both")
    await lab.drain()
    assert order[:4] == ["one", "two", "started", "waiting"] or order[:3] == ["one", "two", "one"]
    assert counted(lab, "one.on_event") == {"received": 3, "started": 3}
