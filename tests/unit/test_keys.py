"""Keys as text: one for equal values in every process, and never one for two that differ."""

from __future__ import annotations

import enum
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Batch, Debounce, Event, Lab, Saga, Throttle, action, trigger
from sagaz_lab.errors import DefinitionError, MissingKey, UnfitKey
from sagaz_lab.model.keys import key_text
from sagaz_lab.model.spelled import possible_keys, spelled_key

NOON = datetime(2024, 1, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
NAIVE = datetime.fromisoformat("2024-01-01")


class Size(enum.Enum):
    SMALL = "s"


class Level(enum.IntEnum):
    LOW = 1


class Shade(enum.StrEnum):
    RED = "red"


class Plain:
    """An object without a `repr` of its own."""


class Rude(str):
    """A text that does not want to be read."""

    __slots__ = ()

    def __str__(self) -> str:
        raise SystemExit("no")

    __repr__ = __str__


SAME: dict[str, list[Any]] = {
    "seven": [7, 7.0, np.int64(7), np.uint8(7), np.float32(7), Decimal(7), Decimal("7.00"), Fraction(7)],
    "a half": [0.5, np.float16(0.5), Decimal("0.5"), Fraction(1, 2)],
    "a large number": [10**30, Decimal(10**30), int(1e30) - int(1e30) + 10**30],
    "zero": [0, 0.0, -0.0, Decimal("-0E+99999")],
    "true": [True, np.bool_(True)],
    "infinity": [float("inf"), Decimal("Infinity"), np.float64("inf")],
    "a text": ["a", np.str_("a"), Rude("a")],
    "bytes": [b"a", bytearray(b"a"), memoryview(b"a"), np.bytes_(b"a")],
    "a moment": [NOON, NOON.astimezone(UTC), NOON.astimezone(timezone(timedelta(hours=-9))), pd.Timestamp(NOON)],
    "a naive time": [
        NAIVE, pd.Timestamp("2024-01-01"), np.datetime64("2024"), np.datetime64("2024-01-01T00"),
        np.datetime64("2024-01-01T00:00:00.000000000"),
    ],
    "a finer time": [pd.Timestamp("2024-01-01T00:00:00.000000001"), np.datetime64("2024-01-01T00:00:00.000000001")],
    "a span": [timedelta(seconds=1), pd.Timedelta("1s"), np.timedelta64(1, "s"), np.timedelta64(10**9, "ns")],
    "a list": [[1, "a"], (1.0, "a"), [np.int8(1), np.str_("a")]],
    "a set": [{"a", "b", "c"}, frozenset(["c", "b", "a"]), dict.fromkeys("bca").keys()],
    "a mapping": [{"x": 1, "y": [2]}, {"y": (2,), "x": 1.0}, OrderedDict(y=[2], x=1),
                  MappingProxyType({"x": 1, "y": (2,)})],
    "nested": [{"x": [{"b", "a"}]}, {"x": ({"a", "b"},)}],
}  # fmt: skip

DIFFERENT: list[Any] = [
    *(values[0] for values in SAME.values()), "7", "7.0", 1, "True", "true", False, "⟦7⟧", "⟦true⟧", '⟦"a"⟧', '"a"',
    b"7", Decimal("0.1"), 0.1, 10**30 + 1, -7, float("-inf"), date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC),
    "2024-01-01", Size.SMALL, "s", Level.LOW,
    Shade.RED, "red", UUID(int=7), str(UUID(int=7)), [7], [[7]], ["7"], [], {}, set(),
    {7}, {7: 7}, {"7": 7}, ["a,b"], ["a", "b"], ['a"', "b"], [("a", "b")], {"x": 1}, {"x": "1"}, [True], [1],
    pd.Period("2024-01"), pd.Period("2024-01-01"), pd.Interval(0, 1), (0, 1), timedelta(seconds=2),
]  # fmt: skip

MISSING: list[Any] = [
    None, "", b"", bytearray(), np.str_(""), float("nan"), np.float32("nan"), Decimal("NaN"), Decimal("sNaN"), pd.NA,
    pd.NaT, np.datetime64("NaT"), np.timedelta64("NaT"), (1, None), [float("nan")], {"x": pd.NA},
]  # fmt: skip

UNFIT: list[tuple[Any, str]] = [
    (np.array([1, 2]), "numpy.ndarray"), (pd.Series([1]), "Series"), (pd.DataFrame({"a": [1]}), "DataFrame"),
    (Plain(), "Plain"), (object(), "object"), (1j, "complex"), ([Plain()], "contains a .*Plain"),
    (lambda: 1, "function"),
]  # fmt: skip

TOO_LONG: list[Any] = ["x" * 1025, 10**5000, Decimal("1E+999999999"), Decimal("1E-999999999"), list(range(1000))]


@pytest.mark.parametrize("values", SAME.values(), ids=SAME)
def test_equal_values_are_one_key(values: list[Any]) -> None:
    assert len({key_text(value) for value in values}) == 1


def test_no_two_values_that_differ_are_one_key() -> None:
    texts = [key_text(value) for value in DIFFERENT]
    assert len(set(texts)) == len(texts)


