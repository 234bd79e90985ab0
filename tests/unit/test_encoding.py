"""Values come back from the journal as they went in, with their type."""

import dataclasses
import enum
import math
import sys
from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_lab.errors import ArtifactDamaged, DefinitionError, UnstorableValue
from sagaz_lab.model.event import Event
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.encoding import NeedsFiles, decode, decode_event, encode, encode_event, is_ref


class Level(enum.Enum):
    LOW = "low"


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: Any = None


class Pair(NamedTuple):
    left: int
    right: str


class Model(pydantic.BaseModel):
    name: str
    since: date


class Packet(msgspec.Struct):
    size: int


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts", tmp_path / "lab.db.key")


def stored(value: Any, artifacts: Artifacts, codec: Any = None) -> Any:
    """The value after a way through the journal."""
    found = decode(encode(value, "run r1", "result", artifacts, "r1", codec), artifacts)
    return found.load() if is_ref(found) else found


def same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, float) and math.isnan(left):
        return math.isnan(right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return all(same(*pair) for pair in zip(left.items(), right.items(), strict=True))
    return bool(left == right)


ANY_TEXT = st.text(st.characters())  # with NUL and lone surrogates
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), ANY_TEXT, st.binary(), st.dates(), st.times(), st.datetimes(),
    st.datetimes(timezones=st.timezones()), st.timedeltas(), st.uuids(), st.decimals(allow_nan=False),
)  # fmt: skip
KEYS = st.one_of(ANY_TEXT, st.just("$"), st.integers(), st.tuples(st.integers(), ANY_TEXT), st.dates())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(KEYS, inner)),
    max_leaves=20,
)


@settings(deadline=None)  # no timed test: machines are noisy
@given(VALUES)
def test_every_plain_value_comes_back_with_its_type(value):
    assert same(decode(encode(value, "run r1", "result"), None), value)


@settings(deadline=None)
@given(st.dictionaries(ANY_TEXT, VALUES), ANY_TEXT)
def test_every_event_comes_back(payload, id):
    event = Event(payload, id, "kafka", "key", {"trace": "1"}, datetime(2026, 1, 1, tzinfo=UTC), 3)
    back = decode_event(encode_event(event, "run r1"), None)
    assert (back.id, back.key, back.headers, back.timestamp, back.attempt) == (
        id,
        "key",
        {"trace": "1"},
        event.timestamp,
        3,
    )
    assert same(back.payload, payload)


@pytest.mark.parametrize(
    "value",
    [
        float("-inf"), -0.0, 1 + 2j, {1, 2}, frozenset("ab"), bytearray(b"x" * 5000), Path("a/\udcff"),
        PureWindowsPath("c:/x"), Decimal("1.10"), UUID(int=7), time(1, 2, tzinfo=UTC), timedelta(-1, 5, 3),
        datetime.max.replace(tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1), date.min,
        Level.LOW, Point(1.5, Point(2)), Pair(1, "b"), Model(name="m", since=date(2026, 1, 1)), Packet(3),
        np.float64(0.5), np.int8(3), np.datetime64("2026-01-01T00:00", "ns"), np.str_("ab"),
        pd.Timestamp("2026-01-01 01:02:03.123456789", tz="Europe/Berlin"), pd.Timedelta("1ns"), pd.NaT, pd.NA,
        [Level.LOW, {"deep": b"z" * 9999}], b"x" * 4097,
    ],
    ids=lambda value: f"{type(value).__name__}",
)  # fmt: skip
def test_typed_values_come_back(value, artifacts):
    back = stored(value, artifacts)
    assert (type(back), shown(back)) == (type(value), shown(value))


def shown(value):
    """Its text, in which NaN is like NaN and 1 is not like 1.0. A set has no order, so its members are sorted."""
    return sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)


@pytest.mark.parametrize("size", [3, 10_000])
def test_arrays_and_tables_come_back(size, artifacts):
    array = np.arange(size, dtype="<f4").reshape(-1, 1)
    table = pd.DataFrame({"n": range(size), "at": pd.Timestamp("2026-01-01", tz="UTC"), "who": "x"}).set_index("n")
    np.testing.assert_array_equal(stored(array, artifacts), array)
    pd.testing.assert_frame_equal(stored(table, artifacts), table)
    pd.testing.assert_series_equal(stored(table["who"], artifacts), table["who"])
    assert stored(pa.table({"n": [1, None]}), artifacts).equals(pa.table({"n": [1, None]}))


