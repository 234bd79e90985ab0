"""Recordings as sources."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sagaz_lab.abc import Event, Surroundings
from sagaz_lab.errors import EndOfSource, SourceNotReady
from sagaz_lab.history.recording import RecordingSource
from sagaz_lab.testing.clock import VirtualClock
from sagaz_lab.testing.sources import MemoryPositions, nothing_comes

NOW = datetime(2024, 6, 1, tzinfo=UTC)


def recording(**options: Any) -> RecordingSource:
    here = Surroundings(clock=VirtualClock(NOW), positions=MemoryPositions(), group="lab-1")
    return RecordingSource(surroundings=here, **options)


async def events(source: RecordingSource) -> list[Event]:
    return [event async for event in _events(source)]


async def _events(source: RecordingSource) -> AsyncIterator[Event]:
    async with source:
        while True:
            try:
                deliveries = await source.receive(7)
            except EndOfSource:
                return
            for delivery in deliveries:
                yield delivery.event


def lines(path: Path, rows: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TABLE = pd.DataFrame(
    {
        "drift_id": ["a", "b", None],
        "score": [0.5, np.nan, 0.7],
        "count": pd.array([1, None, 3], dtype="Int64"),
        "at": pd.to_datetime(["2024-01-01 10:00", "2024-01-01 10:01", None]),
        "model": pd.Categorical(["m1", None, "m2"]),
        "ok": [True, False, True],
    }
)
ROWS = [
    {"drift_id": "a", "score": 0.5, "count": 1, "at": datetime(2024, 1, 1, 10), "model": "m1", "ok": True},  # noqa: DTZ001
    {"drift_id": "b", "score": None, "count": None, "at": datetime(2024, 1, 1, 10, 1), "model": None, "ok": False},  # noqa: DTZ001
    {"drift_id": None, "score": 0.7, "count": 3, "at": None, "model": "m2", "ok": True},
]


@pytest.mark.parametrize("kind", ["frame", "parquet", "records", "arrow"])
async def test_rows_are_plain_python(kind: str, tmp_path: Path) -> None:
    import pyarrow as pa

    TABLE.to_parquet(tmp_path / "t.parquet")
    source = {
        "frame": recording(data=TABLE),
        "parquet": recording(path=tmp_path / "t.parquet"),
        "records": recording(data=TABLE.to_dict("records")),
        "arrow": recording(data=pa.Table.from_pandas(TABLE)),
    }[kind]
    payloads = [event.payload for event in await events(source)]
    assert payloads == ROWS
    assert {type(value) for row in payloads for value in row.values()} <= {str, float, int, bool, datetime, type(None)}


async def test_a_long_table_comes_whole_and_in_order() -> None:
    table = pd.DataFrame({"n": range(10_001)})
    assert [event["n"] for event in await events(recording(data=table))] == list(range(10_001))


async def test_ids_are_those_of_one_opening() -> None:
    first, second = [await events(recording(data=[{"n": 1}, {"n": 2}])) for _ in range(2)]
    assert len({event.id for event in first + second}) == 4


async def test_an_id_field_without_keep_ids_still_tells_rows_of_one_id() -> None:
    first, second = [await events(recording(data=[{"d": "x"}, {"d": "x"}], id="d")) for _ in range(2)]
    assert first[0].id == first[1].id
    assert first[0].id != second[0].id


async def test_kept_ids_are_the_same_in_each_opening(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", [{"d": "x"}, {"d": None}])
    first, second = [await events(recording(path=path, id="d", keep_ids=True)) for _ in range(2)]
    assert [event.id for event in first] == [event.id for event in second] == ["x", f"{path}#2"]


async def test_row_numbers_do_not_depend_on_the_batches(tmp_path: Path) -> None:
    path = lines(tmp_path / "r.jsonl", ({"n": n} for n in range(20)))
    ids = [event.id for event in await events(recording(path=path, keep_ids=True))]
    assert ids == [f"{path}#{number}" for number in range(1, 21)]


async def test_times_and_keys_come_from_their_fields(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"at": "2024-01-01T12:00:00+02:00", "k": 5},
        {"at": "2024-01-01T12:00:00", "k": None},
        {"at": 1704110400.5, "k": "x"},
        {"at": "no time", "k": ""},
        {"at": "2024-01-01T12:00:00", "k": "x"},
    ]
    with caplog.at_level(logging.WARNING):
        found = await events(recording(data=rows, timestamp="at", key="k"))
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    assert [event.timestamp for event in found] == [
        noon - timedelta(hours=2), noon, noon + timedelta(seconds=0.5), NOW, noon,
    ]  # fmt: skip
    assert [event.key for event in found] == ["5", None, "x", None, "x"]
    assert caplog.text.count("read as UTC") == 1
    assert caplog.text.count("'at' of row 4 is 'no time', not a readable time") == 1


async def test_a_broken_line_is_delivered_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n{"n": \n\n\xff\xfe\n' + deep + b'\n{"n": NaN}\n[1]\nnull')
    payloads = [event.payload for event in await events(recording(path=path))]
    assert payloads == [{"n": 1}, b'{"n": ', b"\xff\xfe", deep, {"n": None}, [1], None]


async def test_recorded_events_come_as_they_were() -> None:
    was = Event({"n": 1}, "e-1", "redis orders", "k", {"h": "v"}, NOW)
    (again,) = await events(recording(data=[was], keep_ids=True))
    assert (again, again.key, again.headers, again.timestamp) == (was, "k", {"h": "v"}, NOW)
    (fresh,) = await events(recording(data=[was]))
    assert fresh.id.startswith("e-1~")


async def test_the_frame_of_events_is_a_recording() -> None:
    frame = pd.DataFrame(
        {"event_id": ["e-1"], "source": ["redis orders"], "key": [None], "timestamp": [NOW], "payload": [{"n": 1}]}
    )
    (event,) = await events(recording(data=frame, keep_ids=True))
    assert (event.id, event.source, event.key, event.timestamp, event.payload) == (
        "e-1", "redis orders", None, NOW, {"n": 1},
    )  # fmt: skip


async def test_speed_paces_the_recording() -> None:
    clock = VirtualClock(NOW)
    here = Surroundings(clock=clock, positions=MemoryPositions(), group="lab-1")
    rows = [{"at": NOW + timedelta(minutes=minute)} for minute in (0, 1, 1, 10)]
    async with RecordingSource(surroundings=here, data=rows, timestamp="at", speed=60) as source:
        (first,) = await source.receive(10)
        assert await nothing_comes(source)
        await clock.advance(1)
        assert len(await source.receive(10)) == 2
        await source.nack([first])
        assert (await source.receive(10))[0].event.attempt == 2
        await clock.advance(8.9)
        assert await nothing_comes(source)
        await clock.advance(0.1)
        assert len(await source.receive(10)) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"path": "missing.parquet"}, "no file"),
        ({"path": "broken.parquet"}, "cannot be read"),
        ({"data": 5}, "expected a DataFrame or an Arrow table, not int"),
        ({"data": [{"n": 1}, 2]}, "item 1 is a int"),
        ({"data": [{"n": 1}], "speed": 2.0}, "needs timestamp="),
        ({"data": [{"n": 1}], "keep_ids": True}, "needs id="),
        ({"data": pd.DataFrame([[1, 2]], columns=["a", "a"])}, "two columns have the name 'a'"),
    ],
)
async def test_what_cannot_be_read_says_why(
    options: Any, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceNotReady, match=why):
        await events(recording(**options))
