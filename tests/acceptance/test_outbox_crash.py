"""A process that publishes is killed at every boundary; the next one publishes what is left, with the same ids."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab.stores import open_store

CHILD = Path(__file__).with_name("outbox_child.py")


def child(folder: Path, kill_at: int, mode: str) -> subprocess.CompletedProcess[str]:
    store, ledger = f"sqlite:///{folder / 'lab.db'}", folder / "ledger"
    command = [sys.executable, str(CHILD), store, str(ledger), str(kill_at), mode]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=folder, check=False)


def published(folder: Path) -> list[dict[str, Any]]:
    """What the broker has, each id once. What comes again is the same."""
    ledger = folder / "ledger"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        assert first.setdefault(line["id"], line) == line
    return list(first.values())


def told(folder: Path) -> list[tuple[str, Any]]:
    """What a reader of the topics learns, in its order, apart from ids and times."""
    return [
        (line["topic"], line["payload"].get("step") or (line["payload"].get("type"), line["payload"].get("action")))
        for line in published(folder)
    ]


@pytest.mark.parametrize("mode", ["ok", "fails"])
def test_killed_at_every_boundary_everything_is_published_with_the_same_ids(tmp_path: Path, mode: str) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    run = child(whole, 0, mode)
    assert run.returncode == 0, run.stderr
    uncrashed = told(whole)
    ended = ["run_completed"] if mode == "ok" else ["run_compensated", None]  # the last is the dead letter
    assert [kind for topic, (kind, _) in uncrashed[-len(ended) :]] == ended
    boundaries = int(run.stdout.split()[-1])
    assert boundaries >= 12
    again = 0
    for kill_at in range(1, boundaries + 1):
        folder = tmp_path / str(kill_at)
        folder.mkdir()
        killed = child(folder, kill_at, mode)
        if killed.returncode == 0:  # the relay took more at one time than in the first run, so it came to an end
            assert int(killed.stdout.split()[-1]) < kill_at
            continue
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        lines_before = (folder / "ledger").read_text().count("\n") if (folder / "ledger").exists() else 0
        resumed = child(folder, 0, "resume")
        assert resumed.returncode == 0, resumed.stderr
        assert told(folder) == uncrashed, (kill_at, resumed.stderr)
        assert open_store(f"sqlite:///{folder / 'lab.db'}").rows("publications", None)[1] == []
        lines = (folder / "ledger").read_text().count("\n")
        again += lines > len(published(folder))
        assert lines_before <= lines
    assert again, "no crash came between publishing and the note of it"
