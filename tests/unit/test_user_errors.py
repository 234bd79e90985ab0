"""Whatever the user's code raises concerns the event, run or source that it was called for, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, SagaListener, Throttle, TriggerConfig, action, compensate, trigger
from sagaz_lab.abc import Delivery, Event, SourceTraits
from sagaz_lab.model.saga import forward_recovery
from tests.unit.tools import counted, statuses, until

ERRORS = [
    asyncio.CancelledError,
    SystemExit,
    GeneratorExit,
    RecursionError,
    StopIteration,
    lambda: BaseExceptionGroup("several", [SystemExit()]),
]
each_error = pytest.mark.parametrize(
    "error", ERRORS, ids=["cancelled", "exit", "generator", "recursion", "stop", "group"]
)


class Raises:
    """Raises where it is asked about what is bad."""

    def __init__(self, error: Callable[[], BaseException]) -> None:
        self.error = error

    def key(self, event: Any) -> str:
        return str(self(event["n"]))

    def __call__(self, n: Any) -> Any:
        if n == 1:
            raise self.error()
        return n


class Hostile(Mapping[str, Any]):
    """A context that cannot be read."""

    def __init__(self, raises: Raises) -> None:
        self.raises = raises

    def __getitem__(self, name: str) -> Any:
        return name

    def __iter__(self) -> Iterator[str]:
        self.raises(1)
        return iter(())

    def __len__(self) -> int:
        return 1


def in_method(raises: Raises) -> dict[str, Any]:
    def on(self: Any, event: Any) -> Any:
        return {"n": raises(event["n"])}

    return {"on": on}


def in_async_method(raises: Raises) -> dict[str, Any]:
    async def on(self: Any, event: Any) -> Any:
        await asyncio.sleep(0)
        return {"n": raises(event["n"])}

    return {"on": on}


def in_context(raises: Raises) -> dict[str, Any]:
    return {"on": lambda self, event: Hostile(raises) if event["n"] == 1 else {}}


def in_decode(raises: Raises) -> dict[str, Any]:
    return {"decode": lambda raw: {"n": raises(int(raw))}, "raw": lambda n: b"%d" % n}


def in_validator(raises: Raises) -> dict[str, Any]:
    @dataclass
    class Payload:
        n: int

        def __post_init__(self) -> None:
            raises(self.n)

    def on(self: Any, event: Payload) -> Any:
        return {}

    on.__annotations__["event"] = Payload
    return {"on": on}


PLACES = {
    "method": in_method,
    "async method": in_async_method,
    "context": in_context,
    "decode": in_decode,
    "validator": in_validator,
    "idempotency key": lambda raises: {"idempotency_key": raises.key},
    "concurrency key": lambda raises: {"concurrency_key": raises.key},
    "throttle key": lambda raises: {"throttle": Throttle(1000, "1s", key=raises.key)},
    "leading key": lambda raises: {"debounce": Debounce("1s", "2s", mode="leading", key=raises.key)},
    "batch key": lambda raises: {"batch": Batch(1, "1h", key=raises.key), "on": lambda self, events: {}},
}


@each_error
@pytest.mark.parametrize("place", PLACES)
async def test_it_makes_a_dead_letter_of_its_event(lab: Lab, place: str, error: Any) -> None:
    options = {"on": lambda self, event: {}, "raw": lambda n: {"n": n}, **PLACES[place](Raises(error))}
    on, raw = options.pop("on"), options.pop("raw")
    type("S", (Saga,), {"on": trigger(source="memory", **options)(on)})
    outcomes = [(await lab.fire("S.on", raw(n)))[0].kind for n in range(3)]
    async with asyncio.timeout(5):
        await lab.drain()
    assert outcomes == ["started", "dead", "started"]
    assert counted(lab, "S.on") == {"received": 3, "started": 2, "dead": 1}


@each_error
@pytest.mark.parametrize("options", [{"batch": Batch(2, "1h")}, {"debounce": Debounce("10ms", "1s")}])
async def test_in_the_method_of_a_window_it_ends_the_window(lab: Lab, options: Any, error: Any) -> None:
    def on(self: Any, event: Any) -> Any:
        raise error()

    type("S", (Saga,), {"on": trigger(source="memory", **options)(on)})
    for n in range(2):
        await lab.fire("S.on", {"n": n}, wait=False)
    await until(lambda: "waiting" not in counted(lab, "S.on"))
    async with asyncio.timeout(5):
        await lab.drain()
    assert counted(lab, "S.on").keys() <= {"received", "dead", "filtered"}


class Moody:
    """A source that raises once, where it is to."""

    name = "moody"
    traits: ClassVar[SourceTraits] = SourceTraits()

    def __init__(self, place: str, error: Callable[[], BaseException]) -> None:
        self.place, self.error = place, error
        self.left = [f"e{n}" for n in range(4)]
        self.unsettled: list[str] = []
        self.entered = 0

    def at(self, place: str) -> None:
        if place == self.place and self.entered == 1 and len(self.left) < 3:
            self.place = ""
            raise self.error()

    async def __aenter__(self) -> Self:
        self.entered += 1
        return self

    async def __aexit__(self, *error: object) -> None:
        self.left, self.unsettled = self.unsettled + self.left, []
        self.at("exit")

    async def receive(self, limit: int) -> Sequence[Delivery]:
        self.at("receive")
        if self.place == "exit" and len(self.left) < 3:
            raise OSError("gone")
        while not self.left:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        self.unsettled.append(id := self.left.pop(0))
        return [Delivery(Event({"n": id}, id, "moody"), id)]

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Any) -> None:
        self.at("settle")
        for delivery in deliveries:
            self.unsettled.remove(delivery.event.id)

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        self.left += [delivery.event.id for delivery in deliveries]

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...


@each_error
@pytest.mark.parametrize("place", ["receive", "settle", "exit"])
async def test_a_source_that_raises_it_is_opened_again(lab: Lab, place: str, error: Any) -> None:
    reports: list[str] = []
    lab.on_report(lambda kind, text: reports.append(text))
    source = Moody(place, error)
    on = trigger(source=source)(lambda self, event: {})
    type("S", (Saga,), {"on": on})
    await lab.start()
    await until(lambda: lab.counters()["S.on"]["started"] == 4)
    assert source.entered == 2
    assert any("source custom moody has failed" in text and "it is reopened" in text for text in reports)
    assert lab.status().sources[0].state == "connected"


@each_error
async def test_a_source_that_raises_it_at_the_start_is_not_started(lab: Lab, error: Any) -> None:
    class Broken(Moody):
        async def __aenter__(self) -> Self:
            raise self.error()

    type("S", (Saga,), {"on": trigger(source=Broken("enter", error))(lambda self, event: {})})
    with pytest.raises(Exception):  # noqa: B017, PT011  and no other BaseException
        await lab.start()
    assert not lab.status().sources
    await lab.start(skip_failed=True)
    assert lab.status().sources[0].state == "failed"


@each_error
async def test_a_source_that_raises_it_when_it_is_closed_lets_the_lab_stop(error: Any) -> None:
    class Broken(Moody):
        async def __aexit__(self, *_: object) -> None:
            raise self.error()

    reports: list[str] = []
    async with Lab("memory") as lab, asyncio.timeout(10):
        lab.on_report(lambda kind, text: reports.append(text))
        type("S", (Saga,), {"on": trigger(source=Broken("", error))(lambda self, event: {})})
        await lab.start()
        await until(lambda: lab.counters()["S.on"]["started"] == 4)
    assert error is asyncio.CancelledError or any("source custom moody has failed" in text for text in reports)


@each_error
async def test_a_listener_that_raises_it_holds_up_nothing(lab: Lab, error: Any) -> None:
    class Loud(SagaListener):
        async def on_trigger_received(self, *facts: object) -> None:
            raise error()

        def on_saga_start(self, *facts: object) -> None:
            raise error()

        on_saga_complete = on_step_success = on_step_enter = on_trigger_filtered = on_trigger_dead = on_saga_start

    def hear(kind: str, text: str) -> None:
        raise error()

    lab.on_report(hear)
    members = {"listeners": [Loud()], "on": trigger(source="memory")(in_method(Raises(OSError))["on"])}
    type("S", (Saga,), members)
    assert [(await lab.fire("S.on", {"n": n}))[0].kind for n in range(3)] == ["started", "dead", "started"]
    async with asyncio.timeout(5):
        await lab.drain()
    assert statuses(lab) == ["completed", "completed"]


@each_error
async def test_an_action_that_raises_it_has_failed(lab: Lab, error: Any) -> None:
    class S(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory")
        def on(self, event):
            return {}

        @action("plain")
        def plain(self, ctx): ...

        @compensate("plain", max_retries=0)
        def undo(self, ctx):
            raise error()

        @action("stream", depends_on=["plain"])
        async def stream(self, ctx):
            try:
                yield 1
                raise error()
            finally:
                raise error()

        @action("read", depends_on=["stream"])
        async def read(self, ctx):
            async for _ in ctx.stream("stream"):
                pass

    await lab.fire("S.on", {})
    async with asyncio.timeout(5):
        await lab.drain()
    assert statuses(lab) == ["compensation_failed"]


@each_error
async def test_a_recovery_that_raises_it_has_failed(lab: Lab, error: Any) -> None:
    class S(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory")
        def on(self, event):
            return {}

        @action("pay", pivot=True)
        async def pay(self, ctx): ...

        @action("ship", depends_on=["pay"])
        async def ship(self, ctx):
            raise OSError("down")

        @forward_recovery("ship")
        async def recover(self, ctx, failure):
            raise error()

    await lab.fire("S.on", {})
    async with asyncio.timeout(5):
        await lab.drain()
    assert statuses(lab) == ["partially_committed"]


async def test_a_source_whose_task_was_cancelled_from_outside_is_reported(lab: Lab) -> None:
    reports: list[str] = []
    lab.on_report(lambda kind, text: reports.append(text))
    type("S", (Saga,), {"on": trigger(source=Moody("", OSError))(lambda self, event: {})})
    await lab.start()
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "source custom moody"]
    task.cancel()
    await until(task.done)
    await asyncio.sleep(0)
    assert reports == ["source custom moody ended because its task was cancelled from outside"]
    assert lab.status().sources[0].state == "failed"


def test_the_end_of_the_loop_is_no_cancelling_from_outside(caplog: pytest.LogCaptureFixture) -> None:
    async def leaves_it_started() -> None:
        lab = Lab("memory")
        with lab.activate():
            type("S", (Saga,), {"on": trigger(source=Moody("", OSError))(lambda self, event: {})})
        await lab.start()

    asyncio.run(leaves_it_started())
    assert "cancelled" not in caplog.text


async def test_who_fires_and_is_cancelled_meanwhile_gets_the_cancellation(lab: Lab) -> None:
    async def on(self: Any, event: Any) -> Any:
        await asyncio.sleep(60)

    type("S", (Saga,), {"on": trigger(source="memory")(on)})
    firing = asyncio.create_task(lab.fire("S.on", {}))
    await until(lambda: lab.counters()["S.on"]["deciding"])
    firing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await firing
    assert counted(lab, "S.on") == {}


@each_error
async def test_a_value_whose_class_raises_it_cannot_be_stored(each_lab: Lab, error: Any) -> None:
    class Model:
        __pydantic_validator__ = None
        __setstate__ = None

        def __getstate__(self) -> Any:
            raise error()

        def __repr__(self) -> str:
            raise error()

    type("S", (Saga,), {"on": trigger(source="memory")(lambda self, event: {"m": event["m"]} if event["m"] else {})})
    kinds = [(await each_lab.fire("S.on", {"m": value}))[0].kind for value in (None, Model(), None)]
    assert kinds in (["started", "started", "started"], ["started", "dead", "started"])
