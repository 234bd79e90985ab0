"""Whatever arrives has one clear outcome and disturbs nothing else."""

import gzip
import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Event, Lab, OutcomeKind, Saga, TriggerConfig, action, trigger
from sagaz_lab.abc import Delivery
from sagaz_lab.model.event import NO_HEADERS
from tests.unit.tools import Tap, assert_adds_up, counted, statuses, until

NAIVE = datetime(2024, 1, 1)  # noqa: DTZ001

BAD_BYTES: dict[str, tuple[bytes, set[str]]] = {
    "empty": (b"", {"dead"}),
    "blank": (b"  \n", {"dead"}),
    "no JSON": (b"<xml/>", {"dead"}),
    "cut off": (b'{"a": [1, 2', {"dead"}),
    "trailing": (b'{"a": 1} {"a": 2}', {"dead"}),
    "invalid UTF-8": (b'{"a": "\xff\xfe"}', {"dead"}),
    "BOM": (b'\xef\xbb\xbf{"a": 1}', {"dead", "started"}),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), {"dead"}),
    "deep": (b"[" * 100_000 + b"]" * 100_000, {"dead"}),
    "deep object": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, {"dead"}),
    "NaN": (b'{"a": NaN}', {"dead"}),
    "infinity": (b'{"a": 1e999}', {"dead", "started"}),
    "gzip bomb": (gzip.compress(b"0" * 10_000_000), {"dead"}),
    "pickle": (pickle.dumps({"a": 1}), {"dead"}),
    "wrong Avro magic": (b"\x01\x00\x00\x00\x07rest", {"dead"}),
    "lone surrogate": (b'{"a": "\\ud800"}', {"dead", "started"}),
    "NUL": (b'{"a": "x\\u0000y", "\\u0000": 1}', {"started"}),
    "duplicate keys": (b'{"a": 1, "a": 2}', {"started"}),
    "null": (b"null", {"started"}),
    "a list": (b"[1, 2]", {"started"}),
    "a number": (b"5", {"started"}),
    "10 MB": (b'{"a": "' + b"x" * 10_000_000 + b'"}', {"started"}),
    "10,000 digits": (b'{"a": ' + b"9" * 10_000 + b"}", {"dead", "started"}),
    "SQL": (b'{"a": "\'; DROP TABLE runs; --", "\\"; DROP TABLE runs; --": 1}', {"started"}),
    "a path": (b'{"a": "../../../etc/passwd"}', {"started"}),
}


def define() -> None:
    class Taking(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {"got": event.payload, "headers": len(event.headers)}

        @action("keep")
        async def keep(self, ctx):
            return {"kept": ctx["got"]}


async def works(lab: Lab) -> None:
    """An ordinary event goes all the way."""
    (outcome,) = await lab.fire("Taking.on_event", {"fine": True})
    assert outcome.kind is OutcomeKind.STARTED
    await lab.drain()
    assert lab.runs()["status"][0] == "completed"
    assert_adds_up(lab)


@pytest.mark.parametrize("name", BAD_BYTES)
async def test_bytes_that_are_fired(each_lab: Lab, name: str) -> None:
    define()
    raw, allowed = BAD_BYTES[name]
    (outcome,) = await each_lab.fire("Taking.on_event", raw)
    assert outcome.kind in allowed
    if outcome.kind is OutcomeKind.DEAD:
        assert outcome.reason.startswith(("DecodeError: the payload is not JSON", "UnstorableValue", "PayloadMismatch"))
        assert len(outcome.reason) < 1000
        assert len(each_lab.dead_letters()) == 1
    else:
        await each_lab.drain()
        assert statuses(each_lab) == ["completed"]
    await works(each_lab)


class Raw(Tap):
    """Hands over events just as they are given."""

    def give(self, event: Event) -> None:
        self._number += 1
        self.buffered.append(Delivery(event, self._number))
        self.ledger.arrived.set()


@pytest.fixture(params=["memory", "sqlite"])
async def fed(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Lab, Raw]]:
    """A started Lab and its source."""
    sources: list[Raw] = []

    def make(settings: Any, surroundings: Any) -> Raw:
        sources.append(Raw(surroundings=surroundings, topic="t"))
        return sources[0]

    address = "memory" if request.param == "memory" else f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address, sources={"memory": make}) as lab:
        define()
        await lab.start()
        yield lab, sources[0]


