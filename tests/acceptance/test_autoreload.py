"""A function of the user's own module is edited in its file, and `%autoreload` takes it in."""

import os

import pytest

from tests.acceptance.kernel import LOAD, Kernel

FEATURES = (
    "FACTOR = {factor}\n\ndef worth(score):\n    return _scaled(score)\n\ndef _scaled(score):\n    return {code}\n"
)
CELL = """%%saga
class Scores(Saga):
    @trigger(source="memory", topic="scores")
    def on_score(self, event):
        return {{"worth": {call}}}
    @action()
    async def keep(self, ctx): ...
"""


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(f"{LOAD}\n%load_ext autoreload\n%autoreload 2").ok
        yield kernel


@pytest.fixture
def edit(tmp_path):
    moments = iter(range(1_700_000_000, 1_700_000_100))

    def edit(factor, code="score * FACTOR"):
        file = tmp_path / "features.py"
        file.write_text(FEATURES.format(factor=factor, code=code))
        moment = next(moments)
        os.utime(file, (moment, moment))  # `%autoreload` looks at the time of a file in seconds

    return edit


@pytest.mark.parametrize(
    ("imported", "call"),
    [("import features", "features.worth(event.n)"), ("from features import worth", "worth(event.n)")],
)
def test_the_saga_gets_its_next_revision_and_the_cell_that_follows_says_why(kernel, edit, imported, call):
    edit(factor=2)
    kernel.run(imported)
    assert "revision 1" in kernel.run(CELL.format(call=call)).shown[0]["text/plain"]
    assert kernel.run("1").stdout == ""
    edit(factor=2, code="score * FACTOR + 1")
    told = kernel.run("1").stdout
    assert told == "saga Scores: revision 2 (was 1); helper changed: features._scaled()\n"
    assert kernel.run("p = %triggers preview Scores.on_score {'n': 5}\np.context").text == "{'worth': 11}"
    edit(factor=3, code="score * FACTOR + 1")
    assert "helper changed: features.FACTOR" in kernel.run("1").stdout
