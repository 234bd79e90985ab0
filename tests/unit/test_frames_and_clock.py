"""Frames with real dtypes, and the clock of tests."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from sagaz_lab.history.frames import read_table, to_frame
from sagaz_lab.testing.clock import VirtualClock

DTYPES = {"id": "text", "at": "time", "count": "int", "took_s": "float", "status": "category", "ok": "flag"}
NAMES = [*DTYPES, "payload"]
EXPECTED = ["string", "datetime64[us, UTC]", "Int64", "float64", "category", "boolean", "object"]


def test_a_frame_has_real_dtypes_also_when_it_is_empty_or_has_gaps() -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    rows = [("a", 1704110400.25, 1, 0.5, "ok", True, {"n": 1}), ("b", noon, 2, 1.5, "bad", False, [1, 2])]
    for given in (rows, [*rows, (None,) * 7], []):
        frame = to_frame(NAMES, given, DTYPES)
        assert [str(dtype) for dtype in frame.dtypes] == EXPECTED
        assert len(frame) == len(given)
    assert to_frame(NAMES, rows, DTYPES)["at"][0] == noon.replace(microsecond=250_000)


def test_a_file_gives_the_same_dtypes_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    frame = to_frame(NAMES[:-1], [("a", 1.5, 1, 0.5, "ok", True)], DTYPES)
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").equals(frame)


async def test_sleepers_wake_in_order_each_at_its_time() -> None:
    clock, woken = VirtualClock(100.0), []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic(), clock.now()))

    tasks = [asyncio.create_task(sleeper("a", 3, 3)), asyncio.create_task(sleeper("b", 2, 3))]
    await clock.advance(5)
    assert woken == [("b", 2, 102), ("a", 3, 103), ("b", 5, 105)]
    await clock.advance(1)
    assert woken[-1] == ("a", 6, 106)
    await asyncio.gather(*tasks)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = VirtualClock()
    task = asyncio.create_task(clock.sleep(5))
    await clock.advance(0)
    assert clock.sleepers == 1
    task.cancel()
    await clock.advance(10)
    assert (clock.sleepers, clock.monotonic()) == (0, 10)