async def taken(lab: Lab, count: int) -> dict[str, int]:
    await until(lambda: lab.counters()["Taking.on_event"]["received"] == count)
    await lab.drain()
    return counted(lab, "Taking.on_event")


async def test_bytes_that_a_source_brings_in_one_batch(fed: tuple[Lab, Raw]) -> None:
    lab, source = fed
    for n, (raw, _) in enumerate(BAD_BYTES.values()):
        source.give(Event(raw, f"bad-{n}"))
        source.give(Event(b'{"fine": true}', f"good-{n}"))
    counts = await taken(lab, 2 * len(BAD_BYTES))
    outcomes = lab.outcomes().set_index("event_id")["outcome"]
    for n, (_, allowed) in enumerate(BAD_BYTES.values()):
        assert outcomes[f"bad-{n}"] in allowed
        assert outcomes[f"good-{n}"] == "started"
    assert counts["started"] + counts["dead"] == counts["received"]
    assert set(statuses(lab)) == {"completed"}
    assert lab.status().sources[0].state == "connected"
    await until(lambda: source.unsettled == 0)


async def test_a_tombstone_is_an_event_like_any(fed: tuple[Lab, Raw]) -> None:
    lab, source = fed
    source.give(Event(None, "e1", key="k"))
    assert await taken(lab, 1) == {"received": 1, "started": 1}
    assert lab.events()["payload"][0] is None


async def test_a_thousand_headers(fed: tuple[Lab, Raw]) -> None:
    lab, source = fed
    source.give(Event({}, "e1", headers={f"h{n}": "x" * 100 for n in range(1000)}))
    assert await taken(lab, 1) == {"received": 1, "started": 1}
    assert statuses(lab) == ["completed"]


@pytest.mark.parametrize("id", ["", None])
async def test_an_event_without_an_id_is_dead_and_says_so(fed: tuple[Lab, Raw], id: Any) -> None:
    lab, source = fed
    for _ in range(2):
        source.give(Event({"n": 1}, id))
    source.give(Event({"n": 1}, "fine"))
    assert await taken(lab, 3) == {"received": 3, "started": 1, "dead": 2}
    assert "the source gave the event no id" in lab.dead_letters()["error"][0]


@pytest.mark.parametrize("id", [5, b"id", 2.5])
async def test_an_id_that_is_no_text_is_taken_as_one(fed: tuple[Lab, Raw], id: Any) -> None:
    lab, source = fed
    for _ in range(2):
        source.give(Event({"n": 1}, id))
    assert await taken(lab, 2) == {"received": 2, "started": 1, "duplicate": 1}
    assert list(lab.runs()["event_id"]) == [str(id)]


@pytest.mark.parametrize(
    "id",
    ["x" * 10_000, "with\0nul", "lone \ud800", "'; DROP TABLE runs; --", "../../x", "\n", " ", "é" * 2000],
    ids=["long", "nul", "surrogate", "SQL", "path", "newline", "blank", "accents"],
)
async def test_an_odd_id_is_still_the_events_own(fed: tuple[Lab, Raw], id: str) -> None:
    lab, source = fed
    source.give(Event({"n": 1}, id))
    source.give(Event({"n": "another body"}, id))
    source.give(Event({"n": 1}, id + "!"))
    assert await taken(lab, 3) == {"received": 3, "started": 2, "duplicate": 1}
    assert set(statuses(lab)) == {"completed"}
    assert sorted(o.kind for o in lab.why(id).outcomes) == ["duplicate", "started"]


@pytest.mark.parametrize(
    "timestamp",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
        datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-12))),
        NAIVE,
    ],
    ids=str,
)
async def test_an_odd_time(fed: tuple[Lab, Raw], timestamp: datetime) -> None:
    lab, source = fed
    source.give(Event({"n": 1}, "e1", timestamp=timestamp))
    source.give(Event({"n": 1}, "e2"))
    counts = await taken(lab, 2)
    assert counts["received"] == counts["started"] + counts.get("dead", 0)
    assert len(lab.events()) + len(lab.dead_letters()) == 2
    await works(lab)


