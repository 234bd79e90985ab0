"""Times are in one zone, and it is named: UTC in all that the kernel writes, the browser's in pictures."""

import asyncio
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, action, trigger
from sagaz_lab.cli import _log_to_stderr
from sagaz_lab.notebook.cards import status_card
from sagaz_lab.notebook.dashboard import dashboard_of
from sagaz_lab.notebook.feed import Feed
from sagaz_lab.notebook.inspectors import lab_card, run_card
from sagaz_lab.notebook.picture import picture
from sagaz_lab.testing.clock import VirtualClock

NOON = 1_767_268_800.0  # 2026-01-01 12:00 UTC
TIME = re.compile(r"\d\d:\d\d:\d\d(?:\.\d+)?(?: (\w+))?")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine is in India."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
async def lab() -> object:
    async with Lab("memory", clock=VirtualClock(NOON)) as opened:

        class Orders(Saga):
            @trigger(source="memory", topic="orders")
            def on_order(self, event):
                return {}

            @action("ship")
            async def ship(self, ctx): ...

        await opened.start()
        await opened.fire("Orders.on_order", {}, id="e")
        await opened.drain()
        yield opened


async def test_cards_are_in_utc_and_say_so(lab: Lab) -> None:
    run = lab.run(lab.runs()["run_id"][0])
    for card in (status_card(lab.status()), lab_card(lab), run_card(run)):
        assert "12:00:00 UTC" in card.text
        assert set(TIME.findall(card.text)) == {"UTC"}


async def test_frames_are_in_utc(lab: Lab) -> None:
    for frame, column in ((lab.runs(), "started_at"), (lab.steps(), "started_at"), (lab.outcomes(), "at")):
        assert str(frame[column][0]) == "2026-01-01 12:00:00+00:00"


async def test_the_picture_is_in_the_zone_of_the_page_that_shows_it(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    here = timezone(timedelta(hours=-5), "EST")
    assert "2026-01-01 07:00:00 EST" in picture(lab, Feed(lab), here).text
    assert set(TIME.findall(picture(lab, Feed(lab), here).text)) == {"EST"}
    shows: list[Any] = []
    monkeypatch.setattr("sagaz_lab.notebook.dashboard.display", lambda data, **_: shows.append(data["text/plain"]))
    dashboard = dashboard_of(lab)
    for zone, shown in (("America/New_York", "07:00:00 EST"), ("No/Where", "12:00:00 UTC"), ("../etc", "12:00:00 UTC")):
        content = {"view": "1", "cmd": "alive", "zone": zone}
        dashboard.comm.handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
        await asyncio.sleep(0)  # which the loop hears of
        dashboard._ipython_display_()
        assert shown in shows[-1]
    dashboard.close()


def test_the_log_of_the_command_line_is_in_utc() -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    root.handlers.clear()
    try:
        _log_to_stderr()
        record = logging.makeLogRecord({"created": NOON, "msecs": 0.0, "levelname": "INFO", "name": "n", "msg": "m"})
        assert root.handlers[0].format(record) == "2026-01-01 12:00:00,000Z INFO n: m"
    finally:
        root.handlers[:] = before


def test_make_lab_works_for_root_too() -> None:
    root = Path(__file__).parents[2]
    shown = subprocess.run(["make", "-n", "lab"], cwd=root, capture_output=True, text=True, check=True).stdout
    assert ("jupyterlab --allow-root" in shown) == (os.geteuid() == 0)
