"""What recordings give: their file wherever the process goes, their indexes, their times."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from sagaz_lab.abc import Event
from sagaz_lab.history.frames import parquet_rows, rows_of
from sagaz_lab.history.times import read_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.integers(13 * 10**13, 4 * 10**15).map(lambda micro: EPOCH + timedelta(microseconds=micro))  # 1974 to 2096


async def events_of(lab: Lab, **settings: Any) -> list[Event]:
    heard: list[Event] = []
    with lab.activate():

        class Hear(Saga):
            saga_name = f"hear-{len(lab.sagas)}"

            @trigger(source="recording", **settings)
            def on_event(self, event: Event) -> None:
                heard.append(event)

    lab.start()
    await lab.drain()
    return heard


# --- paths ---


@pytest.mark.parametrize("keep_ids", [False, True])
async def test_a_path_means_the_file_that_it_named_where_it_was_written(
    keep_ids: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, n in (("here", 1), ("there", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "rows.jsonl").write_text(f'{{"n": {n}}}\n')
    monkeypatch.chdir(tmp_path / "here")
    heard: list[Event] = []

    def define() -> Lab:
        lab = Lab("memory")
        with lab.activate():

            class Hear(Saga):
                @trigger(source="recording", path=Path("rows.jsonl"), keep_ids=keep_ids)
                def on_event(self, event: Event) -> None:
                    heard.append(event)

        return lab

    lab = define()
    os.chdir(tmp_path / "there")
    lab.start()
    await lab.drain()
    await lab.stop()
    assert [event["n"] for event in heard] == [1]
    assert not keep_ids or heard[0].id == f"{tmp_path / 'here' / 'rows.jsonl'}#1"
    heard.clear()
    assert define().sagas["Hear"].digest == lab.sagas["Hear"].digest


# --- indexes ---

INDEXES = {
    "unnamed": (pd.RangeIndex(3), {}),
    "labels": (pd.Index(["a", "b", "c"]), {}),
    "filtered": (pd.Index([0, 5, 7]), {}),
    "named": (pd.Index(["a", "b", "c"], name="who"), {"who": ["a", "b", "c"]}),
    "range": (pd.RangeIndex(10, 16, 2, name="no"), {"no": [10, 12, 14]}),
    "times": (
        pd.date_range("2024-01-01", periods=3, tz="UTC", name="at"),
        {"at": [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3)]},
    ),
    "levels": (
        pd.MultiIndex.from_tuples([("a", 1), ("b", 2), ("c", 3)], names=["who", None]),
        {"who": ["a", "b", "c"]},
    ),
}


@pytest.mark.parametrize("name", INDEXES)
@pytest.mark.parametrize("form", ["frame", "arrow", "parquet"])
def test_a_named_index_is_a_field_and_an_unnamed_one_is_none(name: str, form: str, tmp_path: Path) -> None:
    index, fields = INDEXES[name]
    table = pd.DataFrame({"n": [1, 2, 3]}, index=index)
    if form == "parquet":
        table.to_parquet(tmp_path / "rows.parquet")
        rows = list(parquet_rows(tmp_path / "rows.parquet"))
    else:
        rows = list(rows_of(table if form == "frame" else pa.Table.from_pandas(table)))
    expected = [{"n": n, **{field: values[n - 1] for field, values in fields.items()}} for n in (1, 2, 3)]
    assert rows == expected


def test_a_column_that_only_looks_like_an_index_stays() -> None:
    assert list(rows_of(pa.table({"__index_level_0__": [1]}))) == [{"__index_level_0__": 1}]


# --- times ---


@given(MOMENTS)
def test_a_time_is_read_in_every_form_that_people_keep(moment: datetime) -> None:
    whole = moment.replace(microsecond=0)
    seconds = int(whole.timestamp())
    for form in (
        seconds, float(seconds), str(seconds), f"{seconds}.0", seconds * 10**3, seconds * 10**6, seconds * 10**9,
        str(seconds * 10**3), str(seconds * 10**9), whole.isoformat(), whole.isoformat().replace("+00:00", "Z"),
        format_datetime(whole), format_datetime(whole.astimezone(timezone(timedelta(hours=-5)))),
        f"  {whole.isoformat()} ", pd.Timestamp(whole), whole,
    ):  # fmt: skip
        assert read_time(form) == whole, form
    assert read_time(whole.strftime("%Y%m%d%H%M%S")) == whole.replace(tzinfo=None)
    assert read_time(whole.strftime("%Y%m%d")) == whole.replace(tzinfo=None, hour=0, minute=0, second=0)


@given(MOMENTS)
def test_no_digit_of_a_fine_time_is_lost(moment: datetime) -> None:
    micro = (moment - EPOCH) // timedelta(microseconds=1)
    assert read_time(micro) == moment
    assert read_time(str(micro * 1000)) == moment


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.binary(), st.lists(st.integers())))
@example(float("inf"))
@example(float("-inf"))
@example(float("nan"))
def test_what_is_no_time_is_none_and_never_an_error(value: Any) -> None:
    assert read_time(value) is None or isinstance(read_time(value), datetime)


@pytest.mark.parametrize("bad", ["yesterday", "2024-13-01", {"y": 2024}, "12:30", 1e30, True, Decimal("NaN")])
async def test_a_time_that_cannot_be_read_is_reported_with_its_row(bad: Any) -> None:
    told: list[str] = []
    async with Lab("memory") as lab:
        lab.on_report(lambda _, text: told.append(text))
        rows = [{"ts": 1_700_000_000_000}, {"ts": bad}, {"ts": bad}]
        first, *_ = await events_of(lab, data=rows, timestamp="ts")
    assert first.timestamp == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert len(told) == 1
    assert f"'ts' of row 2 is {bad!r}, not a readable time" in told[0]


# --- series ---

NAMES = [
    None, "x", "", "named y", "unnamed", 0, 7, -1.5, float("inf"), True, (1, "a"), ("a", None), (), np.int64(3),
    pd.Timestamp("2024-01-01", tz="Europe/Berlin"), date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC),
    pd.Timedelta("1h"), np.datetime64("2024-01-01T00:00:00"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
async def test_a_series_comes_back_with_its_name(name: Any, tmp_path: Path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

        class Pick(Saga):
            @action()
            async def best(self, ctx: SagaContext) -> dict[str, Any]:
                return {"row": pd.Series([1.0, 2.0], index=["x", "y"], name=name)}

        await Pick().run({}, run_id="r1")
        found = lab.context("r1")["row"]
    expected = pd.Series([1.0, 2.0], index=["x", "y"], name=name)
    pd.testing.assert_series_equal(found, expected, check_names=False)
    assert found.name == expected.name
    assert type(found.name) is type(expected.name) or isinstance(name, np.generic)