@pytest.mark.parametrize(
    "value",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        NAIVE,
        float("nan"),
        float("inf"),
        10**5000,
        "\ud800",
        "\0",
        {1: 2},
        {(1, 2)},
    ],
    ids=["year 1", "year 9999", "naive", "nan", "inf", "5,000 digits", "lone surrogate", "nul", "odd key", "set"],
)
async def test_an_odd_value_that_goes_from_the_trigger_to_an_action(each_lab: Lab, value: Any) -> None:
    got = []

    class Passing(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return {"value": value}

        @action("first")
        async def first(self, ctx):
            got.append(ctx["value"])
            return {"again": ctx["value"]}

    (outcome,) = await each_lab.fire("Passing.on_event", {})
    await each_lab.drain()
    if outcome.kind is OutcomeKind.STARTED:
        assert got == [value] or (value != value and got[0] != got[0])
    else:
        assert "UnstorableValue" in outcome.reason
    define()
    await works(each_lab)


@dataclass
class Order:
    id: int
    items: list[str]


async def test_a_list_for_an_object_and_an_object_for_a_list(lab: Lab) -> None:
    class Orders(Saga):
        @trigger(source="memory")
        def on_order(self, event: Order):
            return {}

    for raw, field in [
        (b"[1]", "Order"),
        (b'{"id": 1, "items": {}}', "items"),
        (b'{"id": "1", "items": []}', "id"),
        (b'{"id": null, "items": []}', "id"),
        (b"null", "Order"),
        (b'{"id": 1, "items": [1]}', "items"),
    ]:
        (outcome,) = await lab.fire("Orders.on_order", raw)
        assert outcome.kind is OutcomeKind.DEAD
        assert outcome.reason.startswith("PayloadMismatch: the payload does not fit Order: ")
        assert field in outcome.reason
    (outcome,) = await lab.fire("Orders.on_order", b'{"id": 1, "items": ["a"], "more": true}')
    assert outcome.kind is OutcomeKind.STARTED


@pytest.mark.parametrize(
    ("decode", "raw", "kind", "seen"),
    [
        ("text", "grüße".encode(), "started", "grüße"),
        ("text", b"\xff", "dead", None),
        ("text", b"", "started", ""),
        ("bytes", b"\x00\xff", "started", b"\x00\xff"),
        (lambda raw: raw[::-1], b"abc", "started", b"cba"),
        (lambda raw: 1 / 0, b"abc", "dead", None),
    ],
)
async def test_other_decoders(each_lab: Lab, decode: Any, raw: bytes, kind: str, seen: Any) -> None:
    class Decoded(Saga):
        @trigger(source="memory", decode=decode)
        def on_event(self, event):
            return {"got": event.payload}

        @action("keep")
        async def keep(self, ctx):
            return {"kept": ctx["got"]}

    (outcome,) = await each_lab.fire("Decoded.on_event", raw, id="e1")
    assert outcome.kind == kind
    await each_lab.drain()
    if kind == "started":
        assert each_lab.events()["payload"][0] == seen
    else:
        assert outcome.reason.startswith("DecodeError: ")


@pytest.mark.parametrize("name", ["'; DROP TABLE runs; --", "class", "../up", "ünï", "a b\nc", "x" * 500, "\0"])
async def test_odd_names_of_sagas_and_actions(each_lab: Lab, name: str) -> None:
    def starts(self, event):
        return {}

    async def works(self, ctx): ...

    method = trigger(source="memory", topic="t")(starts)
    type("Odd", (Saga,), {"saga_name": name.replace(".", "_"), "on_event": method, "work": action(name)(works)})
    (outcome,) = await each_lab.fire("memory", {}, topic="t")
    assert outcome.kind is OutcomeKind.STARTED
    await each_lab.drain()
    assert statuses(each_lab) == ["completed"]
    assert list(each_lab.steps()["action"]) == [name]


async def test_a_flood_of_letters_keeps_its_order_and_its_causes(fed: tuple[Lab, Raw]) -> None:
    lab, source = fed
    for n in range(500):
        source.give(Event(b"broken" if n % 2 else b"", f"e{n}", headers=NO_HEADERS))
    assert await taken(lab, 500) == {"received": 500, "dead": 500}
    assert len(lab.dead_letters()) == 500
    assert list(lab.dead_letters()["event_id"][:3]) == ["e499", "e498", "e497"]
    assert lab.dead_letters("cause")["count"].sum() == 500
    await works(lab)
