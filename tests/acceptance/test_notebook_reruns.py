"""Cells that are edited and run again, in a real kernel: nothing goes on with old code untold."""

import pytest

from tests.acceptance.kernel import LOAD, Kernel, saga, told

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
    assert kernel.run(EDITED).stdout == "saga S still uses the previous Base; run its cell again\n"
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


# --- what goes on unseen ---


def test_a_saga_that_its_cell_has_renamed_is_named_with_its_cure(kernel):
    kernel.run("%%saga\n" + saga("long"))
    renamed = "%%saga\n" + saga("long").replace('saga_name = "long"', 'saga_name = "short"')
    shown = kernel.run(renamed).shown
    assert "'long', defined by this cell before, still runs; %triggers remove long removes it" in shown[0]["text/plain"]
    assert "Button" in shown[1]["text/plain"]
    assert kernel.run("%triggers remove long").stdout == "saga long removed\n"
    assert kernel.run("list(default_lab().sagas)").text == "['short']"
    assert len(kernel.run(renamed).shown) == 1


def test_so_is_one_of_a_cell_with_an_id_whatever_else_was_edited(kernel):
    kernel.run(saga("long"), cell_id="one")
    kernel.run(saga("other"), cell_id="two")
    told = kernel.run("x = 1\n" + saga("short", "elsewhere"), cell_id="one").stdout
    assert "'long', defined by this cell before, still runs" in told
    assert "other" not in told
    assert "'short', defined by this cell before" in kernel.run("x = 1", cell_id="one").stdout


def test_a_deleted_class_is_told_of_once_and_the_button_removes_its_saga(kernel):
    kernel.run(saga("gone"))
    assert "the class S is gone, but its saga 'gone' still runs; %triggers remove gone" in kernel.run("del S").stdout
    assert kernel.run("1").stdout == ""
    kernel.run("import ipywidgets as w; b = [x for x in w.Widget.widgets.values() if isinstance(x, w.Button)][-1]")
    kernel.run("b.click()")
    kernel.run("import asyncio\nwhile b.description != 'gone removed': await asyncio.sleep(0.01)")
    assert kernel.run("(b.description, list(default_lab().sagas))").text == "('gone removed', [])"


def test_removing_what_is_not_there_is_a_mistake(kernel):
    kernel.run(saga("there"))
    assert "no saga 'ther'; did you mean 'there'?" in told(kernel.run("%triggers remove ther"))
    assert kernel.completions("%triggers remove ") == ["%triggers remove there"]


# --- the same notebook once more ---

KEYED = "%%saga\n" + saga("keyed").replace('topic="keyed"', 'topic="keyed", idempotency_key="id"')


def run_all(kernel, start="%triggers start"):
    """Restart and Run All: the card, what the start says, and what became of the event."""
    kernel.restart()
    kernel.run(LOAD)
    card = kernel.run(KEYED).shown[0]["text/plain"]
    started = kernel.result(kernel.send(start))
    fired = kernel.run('%triggers fire keyed.on_event {"id": 7}')
    kernel.run("%triggers wait until idle")
    return card, started, fired.text


def test_run_all_over_claimed_keys_says_so_and_a_fresh_start_forgets_them(kernel):
    first = run_all(kernel)
    assert ("claimed" in first[0], "started" in first[2]) == (False, True)
    card, started, fired = run_all(kernel)
    assert "earlier runs have claimed 1 key of keyed.on_event" in card
    assert "%triggers start --fresh" in card
    assert "duplicate" in fired
    assert "keyed.on_event: event" in started.stderr
    assert "%triggers start --fresh" in started.stderr
    _, started, fired = run_all(kernel, "await default_lab().start(fresh=True)")
    assert "forgot 1 claim or cooldown and 0 waiting events of keyed.on_event" in started.stderr
    assert "started" in fired


def test_the_magics_can_use_a_scratch_store(kernel, tmp_path):
    kernel.run(KEYED)
    kernel.run('%triggers fire keyed.on_event {"id": 7}')
    assert kernel.run("%triggers use memory").stdout == "the store is now memory; no trigger is started\n"
    assert kernel.run("default_lab().counters().get('keyed.on_event', {}).get('received', 0)").text == "0"
    assert "started" in kernel.run('%triggers fire keyed.on_event {"id": 7}').text
    assert kernel.run("%triggers use sqlite:///.sagaz_lab/lab.db").ok
    assert "duplicate" in kernel.run('%triggers fire keyed.on_event {"id": 7}').text
    assert "nosuch://x" in told(kernel.run("%triggers use nosuch://x"))
    assert "use STORE" in told(kernel.run("%triggers use"))
