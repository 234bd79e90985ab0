"""What the cell that starts the triggers is told after the kernel was away, and `%triggers start --resume`."""

from __future__ import annotations

import ast
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from tests.acceptance.kernel import LOAD, ROOT, Kernel, Result, told

CELL = """%%saga --quiet
import asyncio, pathlib

class Nightly(Saga):
    @trigger(source="cron", schedule="0 * * * *")
    def on_hour(self, event):
        return skip("not now")

    @trigger(source="memory", topic="nights")
    def on_night(self, event):
        return {"n": event["n"]}

    @action("train")
    async def train(self, ctx):
        while not pathlib.Path("may-end").exists():
            await asyncio.sleep(0.05)
"""
START = "handle = %triggers start {}\nawait handle;"
FIRE = "[o.run_id for n in range(3) for o in await default_lab().fire('Nightly.on_night', {'n': n})]"


def killed(folder: Path) -> list[str]:
    """A kernel dies with three runs under way. Returns their ids, the oldest first."""
    with Kernel(folder) as kernel:
        kernel.run(LOAD)
        kernel.run(CELL)
        first = kernel.run(START.format(""))
        assert (first.ok, first.shown, first.stderr) == (True, [], ""), "a first start says nothing"
        runs: list[str] = ast.literal_eval(kernel.run(FIRE).text)
        kernel.kill()
    return runs


def hours_pass(folder: Path, hours: float) -> None:
    """For all that the store remembers; the minutes are such that the tick of an hour is not near."""
    with closing(sqlite3.connect(folder / ".sagaz_lab" / "lab.db")) as connection, connection:
        connection.execute("UPDATE owners SET heartbeat_at = heartbeat_at - ?", (hours * 3600,))
        name = "cron 0 of Nightly.on_hour"
        then = time.strftime("%Y-%m-%dT%H:30:00+00:00", time.gmtime(time.time() - hours * 3600))
        connection.execute("UPDATE positions SET value = ? WHERE name = ?", (then, name))


def start(kernel: Kernel, options: str = "") -> Result:
    kernel.run(LOAD)
    kernel.run(CELL)
    return kernel.run(START.format(options))


def test_the_cell_that_starts_says_what_was_missed_and_what_goes_on(tmp_path: Path) -> None:
    runs = killed(tmp_path)
    hours_pass(tmp_path, 14)
    (tmp_path / "may-end").touch()
    with Kernel(tmp_path) as kernel:
        (card,) = start(kernel).shown
        head, ticks, resumed = card["text/plain"].splitlines()
        assert head.startswith("kernel was away 14 h")
        assert head.endswith(" ticks missed, 3 runs resumed")
        assert "Nightly.on_hour: 1" in ticks
        assert 'the last one delivered now; its trigger\'s missed="all", "last" or "none" sets this' in ticks
        assert all(run in resumed for run in runs)
        assert "lab.compensate_run(id) undoes one" in resumed
        assert f"<b>{head}</b>" in card["text/html"]
        assert kernel.run(
            "away = default_lab().status().away\nlen(away.resumed), away.ticks_missed in (13, 14)"
        ).text == ("(3, True)")
        kernel.run("await default_lab().drain()")
        assert kernel.run("set(default_lab().runs().status)").text == "{'completed'}"
        assert kernel.run(START.format("")).shown == [], "there is nothing more to tell"


def test_nothing_is_said_after_a_moment_in_which_nothing_happened(tmp_path: Path) -> None:
    with Kernel(tmp_path) as kernel:
        start(kernel)
        kernel.restart()
        again = start(kernel)
        assert (again.ok, again.shown, again.stderr) == (True, [], "")


def test_triggers_that_were_stopped_are_not_taken_for_a_kernel_that_was_away(tmp_path: Path) -> None:
    with Kernel(tmp_path) as kernel:
        start(kernel)
        kernel.run("%triggers stop")
        hours_pass(tmp_path, 3)
        (card,) = kernel.run(START.format("")).shown
        assert card["text/plain"].startswith("triggers were away 3 h")


def test_which_runs_go_on_is_said_at_the_start_and_the_others_later(tmp_path: Path) -> None:
    oldest, middle, newest = killed(tmp_path)
    (tmp_path / "may-end").touch()
    with Kernel(tmp_path) as kernel:
        (card,) = start(kernel, "--resume last").shown
        assert "1 run resumed, 2 runs left as they were" in card["text/plain"]
        kernel.run("await default_lab().drain()")
        assert kernel.run(f"default_lab().run('{newest}').status.value").text == "'completed'"
        assert f"%triggers resume-run {oldest}" in kernel.completions("%triggers resume-run ")
        assert "completed" in kernel.run(f"%triggers resume-run {oldest}").text
        (card,) = kernel.run(START.format("--resume all")).shown
        assert card["text/plain"].splitlines()[0] == "1 run resumed"
        kernel.run("await default_lab().drain()")
        assert kernel.run(f"default_lab().run('{middle}').status.value").text == "'completed'"


def test_another_word_is_a_mistake_and_the_words_are_completed(tmp_path: Path) -> None:
    with Kernel(tmp_path) as kernel:
        mistake = told(start(kernel, "--resume lats"))
        assert mistake.startswith("UsageError: %triggers start: no --resume 'lats'; did you mean 'last'")
        assert kernel.completions("%triggers start --resume l") == ["%triggers start --resume last"]


def test_a_notebook_without_a_front_end_waits_for_no_answer_and_tells_it_where_it_waits(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killed(tmp_path)
    (tmp_path / "may-end").touch()
    cells = [LOAD, CELL, "handle = %triggers start", "%triggers wait until idle --timeout 30"]
    cells += ["print(set(default_lab().runs().status))", "%triggers stop"]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources=resources).execute()
    nbformat.validate(notebook)
    waiting, statuses = ("".join(output.get("text", "") for output in notebook.cells[n].outputs) for n in (3, 4))
    assert "3 runs resumed" in waiting
    assert statuses == "{'completed'}\n"