SPAN_UNITS = [
    ("W", 604800 * 10**18), ("D", 86400 * 10**18), ("h", 3600 * 10**18), ("m", 60 * 10**18), ("s", 10**18),
    ("ms", 10**15), ("us", 10**12), ("ns", 10**9), ("ps", 10**6), ("fs", 1000), ("as", 1),
]  # fmt: skip
COUNTS = st.integers(-3, 3) | st.sampled_from([1500, 10**6, 10**9, 10**18, 2**62]) | st.integers(1 - 2**63, 2**63 - 1)


@given(COUNTS, st.sampled_from(SPAN_UNITS), COUNTS, st.sampled_from(SPAN_UNITS))
def test_spans_of_numpy_are_one_key_if_they_last_equally_long(one: int, of: Any, other: int, of_other: Any) -> None:
    same = key_text(np.timedelta64(one, of[0])) == key_text(np.timedelta64(other, of_other[0]))
    assert same == (one * of[1] == other * of_other[1])


@pytest.mark.parametrize("unit", ["Y", "M", "generic"])
def test_a_span_of_no_fixed_length_is_no_key(unit: str) -> None:
    with pytest.raises(UnfitKey, match="use days"):
        key_text(np.timedelta64(5, unit))


@pytest.mark.parametrize("value", MISSING, ids=repr)
def test_a_missing_value_is_no_key(value: Any) -> None:
    with pytest.raises(MissingKey):
        key_text(value)


@pytest.mark.parametrize(("value", "said"), UNFIT, ids=[said for _, said in UNFIT])
def test_a_value_that_cannot_be_compared_as_text_is_named(value: Any, said: str) -> None:
    with pytest.raises(UnfitKey, match=said):
        key_text(value)


@pytest.mark.parametrize("value", TOO_LONG, ids=["text", "int", "large", "small", "list"])
def test_what_is_too_long_is_no_key(value: Any) -> None:
    with pytest.raises(MissingKey, match="1024"):
        key_text(value)


def test_what_is_nested_without_end_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(UnfitKey, match="nested too deeply"):
        key_text(ring)


VALUES = st.recursive(
    st.text() | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.binary(min_size=1) | st.uuids()
    | st.dates() | st.datetimes(timezones=st.none() | st.timezones()) | st.decimals(allow_nan=False, places=3),
    lambda parts: st.lists(parts, max_size=3) | st.lists(parts, max_size=3).map(tuple)
    | st.dictionaries(st.text() | st.integers(), parts, max_size=3),
    max_leaves=5,
)  # fmt: skip


def kinds(value: Any) -> Any:
    """The value with the type that counts beside each part of it."""
    if isinstance(value, list | tuple):
        return [kinds(part) for part in value]
    if isinstance(value, dict):
        return "map", sorted(([kinds(name), kinds(part)] for name, part in value.items()), key=repr)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        naive = isinstance(value, datetime) and value.tzinfo is None
        return "datetime" if naive else type(value).__name__, value
    return "number", value


@given(VALUES, VALUES)
def test_two_values_have_one_text_if_they_are_equal_and_only_then(one: Any, other: Any) -> None:
    try:
        same = key_text(one) == key_text(other)
    except (MissingKey, UnfitKey):  # an empty text, or longer than a key may be
        return
    assert same == (kinds(one) == kinds(other))


@given(st.text(min_size=1, max_size=1000).filter(lambda text: text[0] != "⟦"))
def test_a_text_is_its_own_key(text: str) -> None:
    assert key_text(text) == text


def test_every_process_spells_a_key_alike() -> None:
    code = ("from sagaz_lab.model.keys import key_text; from datetime import date\n"
            "print(ascii(key_text([frozenset('abcdef'), {'b': 1, 'a': 2.5}, date(2024, 1, 1)])))")  # fmt: skip
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True) for seed in "123"]
    assert len({run.stdout for run in runs}) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", 5), ("5.0", 5), ("-5", -5), ("True", True), ("(1, 'a')", (1, "a")), ("b'x'", b"x"), ("Decimal('7.5')", 7.5),
     ("datetime.datetime(2024, 1, 1, 0, 0)", NAIVE), ("np.int64(7)", 7), ("frozenset({1})", {1}),
     ("UUID('00000000-0000-0000-0000-000000000007')", UUID(int=7))],
)  # fmt: skip
def test_a_text_names_the_value_that_it_spells_as_well(text: str, value: Any) -> None:
    assert possible_keys(text) == [text, key_text(value)]


@pytest.mark.parametrize(
    "text", ["a.csv", "order-1", "'5'", "None", "2024-01-01", "print(1)", "", "(" * 900, "\x00", "nan"]
)
def test_another_text_names_itself_alone(text: str) -> None:
    assert spelled_key(text) is None
    assert possible_keys(text) == [text]


def test_a_text_like_a_canonical_one_names_that_key_and_itself() -> None:
    assert possible_keys("⟦5⟧") == [key_text(5), key_text("⟦5⟧")]
    assert possible_keys(too_long := "⟦" + "5" * 1100) == [too_long]


