"""`%triggers params` in a real kernel."""

import pytest

from tests.acceptance.kernel import LOAD, Kernel

CELL = """%%saga
class Retraining(Saga):
    @trigger(source="memory", topic="drift", params={"threshold": 0.5, "model": "1", "owner": None})
    def on_drift(self, event):
        return {} if event.score > self.params.threshold else skip("too low", threshold=self.params.threshold)
"""
SHOW = "%triggers params Retraining.on_drift"


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        assert kernel.run(CELL).ok
        yield kernel


def fired(kernel, score):
    return kernel.run(f"(await default_lab().fire('Retraining.on_drift', {{'score': {score}}}))[0].reason").text


def test_params_are_shown_and_changed(kernel):
    assert kernel.run(SHOW).text == "Params(Retraining.on_drift: threshold=0.5, model='1', owner=None)"
    changed = kernel.run(f"{SHOW} threshold=0.7 model=2 owner='team a'")
    assert changed.text == "Params(Retraining.on_drift: threshold=0.7, model='2', owner='team a')"
    assert fired(kernel, 0.6) == "'too low'"
    assert fired(kernel, 0.8) == "''"
    assert kernel.run("default_lab().sagas['Retraining'].revision").text == "1"
    assert kernel.run(f"changes = {SHOW} --history\n[(c.name, c.new) for c in changes]").text == (
        "[('owner', 'team a'), ('model', '2'), ('threshold', 0.7)]"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (f"{SHOW} treshold=0.7", "no param 'treshold'; did you mean 'threshold'?"),
        (f"{SHOW} threshold=high", "threshold='high' must be of type float"),
        (f"{SHOW} threshold", "'threshold' is not NAME=VALUE; usage: params TRIGGER [NAME=VALUE ...]"),
        ("%triggers params", "an argument is missing; usage: params TRIGGER"),
        ("%triggers params Retraining.on_drif", "no trigger 'Retraining.on_drif'; did you mean 'Retraining.on_drift'"),
    ],
)
def test_a_mistake_is_told_in_one_line(kernel, change, told):
    result = kernel.run(change)
    assert not result.ok
    assert told in result.stderr + (result.error or "")
    assert "Traceback" not in result.stderr


def test_a_change_survives_the_cell_and_the_kernel(kernel, tmp_path):
    kernel.run(f"{SHOW} threshold=0.7")
    kernel.run(CELL)
    assert "threshold=0.7" in kernel.run(SHOW).text
    kernel.run("await default_lab().stop()")
    with Kernel(tmp_path) as again:
        assert again.run(LOAD).ok
        assert again.run(CELL).ok
        assert fired(again, 0.6) == "'too low'"
        card = again.run(CELL.replace("0.5", "0.55")).shown[0]["text/plain"]
        assert "param threshold is 0.55 from now on; its default was 0.5" in card
        assert "threshold=0.55" in again.run(SHOW).text


def test_the_names_are_completed(kernel):
    assert f"{SHOW} threshold=" in kernel.completions(f"{SHOW} thr")
    assert SHOW in kernel.completions("%triggers params Retr")