def test_an_int_of_ten_thousand_digits_comes_back(artifacts):
    assert stored({"n": 10**9999}, artifacts) == {"n": 10**9999}


def test_a_long_list_is_left_to_a_thread(artifacts):
    with pytest.raises(NeedsFiles):
        encode({"scores": [0.5] * 20_001}, "run r1", "result")
    assert stored({"scores": [0.5] * 20_001}, artifacts) == {"scores": [0.5] * 20_001}


def test_a_subclass_of_a_plain_container_comes_back_as_the_plain_one(artifacts):
    back = stored({"seen": defaultdict(list, a=[1])}, artifacts)
    assert (type(back["seen"]), back) == (dict, {"seen": {"a": [1]}})


def test_only_what_needs_a_file_waits_to_be_loaded(artifacts):
    values = {"score": 0.5, "day": date(2026, 1, 1), "table": pd.DataFrame({"n": [1]}), "level": Level.LOW}
    with pytest.raises(NeedsFiles):
        encode(values, "run r1", "context")
    back = decode(encode(values, "run r1", "context", artifacts, "r1"), artifacts)
    assert {name for name, value in back.items() if is_ref(value)} == {"table", "level"}
    assert back["level"].load() is Level.LOW
    assert back["table"].size > 0


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"?" + path.read_bytes()[1:])])
def test_a_damaged_artifact_is_told_and_never_read(harm, artifacts):
    ref = decode(encode({"raw": b"x" * 5000}, "run r1", "context", artifacts, "../r1"), artifacts)["raw"]
    (path,) = artifacts.folder("../r1").iterdir()
    assert path.parent.parent == artifacts.root
    harm(path)
    with pytest.raises(ArtifactDamaged, match="raw-"):
        ref.load()


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value", [object(), print, deep(100_000), ENDLESS, np.array([object()])], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_stored_is_refused_by_name(value, artifacts):
    with pytest.raises(UnstorableValue, match=r"run r1: the value of 'model' .*codec='joblib'"):
        encode({"model": value}, "run r1", "train", artifacts)


def test_an_object_whose_class_is_local_is_refused_with_the_reason(artifacts):
    @dataclasses.dataclass
    class Local:
        x: int

    with pytest.raises(UnstorableValue, match="Local is local to a function"):
        encode({"here": Local(1)}, "run r1", "train", artifacts)


def test_a_class_of_the_notebook_is_looked_up_when_the_value_is_asked_for(artifacts, monkeypatch):
    notebook_class = dataclasses.make_dataclass("Drift", ["score"])
    notebook_class.__module__ = "__main__"
    monkeypatch.setattr(sys.modules["__main__"], "Drift", notebook_class, raising=False)
    ref = decode(encode(notebook_class(0.5), "run r1", "drift"), artifacts)
    assert ref.load() == notebook_class(0.5)
    monkeypatch.delattr(sys.modules["__main__"], "Drift")
    with pytest.raises(DefinitionError, match="Drift of __main__, which is missing; run the cell"):
        ref.load()


def test_joblib_stores_what_nothing_else_can(artifacts):
    ref = decode(encode({"model": {1: complex}, "f": math.sqrt}, "run r1", "a", artifacts, "r1", "joblib"), artifacts)
    assert ref["f"].load() is math.sqrt
    assert ref["model"].load() == {1: complex}


class Reversed:
    """A codec of the user's."""

    suffix = ".txt"

    def dump(self, value, path):
        path.write_text(value.word[::-1])

    def load(self, path):
        return Word(path.read_text()[::-1])


class Word:
    def __init__(self, word):
        self.word = word


def test_a_codec_of_the_users_stores_what_it_can(artifacts):
    assert stored(Word("drift"), artifacts, Reversed()).word == "drift"
    (path,) = artifacts.folder("r1").iterdir()
    assert (path.suffix, path.read_text(), path.stat().st_mode & 0o777) == (".txt", "tfird", 0o600)
