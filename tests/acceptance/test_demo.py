"""The notebooks from first to last cell: that of `make demo` on the memory source and on a real Redis server."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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


LIVE = ROOT / "notebooks" / "03_live_lab.ipynb"
FLOW = ROOT / "notebooks" / "02_flow_control.ipynb"


def test_the_gates_do_in_a_notebook_what_its_text_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(FLOW, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources=where).execute()
    (summary,) = (
        cell.outputs[-1].data["text/plain"] for cell in notebook.cells if "summary" in cell.metadata.get("tags", ())
    )
    counts = {line.split()[0]: [int(n) for n in line.split()[1:]] for line in summary.splitlines()[1:]}
    # received, started, filtered, dead, waiting
    assert counts == {
        "Retrain.on_drift": [5, 2, 3, 0, 0],
        "Score.on_rows": [4, 4, 0, 0, 0],
        "Rebuild.on_edit": [3, 1, 2, 0, 0],
        "Route.on_order": [2, 2, 0, 0, 0],
        "Call.on_call": [6, 6, 0, 0, 0],
        "Charge.on_bill": [7, 4, 0, 3, 0],
    }


def test_what_runs_is_watched_changed_tried_and_mended_in_a_notebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(LIVE, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources=where).execute()
    (summary,) = (
        cell.outputs[-1].data["text/plain"] for cell in notebook.cells if "summary" in cell.metadata.get("tags", ())
    )
    assert ast.literal_eval(summary) == {
        "the shadow differs in": "no such customer",
        "put back as": ["no such customer"],
        "the night": "completed",
        "trained": 1,
        "revisions": [2, 1],
    }


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.id for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
