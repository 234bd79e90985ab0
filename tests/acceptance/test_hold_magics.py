"""`%triggers start --hold`, `resume-run` and `compensate-run` in a real kernel: an hour of training is not repeated."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.kernel import LOAD, Kernel, told

CELL = """%%saga --quiet
class Retraining(Saga):
    @trigger(source="memory", topic="drift")
    def on_drift(self, event):
        return {"model": event["model"]}

    @action("train")
    def train(self, ctx):
        with open("trained", "a") as file:
            print(ctx.run_id, file=file)
        return {"score": 0.93}

    @compensate("train")
    def discard(self, ctx):
        print("discarded", ctx["model"])

    @action("validate", depends_on="train")
    def validate(self, ctx):
        print("validating", ctx["score"])
        assert ctx["SCORE"] > 0.9

    @action("publish", depends_on="validate")
    def publish(self, ctx):
        print("published", ctx["model"])
"""
FIRE = 'outcomes = %triggers fire Retraining.on_drift {"model": "ctr"}\nawait default_lab().drain()\noutcomes[0].run_id'


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        assert kernel.run(CELL.replace("SCORE", "skore")).ok
        yield kernel


@pytest.fixture
def held(kernel: Kernel) -> str:
    """A run that has been held: its id."""
    assert kernel.run("%triggers start --hold").ok
    run_id: str = ast.literal_eval(kernel.run(FIRE).text)
    assert kernel.run("runs = %triggers runs --status held\nlist(runs.run_id)").text == f"['{run_id}']"
    return run_id


def trained(folder: Path) -> int:
    return len((folder / "trained").read_text().splitlines())


def test_an_hour_of_training_is_not_repeated(kernel: Kernel, held: str, tmp_path: Path) -> None:
    assert kernel.run(f"default_lab().context('{held}')['score']").text == "0.93"
    assert kernel.run(CELL.replace("SCORE", "score")).ok
    resumed = kernel.run(f"%triggers resume-run {held}")
    assert (resumed.text, resumed.stdout) == (
        "<RunStatus.COMPLETED: 'completed'>",
        "validating 0.93\npublished ctr\n",
    )
    assert kernel.run(f"default_lab().run('{held}').revision").text == "2"
    assert trained(tmp_path) == 1


def test_the_hour_is_not_repeated_by_the_next_kernel_either(kernel: Kernel, held: str, tmp_path: Path) -> None:
    kernel.shut_down()
    with Kernel(tmp_path) as again:
        assert again.run(LOAD).ok
        assert again.run(f"default_lab().context('{held}')['score']").text == "0.93"
        assert again.run(CELL.replace("SCORE", "score")).ok
        assert "completed" in again.run(f"%triggers resume-run {held}").text
    assert trained(tmp_path) == 1


def test_an_earlier_action_is_done_again_if_it_is_named(kernel: Kernel, held: str, tmp_path: Path) -> None:
    assert kernel.run(CELL.replace("SCORE", "score")).ok
    assert "completed" in kernel.run(f"%triggers resume-run {held} --from train").text
    assert trained(tmp_path) == 2


def test_a_run_that_fails_again_says_how_and_stays_held(kernel: Kernel, held: str) -> None:
    again = kernel.run(f"%triggers resume-run {held}")
    assert (again.text, again.stdout) == ("<RunStatus.HELD: 'held'>", "validating 0.93\n")
    assert again.stderr == f"run {held} held: KeyError: 'skore'\n"


def test_a_held_run_is_undone_if_it_is_not_wanted(kernel: Kernel, held: str) -> None:
    undone = kernel.run(f"status = %triggers compensate-run {held}\nstatus")
    assert (undone.text, undone.stdout) == ("<RunStatus.CANCELLED: 'cancelled'>", "discarded ctr\n")


def test_what_fails_is_held_until_a_start_without_it(kernel: Kernel, held: str) -> None:
    assert kernel.run("%triggers start").ok
    kernel.run(FIRE)
    assert kernel.run("list(default_lab().runs().status)").text == "['waiting', 'held']"


def test_a_mistake_is_one_line_and_the_ids_are_completed(kernel: Kernel, held: str) -> None:
    assert told(kernel.run("%triggers resume-run")) == (
        "UsageError: %triggers resume-run: an argument is missing; usage: resume-run RUN [--from ACTION]"
    )
    assert told(kernel.run("%triggers resume-run r-7")).startswith(
        "UsageError: %triggers resume-run: no run 'r-7' is kept"
    )
    assert "did you mean 'train'" in told(kernel.run(f"%triggers resume-run {held} --from tarin"))
    for command in ("resume-run", "compensate-run"):
        assert f"%triggers {command} {held}" in kernel.completions(f"%triggers {command} r-")
    assert f"%triggers resume-run {held} --from validate" in kernel.completions(
        f"%triggers resume-run {held} --from val"
    )
    assert "resume-run RUN [--from ACTION]" in kernel.run("%triggers resume-run?").stdout
