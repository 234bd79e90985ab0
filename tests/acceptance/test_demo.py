"""`make demo`: the notebook from first to last cell, on the memory source and on a real Redis server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.redis import running_redis

ROOT = Path(__file__).resolve().parents[2]


def run_demo(folder: Path, **environment: str) -> str:
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1].replace(",", ""))


def check(folder: Path, told: str) -> None:
    events = number(r"drift events +([\d,]+)", told)
    filtered = sum(int(n) for n in re.findall(r"(\d+) filtered", told))
    promoted, put_back = number(r"promoted +(\d+)", told), number(r"put back +(\d+)", told)
    assert number(r"departures +([\d,]+)", told) == 336_776
    assert events == filtered + promoted + put_back
    assert min(filtered, promoted, put_back) > 0
    assert all(number(rf"revision {n} +(\d+) decisions", told) > 0 for n in (1, 2))
    assert (folder / "drift.png").stat().st_size > 10_000
    page = (folder / "01_drift_retraining.html").read_text()
    assert "<svg" in page
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']?https?:", page)


@pytest.mark.timeout(400)
def test_the_demo_retrains_and_puts_back_on_the_embedded_default(tmp_path: Path) -> None:
    check(tmp_path / "demo", run_demo(tmp_path / "demo", REDIS_URL=""))


@pytest.mark.timeout(400)
def test_the_same_notebook_takes_its_events_from_a_redis_stream(tmp_path: Path) -> None:
    with running_redis(tmp_path) as server:
        check(tmp_path / "demo", run_demo(tmp_path / "demo", REDIS_URL=server.url))