async def test_a_key_that_looks_canonical_can_be_forgotten(each_lab: Lab) -> None:
    class Keyed(Saga):
        @trigger(source="memory", idempotency_key="k", cooldown="1h", concurrency_key="k")
        def on_event(self, event):
            return {}

    for text in ("⟦5⟧", "⟦", '⟦"a"⟧'):
        assert str((await each_lab.fire("Keyed.on_event", {"k": text}))[0].kind) == "started"
        assert await each_lab.forget("Keyed.on_event", text) == 2
        assert str((await each_lab.fire("Keyed.on_event", {"k": text}))[0].kind) == "started"


# --- in a trigger ---

OPTIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "idempotency_key": lambda key: {"idempotency_key": key},
    "concurrency_key": lambda key: {"concurrency_key": key},
    "throttle": lambda key: {"throttle": Throttle(9, "1s", key=key)},
    "trailing": lambda key: {"debounce": Debounce("10ms", "1s", key=key)},
    "leading": lambda key: {"debounce": Debounce("10ms", "1s", key=key, mode="leading")},
    "batch": lambda key: {"batch": Batch(1, "1s", key=key)},
}


class Raises:
    """A field that raises what it was made with when it is looked at."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def read(event: Any) -> Any:
    value = [*ODD, "good"][event["n"]]
    if isinstance(value, Raises):
        raise value.error
    return value


ODD: list[Any] = [None, "", float("nan"), pd.NA, pd.NaT, np.array([1, 2]), pd.Series([1]), Plain(), 10**5000,
       [[[[]]] * 2] * 500, Raises(SystemExit(1)), Raises(RecursionError()), Raises(GeneratorExit()),
       Raises(ValueError()), Raises(StopIteration())]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
async def test_a_key_that_cannot_be_read_concerns_its_event_alone(lab: Lab, option: str) -> None:
    class Keyed(Saga):
        @trigger(source="recording", data=[{"n": n} for n in range(len(ODD) + 1)], **OPTIONS[option](read))
        def on_event(self, event):
            return {}

        @action("a")
        async def a(self, ctx): ...

    await lab.start()
    await lab.drain()
    counters = lab.counters()["Keyed.on_event"]
    assert (counters["dead"], counters["started"] + counters["waiting"]) == (len(ODD), 1)
    assert lab.status().sources[0].state == "ended"


async def test_keys_that_are_equal_are_one_and_others_are_not(each_lab: Lab) -> None:
    keys = [7, np.int64(7), 7.0, "7", NOON, NOON.astimezone(UTC), {"b", "a"}, {"a", "b"}, True, 1, Size.SMALL]

    class Keyed(Saga):
        @trigger(source="memory", idempotency_key=lambda event: keys[event["n"]])
        def on_event(self, event):
            return {}

    kinds = [str((await each_lab.fire("Keyed.on_event", {"n": n}))[0].kind) for n in range(len(keys))]
    assert kinds == ["started", *["duplicate"] * 2, "started", "started", "duplicate", "started", "duplicate",
                     *["started"] * 3]  # fmt: skip
    assert await each_lab.forget("Keyed.on_event", Size.SMALL) == 1


async def test_a_key_that_is_too_long_for_an_index_goes_by_its_hash(each_lab: Lab) -> None:
    begin = "\N{CJK UNIFIED IDEOGRAPH-9375}" * 1000
    keys = [begin + "a", begin + "b", begin + "a"]

    class Keyed(Saga):
        @trigger(source="memory", idempotency_key=lambda event: keys[event["n"]])
        def on_event(self, event):
            return {}

    outcomes = [(await each_lab.fire("Keyed.on_event", {"n": n}))[0] for n in range(len(keys))]
    assert [outcome.kind for outcome in outcomes] == ["started", "started", "duplicate"]
    assert len(outcomes[2].reason) < 500
    assert await each_lab.forget("Keyed.on_event", keys[0]) == 1
    assert (await each_lab.fire("Keyed.on_event", {"n": 2}))[0].kind == "started"


def test_a_string_that_looks_like_a_hashed_key_is_another_key() -> None:
    hashed = key_text("\N{CJK UNIFIED IDEOGRAPH-9375}" * 1000)
    assert hashed.startswith("⟦cut ")
    assert key_text(hashed) != hashed


async def test_a_name_that_is_too_long_for_an_index_is_refused(lab: Lab) -> None:
    long = "\N{CJK UNIFIED IDEOGRAPH-9375}" * 334
    with pytest.raises(DefinitionError, match="saga_name is 1002 bytes long; 1000 are allowed"):
        type("Long", (Saga,), {"saga_name": long})

    def on_event(self: Saga, event: Event) -> None: ...

    with pytest.raises(DefinitionError, match="the name of a trigger is 1007 bytes long; 1000 are allowed"):
        type("Long", (Saga,), {long: trigger(source="memory")(on_event)})

    class Plain(Saga):
        @action("a")
        async def a(self, ctx): ...

    with pytest.raises(DefinitionError, match="run_id is 1002 bytes long; 1000 are allowed"):
        await Plain().run({}, run_id=long)
