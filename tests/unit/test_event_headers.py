"""The headers of an event are shared by its readers, so nobody can change them; they keep how they are looked up."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from sagaz_lab import Event, Lab, Permanent, Saga, WebhookRequest, action, trigger

COPIES = [copy.copy, copy.deepcopy, lambda event: pickle.loads(pickle.dumps(event))]


@pytest.mark.parametrize("change", [
    lambda headers: headers.update(x="1"),
    lambda headers: headers.pop("sig"),
    lambda headers: headers.__setitem__("x", "1"),
    lambda headers: headers.__delitem__("sig"),
])  # fmt: skip
@pytest.mark.parametrize("given", [{"sig": "s"}, WebhookRequest(headers={"sig": "s"}).headers, {}], ids=repr)
def test_headers_cannot_be_changed(change: Callable[[Any], Any], given: Any) -> None:
    event = Event({"a": 1}, "e1", headers=given)
    with pytest.raises((TypeError, AttributeError)):
        change(event.headers)
    assert event.headers == given


def test_who_made_the_event_cannot_change_them_afterwards() -> None:
    given = {"sig": "s"}
    event = Event({"a": 1}, "e1", headers=given)
    given["sig"] = "another"
    assert event.headers["sig"] == "s"


@pytest.mark.parametrize("copied", COPIES)
def test_copies_of_a_request_find_headers_in_any_case(copied: Callable[[Event], Event]) -> None:
    request = WebhookRequest({"n": 1}, headers={"X-Key": "k"})
    event = copied(Event(request, "e1", headers=request.headers))
    assert event.headers["X-KEY"] == event.headers.get("x-Key") == event.payload.headers["X-key"] == "k"


async def test_a_trigger_that_changes_headers_is_dead_and_the_other_reads_what_was_sent() -> None:
    seen = []
    async with Lab("memory") as lab:

        class Changes(Saga):
            @trigger(source="memory", topic="t")
            def on_event(self, event):
                event.headers["sig"] = "another"

            @action()
            def work(self, ctx): ...

        class Reads(Saga):
            @trigger(source="memory", topic="t")
            def on_event(self, event):
                seen.append(dict(event.headers))

            @action()
            def work(self, ctx): ...

        dead, _ = await lab.fire("memory", Event({"a": 1}, "e1", headers={"sig": "s"}), topic="t")

    assert dead.kind == "dead"
    assert seen == [{"sig": "s"}]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_redriven_request_finds_headers_in_any_case(store: str, tmp_path: Any) -> None:
    seen = []
    async with Lab("memory" if store == "memory" else f"sqlite:///{tmp_path}/lab.db") as lab:

        class Watched(Saga):
            @trigger(source="webhook", path="/x")
            def on_event(self, event):
                return {}

            @action()
            async def work(self, ctx):
                seen.append(ctx.event.headers.get("X-KEY"))
                raise Permanent("no")

        await lab.fire("Watched.on_event", WebhookRequest({"id": 1}, headers={"X-Key": "k"}))
        await asyncio.wait_for(lab.drain(), 10)
        await lab.redrive(list(lab.dead_letters()["id"]))
        await asyncio.wait_for(lab.drain(), 10)

    assert seen == ["k", "k"]
