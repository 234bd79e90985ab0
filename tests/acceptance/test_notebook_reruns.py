"""Cells that are edited and run again, in a real kernel: nothing goes on with old code untold."""

import pytest

from tests.acceptance.kernel import LOAD, Kernel

BASE = """
WHAT = 1
class Base(Saga, abstract=True):
    @action("a")
    async def a(self, ctx): return {"out": "first"}
"""
SAGA = """%%saga
class S(Base):
    what = WHAT
    @trigger(source="memory", topic="t")
    def on_e(self, event): return {"what": self.what}
"""
FIRE = """o = %triggers fire S.on_e {}
%triggers wait until idle
c = default_lab().context(o[0].run_id); print(c["what"], c["out"])
"""
EDITED = BASE.replace("= 1", "= 2").replace("first", "second")


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


def test_a_saga_whose_base_and_attribute_were_edited_runs_on_the_new_ones(kernel):
    for cell in (BASE, SAGA):
        kernel.run(cell)
    assert kernel.run(FIRE).stdout.splitlines()[-1] == "1 first"
    assert kernel.run(EDITED).stdout == "saga S goes on with Base as before; run its cell again\n"
    assert kernel.run("1").stdout == ""
    card = kernel.run(SAGA).shown[0]["text/plain"]
    assert "S: revision 2 (was 1)" in card
    assert "helper changed: Base" in card
    assert "value changed: S.what" in card
    assert kernel.run(FIRE).stdout.splitlines()[-1] == "2 second"
    assert "no change: still revision 2" in kernel.run(SAGA).shown[0]["text/plain"]


def test_after_a_restart_the_same_cells_are_the_same_revision(kernel):
    for cell in (BASE, SAGA, FIRE):
        kernel.run(cell)
    kernel.restart()
    kernel.run(LOAD)
    kernel.run(BASE)
    kernel.run(SAGA)
    assert kernel.run("default_lab().sagas['S'].revision").text == "1"
    kernel.run(EDITED)
    kernel.run(SAGA)
    assert kernel.run("default_lab().sagas['S'].revision").text == "2"
