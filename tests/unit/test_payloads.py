"""What was sent is what is stored, redriven, shadowed and seen, whatever the user's code makes of its own copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, SagaListener, TriggerConfig, action, trigger
from sagaz_lab.abc import Event
from sagaz_lab.model.apart import apart
from tests.unit.tools import Taps, spoil, until

SENT = {"k": "a", "rows": [{"n": 1}, {"n": 2}], "tags": {"x": [1]}}
AS_BYTES = b'{"k": "a", "rows": [{"n": 1}, {"n": 2}], "tags": {"x": [1]}}'
each_form = pytest.mark.parametrize("sent", [AS_BYTES, SENT], ids=["bytes", "dict"])


def seen_by(event: Any) -> Any:
    """What is in its payload, which is spoilt then."""
    events = event if isinstance(event, list) else [event]
    found = [apart(one.payload) for one in events]
    for one in events:
        spoil(one.payload)
    return found if isinstance(event, list) else found[0]


class Sees(Saga, abstract=True):
    """Its trigger methods spoil what they get."""

    trigger_config = TriggerConfig(max_retries=0)
    seen: list[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        cls.seen = []
        super().__init_subclass__(**kwargs)

    @action("fail")
    async def fail(self, ctx):
        raise OSError("down")


def saga(name: str = "S", listeners: Any = (), **options: Any) -> Any:
    def on(self: Any, event: Any) -> Any:
        self.seen.append(seen_by(event))
        return {}

    decide = trigger(**{"source": "memory", "topic": "t", **options})(on)
    return type(name, (Sees,), {"listeners": listeners, "on": decide})


@each_form
async def test_it_is_stored_and_redriven(each_lab: Lab, sent: Any) -> None:
    cls = saga()
    await each_lab.fire("S.on", sent)
    await each_lab.drain()
    for _ in range(2):
        assert list(each_lab.events()["payload"]) == [SENT] * len(each_lab.events())
        await each_lab.redrive(list(each_lab.dead_letters()["id"]))
        await each_lab.drain()
    assert cls.seen == [SENT] * 3
    assert SENT["rows"] == [{"n": 1}, {"n": 2}]


@each_form
async def test_the_method_that_raises_leaves_it_whole_in_the_dead_letter(each_lab: Lab, sent: Any) -> None:
    def on(self: Any, event: Any) -> Any:
        seen.append(seen_by(event))
        raise OSError("down")

    seen: list[Any] = []
    type("S", (Saga,), {"on": trigger(source="memory")(on)})
    await each_lab.fire("S.on", sent)
    await each_lab.redrive(list(each_lab.dead_letters()["id"]))
    assert seen == [SENT, SENT]


@each_form
async def test_a_second_saga_sees_it(lab: Lab, sent: Any) -> None:
    first, second = saga("First"), saga("Second")
    await lab.fire("memory", sent, topic="t")
    assert (first.seen, second.seen) == ([SENT], [SENT])


@each_form
@pytest.mark.parametrize(
    "options",
    [{"batch": Batch(2, "1h")}, {"debounce": Debounce("1s", "2s", mode="all")}, {"debounce": Debounce("1s", "2s")}],
)
async def test_events_in_a_window_are_as_they_were_when_they_came(
    timed_lab: Lab, clock: Any, sent: Any, options: Any
) -> None:
    cls = saga(**options, concurrency_key=lambda events: "one")
    payload = sent if sent is AS_BYTES else apart(sent)
    for _ in range(2):
        await timed_lab.fire("S.on", payload, wait=False)
    spoil(payload)
    await clock.advance(3)
    await until(lambda: cls.seen)
    assert cls.seen in ([SENT], [[SENT, SENT]])


async def test_who_fires_may_go_on_with_the_payload(lab: Lab) -> None:
    cls, row = saga(batch=Batch(3, "1h")), {"n": [0]}
    for n in range(3):
        row["n"][0] = n
        await lab.fire("S.on", row, wait=False)
    await lab.drain()
    assert cls.seen == [[{"n": [0]}, {"n": [1]}, {"n": [2]}]]
    assert row == {"n": [2]}


async def test_who_puts_into_a_memory_source_may_go_on_with_the_payload() -> None:
    taps, row = Taps(), {"n": [0]}
    async with Lab("memory", sources={"memory": taps}) as lab:
        cls = saga()
        await lab.start()
        for n in range(3):
            row["n"][0] = n
            taps["t"].put_nowait(row)
        await until(lambda: len(cls.seen) == 3)
    assert cls.seen == [{"n": [0]}, {"n": [1]}, {"n": [2]}]


@each_form
async def test_keys_are_read_from_what_was_sent(lab: Lab, sent: Any) -> None:
    saga(concurrency_key="k", idempotency_key=lambda event: event.payload["k"])
    (outcome,) = await lab.fire("S.on", sent)
    assert outcome.kind == "started"


async def test_a_result_of_decode_that_is_used_again_stays_whole(lab: Lab) -> None:
    made = apart(SENT)
    cls = saga(decode=lambda raw: made)
    for _ in range(2):
        await lab.fire("S.on", b"")
    assert cls.seen == [SENT, SENT]
    assert made == SENT


async def test_a_validator_that_changes_its_input_changes_nothing_else(lab: Lab) -> None:
    @dataclass
    class Order:
        rows: Any

        def __post_init__(self) -> None:
            self.rows.clear()
            raise ValueError("none")

    def on(self: Any, event: Order) -> Any: ...

    on.__annotations__["event"] = Order
    type("S", (Saga,), {"on": trigger(source="memory")(on)})
    payload = {"rows": [1]}
    await lab.fire("S.on", payload)
    (letter,) = await lab.store.letters(list(lab.dead_letters()["id"]))
    assert (payload, letter.event.payload) == ({"rows": [1]}, {"rows": [1]})


async def test_listeners_get_an_event_of_their_own(lab: Lab) -> None:
    class Spoils(SagaListener):
        def on_trigger_received(self, saga: str, source: str, event: Event) -> None:
            spoil(event.payload)

    cls = saga(listeners=[Spoils(), Spoils()])
    await lab.fire("S.on", apart(SENT))
    assert cls.seen == [SENT]


async def test_tables_and_models_are_handed_on_as_they_are(lab: Lab) -> None:
    seen: list[Any] = []

    @dataclass
    class Order:
        rows: list[int]

    def on(self: Any, event: Any) -> Any:
        seen.extend(event.payload.values())

    type("S", (Saga,), {"on": trigger(source="memory")(on)})
    table, order = pd.DataFrame({"a": [1]}), Order([1])
    await lab.fire("S.on", {"table": table, "order": order})
    assert [id(value) for value in seen] == [id(table), id(order)]
