"""What a trigger method may annotate its payload with, and what it gets then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from threading import Lock
from typing import Annotated, Any, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.errors import DefinitionError, PayloadMismatch
from sagaz_lab.testing import TriggerTestHarness


class Colour(Enum):
    RED = "red"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    at: datetime
    day: date | None = None
    id: UUID | None = None
    amount: Decimal | None = None
    colour: Colour | None = None
    tags: set[str] = set()
    raw: bytes = b""


class Model(BaseModel):
    x: int


class Other(BaseModel):
    y: int


@dataclass
class Data:
    model: Model
    models: list[Model | None] = field(default_factory=list)


class Dict(TypedDict):
    model: Model


class Tuple(NamedTuple):
    model: Model


class Packed(msgspec.Struct):
    model: Model
    more: Model | None = None


@dataclass
class One:
    x: int


@dataclass
class Two:
    y: int


class Plain:
    pass


def define(wanted: Any, **options: Any) -> Any:
    def on(self: Any, event: Any) -> Any:
        return {"got": event}

    on.__annotations__["event"] = wanted
    return type("S", (Saga,), {"on": trigger(**{"source": "memory", **options})(on)})


async def made(wanted: Any, payload: Any, **options: Any) -> Any:
    """What the method gets for the payload as JSON."""
    harness = TriggerTestHarness(define(wanted, **options))
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return (await harness.trigger("on", raw) or {})["got"]


async def test_a_strict_model_takes_json_as_pydantic_does(lab: Lab) -> None:
    raw = (
        b'{"at": "2024-01-01T00:00:00Z", "day": "2024-01-02", "id": "12345678-1234-5678-1234-567812345678", '
        b'"amount": "1.5", "colour": "red", "tags": ["a"], "raw": "x"}'
    )
    assert await made(Strict, raw) == Strict.model_validate_json(raw)


async def test_a_strict_model_takes_what_waited_in_the_store(each_lab: Lab) -> None:
    define(Strict)
    await each_lab.fire("S.on", b'{"at": 1.5}')
    assert each_lab.counters()["S.on"]["dead"] == 1
    (outcome,) = await each_lab.redrive(
        list(each_lab.dead_letters()["id"]), fix=lambda _: {"at": "2024-01-01T00:00:00Z"}
    )
    assert outcome.kind == "started"


async def test_values_in_memory_keep_the_rules_for_python(lab: Lab) -> None:
    harness = TriggerTestHarness(define(Strict))
    at = datetime(2024, 1, 1, tzinfo=UTC)
    assert (await harness.trigger("on", {"at": at}) or {})["got"] == Strict(at=at)
    with pytest.raises(PayloadMismatch, match="day"):
        await harness.trigger("on", {"at": at, "day": "2024-01-02"})
    model = Strict(at=at)
    assert (await harness.trigger("on", model) or {})["got"] is model


X = {"x": 1}
INSIDE: list[tuple[Any, Any, Any]] = [
    (Model | None, None, None),
    (Model | None, X, Model(x=1)),
    (Annotated[Model, "anything"], X, Model(x=1)),
    (list[Model | None], [X, None], [Model(x=1), None]),
    (dict[str, Model], {"a": X}, {"a": Model(x=1)}),
    (tuple[Model, int], [X, 2], (Model(x=1), 2)),
    (Model | Other, {"y": 2}, Other(y=2)),
    (Model | int, 3, 3),
    (Model | One, X, Model(x=1)),
    (One | Two, {"y": 2}, Two(2)),
    (Data, {"model": X, "models": [X, None]}, Data(Model(x=1), [Model(x=1), None])),
    (Dict, {"model": X}, {"model": Model(x=1)}),
    (Tuple, [X], Tuple(Model(x=1))),
    (Packed, {"model": X}, Packed(Model(x=1))),
    (Packed | None, {"model": X, "more": X}, Packed(Model(x=1), Model(x=1))),
    (list[Packed], [{"model": X}], [Packed(Model(x=1))]),
    (Annotated[int, Field(gt=0)], 1, 1),
    (PositiveInt, 1, 1),
    (AwareDatetime, "2024-01-01T00:00:00Z", datetime(2024, 1, 1, tzinfo=UTC)),
    (One | None, X, One(1)),
]


@pytest.mark.parametrize(("wanted", "payload", "expected"), INSIDE, ids=[str(wanted) for wanted, *_ in INSIDE])
async def test_pydantic_may_be_anywhere_inside(lab: Lab, wanted: Any, payload: Any, expected: Any) -> None:
    assert await made(wanted, payload) == expected


@pytest.mark.parametrize(
    ("wanted", "payload", "named"),
    [
        (Model | None, {"x": "a"}, "x"),
        (list[Model | None], [X, {"x": "a"}], "1"),
        (Packed, {"model": {"x": "a"}}, "x"),
        (Data, {"model": {}}, "model.x"),
        (PositiveInt, -1, "payload"),
    ],
)
async def test_what_does_not_fit_is_named(lab: Lab, wanted: Any, payload: Any, named: str) -> None:
    with pytest.raises(PayloadMismatch, match=named):
        await made(wanted, payload)


@pytest.mark.parametrize(
    "wanted",
    [
        Plain,
        Plain | None,
        list[Plain],
        dict[str, Plain],
        Plain | int,
        Callable,
        complex,
        "list['Nowhere']",
        Model | Plain,
    ],
    ids=str,
)
async def test_a_type_of_which_nothing_can_be_made_is_refused_where_it_is_written(lab: Lab, wanted: Any) -> None:
    with pytest.raises(DefinitionError, match=r"^S\.on: ") as raised:
        define(wanted)
    assert "\n" not in str(raised.value)
    assert lab.sagas == {}


async def test_a_class_with_a_field_of_such_a_type_is_refused_unless_the_field_may_be_left_out(lab: Lab) -> None:
    @dataclass
    class Needs:
        plain: Plain

    @dataclass
    class Has:
        n: int
        lock: Any = field(default_factory=Lock)
        plain: Plain | None = None

    with pytest.raises(DefinitionError, match="Plain has no schema"):
        define(Needs)
    assert define(Has)


async def test_what_decode_makes_may_be_of_any_class(lab: Lab) -> None:
    made_of: list[bytes] = []

    def parse(raw: bytes) -> Plain:
        made_of.append(raw)
        return Plain()

    assert isinstance(await made(Plain, b"x", decode=parse), Plain)
    with pytest.raises(PayloadMismatch, match="it is a int"):
        await made(Plain, b"1", decode=json.loads)
    assert made_of == [b"x"]


@pytest.mark.parametrize("value", [pd.DataFrame({"a": [1]}), np.zeros(2)])
async def test_tables_and_arrays_in_memory_are_taken_as_they_are(lab: Lab, value: Any) -> None:
    harness = TriggerTestHarness(define(type(value)))
    assert (await harness.trigger("on", value) or {})["got"] is value


class Lenient(BaseModel):
    at: datetime | int | None = None
    n: int | float | str | None = None
    items: list[Any] | dict[str, Any] | None = None


PLAIN = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.sampled_from(["at", "n", "items", "x"])
JSONS = st.recursive(
    PLAIN | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None)
@given(JSONS, st.sampled_from([Lenient, Strict, Model | None, list[Model | None], Model | Other]))
def test_json_is_taken_or_refused_just_as_pydantic_does(payload: Any, wanted: Any) -> None:
    from sagaz_lab.runtime.registry.pydantic_payloads import validator

    try:
        raw = json.dumps(payload).encode()
        expected = TypeAdapter(wanted).validate_json(raw)
    except ValidationError:
        with pytest.raises(PayloadMismatch):
            validator(wanted, "it")(payload)
    else:
        assert validator(wanted, "it")(payload) == expected
