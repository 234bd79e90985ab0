"""An event reads like a mapping of its payload; what sources give can be made by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Event, FileEvent, Lab, Saga, Tick, WebhookRequest, action, trigger
from sagaz_lab.errors import DecodeError
from sagaz_lab.testing import TriggerTestHarness

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def test_an_event_reads_like_the_mapping_that_it_carries() -> None:
    event = Event({"a": 1, "items": [2]}, "e1")
    assert (event.get("a"), event.get("b"), event.get("b", 3)) == (1, None, 3)
    assert list(event) == list(event.keys()) == ["a", "items"]
    assert ("a" in event, "b" in event, len(event)) == (True, False, 2)
    assert dict(event) == {**event} == event.payload
    assert event.items == [2]  # the payload's field
    assert list(Event({"a": 1}).items()) == [("a", 1)]
    assert Event({})  # an event, though an empty one


@pytest.mark.parametrize("payload", [None, 5, b"raw", object()])
@pytest.mark.parametrize("read", [dict, list, len, lambda event: event.get("a"), lambda event: event.keys()])
def test_another_payload_is_no_mapping_and_says_so(payload: Any, read: Any) -> None:
    with pytest.raises(TypeError, match=f"it is a {type(payload).__name__}: event.payload"):
        read(Event(payload))


def test_a_payload_that_is_a_list_is_read_as_one() -> None:
    event = Event([1, 2])
    assert (list(event), len(event), 2 in event) == ([1, 2], 2, True)


def test_the_message_id_is_the_event_s_unless_the_payload_has_one() -> None:
    assert Event({"a": 1}, "e1").message_id == Event(None, "e1").message_id == "e1"
    assert Event({"message_id": "m1"}, "e1").message_id == "m1"
    with pytest.raises(AttributeError, match="no field 'other'"):
        _ = Event({"a": 1}, "e1").other


class Seed(Saga, abstract=True):
    """As the seed writes its triggers."""

    @trigger(source="webhook", path="/webhooks/deploy/{model_id}", auth="bearer")
    def on_deploy_webhook(self, request):
        return {
            "model_id": request.path_params["model_id"],
            "payload": request.json(),
            "dry": request.query_params.get("dry"),
            "key": request.headers["X-Key"],
            "size": len(request.body),
        }

    @trigger(source="file", path="/data/uploads/", pattern="*.csv", event_type="created")
    def on_file_upload(self, file_event):
        return {"file_path": file_event.path, "size": file_event.size, "type": file_event.event_type}

    @trigger(source="cron", schedule="0 */6 * * *")
    def on_schedule(self, tick):
        return {"triggered_at": tick.timestamp, "due": tick.scheduled_for, "same": tick["scheduled_for"]}

    @trigger(source="memory", idempotency_key=lambda e: e.message_id)
    def on_order(self, event):
        return event

    @action("done")
    async def done(self, ctx): ...


REQUEST = WebhookRequest({"id": 1}, {"model_id": "m"}, {"dry": "1"}, {"X-Key": "k"})
GIVEN = [
    ("on_deploy_webhook", REQUEST, {"model_id": "m", "payload": {"id": 1}, "dry": "1", "key": "k", "size": 8}),
    ("on_file_upload", FileEvent(Path("/a.csv"), 5), {"file_path": "/a.csv", "size": 5, "type": "created"}),
    ("on_schedule", Tick(NOON), {"triggered_at": NOON, "due": NOON, "same": NOON}),
    ("on_order", {"order_id": 1}, {"order_id": 1}),
]


@pytest.mark.parametrize(("method", "given", "context"), GIVEN, ids=[method for method, *_ in GIVEN])
async def test_the_seed_s_triggers_take_them(each_lab: Lab, method: str, given: Any, context: Any) -> None:
    class S(Seed): ...

    assert await TriggerTestHarness(S).trigger(method, given) == context
    (outcome,) = await each_lab.fire(f"S.{method}", given)
    assert outcome.kind == "started"
    assert dict(each_lab.context(outcome.run_id)) == context


async def test_they_may_be_what_a_method_asks_for(lab: Lab) -> None:
    class S(Saga):
        @trigger(source="cron", schedule="@daily")
        def on_tick(self, tick: Tick):
            return {"at": tick.timestamp, "due": tick.scheduled_for}

        @trigger(source="webhook", path="/")
        def on_call(self, request: WebhookRequest):
            return {"got": request.json()}

        @trigger(source="file", path="/")
        def on_file(self, file: FileEvent):
            return {"path": file.path}

    harness = TriggerTestHarness(S)
    assert await harness.trigger("on_tick", {"scheduled_for": NOON}) == {"at": NOON, "due": NOON}
    assert await harness.trigger("on_tick", Tick(NOON)) == {"at": NOON, "due": NOON}
    assert await harness.trigger("on_call", {"body": '{"a": 1}'}) == {"got": {"a": 1}}
    assert await harness.trigger("on_file", FileEvent("/a")) == {"path": "/a"}


async def test_a_request_s_headers_are_found_in_any_case_also_after_a_redrive(each_lab: Lab) -> None:
    class S(Saga):
        @trigger(source="webhook", path="/")
        def on_call(self, event):
            return 1 / 0 if broken else {"key": event.headers["x-kEY"], "same": event.payload.headers.get("X-KEY")}

        @action("read")
        async def read(self, ctx):
            return {"event": ctx.event.headers["X-KEY"], "payload": "x-KEY" in ctx.event.payload.headers}

    broken = True
    await each_lab.fire("S.on_call", REQUEST)
    broken = False
    (outcome,) = await each_lab.redrive(list(each_lab.dead_letters().id))
    await each_lab.drain()
    expected = {"key": "k", "same": "k", "event": "k", "payload": True}
    assert dict(each_lab.context(outcome.run_id)) == expected
    assert list(REQUEST.headers) == ["x-key"]


def test_a_body_that_is_no_json_says_how_it_starts() -> None:
    with pytest.raises(DecodeError, match="starts with b'<html>'"):
        WebhookRequest("<html>").json()


async def test_returning_an_event_without_a_mapping_is_a_dead_letter_that_says_so(lab: Lab) -> None:
    type("S", (Saga,), {"on": trigger(source="memory")(lambda self, event: event)})
    (outcome,) = await lab.fire("S.on", [1])
    assert outcome.kind == "dead"
    assert "returned the event, whose payload is a list" in outcome.reason
