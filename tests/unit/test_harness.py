"""What the harness promises to those who test their sagas."""

from dataclasses import dataclass

import pytest

from sagaz_lab import Event, Lab, Saga, action, skip, trigger
from sagaz_lab.errors import DecodeError, DefinitionError, MissingKey, PayloadMismatch, UnknownName
from sagaz_lab.testing import TriggerTestHarness


@dataclass
class DriftEvent:
    model_id: str
    score: float


with Lab("memory").activate():

    class Base(Saga, abstract=True): ...

    class ModelRetraining(Saga):
        @trigger(source="kafka", topic="model.drift", idempotency_key="model_id")
        def on_drift(self, event: DriftEvent):
            if event.score > 0.9:
                return {"model_id": event.model_id, "reason": "drift"}
            return None if event.score < 0.1 else skip("score too low", score=event.score)

        @trigger(source="redis", stream="s", concurrency_key="user")
        async def on_entry(self, event, raw: Event):
            if event.user == "nobody":
                return ["no mapping"]
            return {"user": event["user"], "id": raw.id}

        @action("train")
        async def train(self, ctx): ...


@pytest.fixture(params=[ModelRetraining, ModelRetraining()], ids=["class", "instance"])
def harness(request):
    return TriggerTestHarness(request.param)


async def test_it_gives_the_context_or_none_if_the_event_is_filtered(harness):
    event = DriftEvent("m", 0.95)
    assert await harness.trigger("on_drift", event) == {"model_id": "m", "reason": "drift"}
    assert await harness.trigger("on_drift", {"model_id": "m", "score": 0.95}) == await harness.trigger(
        "on_drift", event
    )
    assert await harness.trigger("on_drift", b'{"model_id": "m", "score": 0.0}') is None
    assert harness.skipped is None
    assert await harness.trigger("on_drift", DriftEvent("m", 0.5)) is None
    assert (harness.skipped.reason, harness.skipped.facts) == ("score too low", {"score": 0.5})


async def test_async_methods_and_events_work_as_well(harness):
    assert await harness.trigger("on_entry", Event({"user": "u"}, id="1-0")) == {"user": "u", "id": "1-0"}


@pytest.mark.parametrize(
    ("method", "event", "error"),
    [
        ("on_drift", {"model_id": "m"}, PayloadMismatch),
        ("on_drift", b"{", DecodeError),
        ("on_drift", DriftEvent("", 1.0), MissingKey),
        ("on_entry", {}, MissingKey),
        ("on_entry", {"user": "nobody"}, TypeError),
        ("on_drfit", {}, UnknownName),
    ],
)
async def test_it_raises_what_would_make_a_dead_letter(harness, method, event, error):
    with pytest.raises(error):
        await harness.trigger(method, event)


def test_an_abstract_saga_has_no_triggers_of_its_own():
    with pytest.raises(DefinitionError, match="abstract"):
        TriggerTestHarness(Base())
