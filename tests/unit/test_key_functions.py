"""A key function reads a copy of its own: what it changes, neither another key nor the trigger method sees."""

from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, Throttle, action, trigger

SENT = {"id": 1, "tags": ["a", "b"]}


def take(event: Any) -> Any:
    event.payload.pop("id")
    return event["tags"].pop()


OPTIONS: dict[str, dict[str, Any]] = {
    "idempotency_key": {"idempotency_key": take},
    "concurrency_key": {"concurrency_key": take},
    "throttle": {"throttle": Throttle(100, "1s", key=take)},
    "debounce": {"debounce": Debounce("10ms", "1s", key=take)},
    "leading": {"debounce": Debounce("10ms", "1s", mode="leading", key=take)},
    "all": {"idempotency_key": take, "concurrency_key": take, "throttle": Throttle(100, "1s", key=take)},
}


@pytest.mark.parametrize("option", OPTIONS)
async def test_the_method_gets_what_was_sent(lab: Lab, option: str) -> None:
    seen: list[Any] = []

    class Watched(Saga):
        @trigger(source="memory", topic="t", **OPTIONS[option])
        def on_event(self, event):
            seen.append(dict(event))
            return event

        @action()
        async def work(self, ctx):
            seen.extend((dict(ctx), dict(ctx.event)))

    [outcome] = await lab.fire("Watched.on_event", SENT)
    await lab.drain()
    assert outcome.kind == "started", outcome
    assert seen == [SENT] * 3


async def test_the_method_of_a_batch_gets_what_was_sent(lab: Lab) -> None:
    seen: list[Any] = []

    class Watched(Saga):
        @trigger(source="memory", topic="t", batch=Batch(2, "1h", key=take), concurrency_key=lambda es: take(es[0]))
        def on_event(self, events):
            seen.extend(dict(event) for event in events)
            return {}

        @action()
        def work(self, ctx): ...

    await lab.fire("Watched.on_event", SENT, wait=False)
    [outcome] = await lab.fire("Watched.on_event", SENT)
    assert outcome.kind == "started", outcome
    assert seen == [SENT] * 2


async def test_a_typed_payload_that_is_a_dict_is_read_the_same_way(lab: Lab) -> None:
    seen: list[Any] = []

    class Watched(Saga):
        @trigger(source="memory", topic="t", idempotency_key=lambda event: event.pop("id"))
        def on_event(self, event: dict[str, Any]):
            seen.append(dict(event))
            return {}

        @action()
        def work(self, ctx): ...

    [outcome] = await lab.fire("Watched.on_event", SENT)
    assert outcome.kind == "started", outcome
    assert seen == [SENT]
