"""What kills its process each time it is resumed comes to an end all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab.stores import open_store

CHILD = Path(__file__).with_name("killer_child.py")


def child(folder: Path, mode: str, verb: str) -> int:
    command = [sys.executable, str(CHILD), f"sqlite:///{folder}/lab.db", str(folder / "ledger"), mode, verb]
    return subprocess.run(command, capture_output=True, timeout=60, cwd=folder, check=False).returncode


def facts(folder: Path, frame: str) -> list[Mapping[str, Any]]:
    columns, rows = open_store(f"sqlite:///{folder}/lab.db").rows(frame, None)
    return [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.mark.parametrize("mode", ["action", "compensation"])
def test_a_run_is_resumed_as_often_as_it_may_be_retried_and_no_more(tmp_path: Path, mode: str) -> None:
    verbs = ["fire", "resume", "resume"]
    assert [child(tmp_path, mode, verb) for verb in verbs] == [-signal.SIGKILL] * 3
    assert child(tmp_path, mode, "resume") == 0
    assert child(tmp_path, mode, "resume") == 0
    ledger = (tmp_path / "ledger").read_text().split()
    (run,) = facts(tmp_path, "runs")
    letters = facts(tmp_path, "dead_letters")
    if mode == "action":
        assert ledger == ["prepare", "train", "train", "train", "undo"]
        assert run["status"] == "compensated"
        (letter,) = letters
        assert letter["error"] == ("Permanent: action 'train' was under way each of the 3 times that its process died")
        trials = [(step["trial"], step["status"]) for step in facts(tmp_path, "steps") if step["action"] == "train"]
        assert trials == [(3, "cut_off"), (2, "cut_off"), (1, "cut_off")]
    else:
        assert ledger == ["prepare", "train", "undo", "undo", "undo"]
        assert run["status"] == "compensation_failed"
        assert "compensation of 'prepare' was under way each of the 3 times that its process died" in run["error"]
        assert letters == []


def test_a_death_while_a_given_up_run_is_compensated_does_not_start_it_anew(tmp_path: Path) -> None:
    for verb in ("fire", "resume", "resume"):
        child(tmp_path, "action", verb)
    assert child(tmp_path, "both", "resume") == -signal.SIGKILL
    assert child(tmp_path, "action", "resume") == 0
    assert (tmp_path / "ledger").read_text().split() == ["prepare", "train", "train", "train", "undo", "undo"]
    assert [run["status"] for run in facts(tmp_path, "runs")] == ["compensated"]
    assert len(facts(tmp_path, "dead_letters")) == 1


def test_a_held_run_that_kills_its_process_can_be_resumed_by_a_person(tmp_path: Path) -> None:
    for verb in ("fire", "resume", "resume", "resume"):
        child(tmp_path, "hold", verb)
    assert [run["status"] for run in facts(tmp_path, "runs")] == ["held"]
    assert child(tmp_path, "hold", "by-hand") == -signal.SIGKILL
    assert child(tmp_path, "hold", "resume") == -signal.SIGKILL
    assert child(tmp_path, "mended", "resume") == 0
    assert [run["status"] for run in facts(tmp_path, "runs")] == ["completed"]
