"""What runs, events, sagas and the Lab show of themselves as a cell's result, in a real kernel."""

import re

import pytest

from tests.acceptance.kernel import LOAD, Kernel

SAGAS = """
import asyncio
ONCE = TriggerConfig(max_retries=0)
class Orders(Saga):
    saga_name = "orders"
    @trigger(source="memory", topic="<b>orders</b>", config=ONCE)
    def on_order(self, event):
        return dict(event.payload)
    @action("reserve <i>")
    async def reserve(self, ctx):
        return "<script>reserved</script>"
    @compensate("reserve <i>")
    async def release(self, ctx): ...
    @action("pay", depends_on="reserve <i>", max_retries=2, retry_backoff_s=0.01)
    async def pay(self, ctx):
        raise ValueError("<script>no money</script>")
class Kept(Orders):
    saga_name = "kept"
    on_failure = "hold"
    @trigger(source="memory", topic="kept", config=ONCE)
    def on_order(self, event):
        return {}
lab = default_lab()
"""
FIRED = """
fired = await lab.fire("{saga}.on_order", {{"who": "<script>me</script>"}}, id="<e>{saga}")
await lab.drain()"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(tmp_path_factory.mktemp("inspectors")) as kernel:
        for cell in (LOAD, SAGAS, *(FIRED.format(saga=saga) + f"\n{saga} = fired[0]" for saga in ("orders", "kept"))):
            result = kernel.run(cell)
            assert result.ok, result.error
        yield kernel


def shown(kernel, cell):
    """The text and the HTML of a cell's value, which is escaped and asks for nothing from elsewhere."""
    result = kernel.run(cell)
    assert result.ok, result.error
    html = result.data["text/html"]
    assert "<script" not in html
    assert not re.search(r"\b(src|href)=|url\(|@import", html)
    return result.text, html


def test_a_run_is_a_time_line_with_inputs_results_and_errors(kernel):
    text, html = shown(kernel, "lab.run(orders.run_id)")
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 2]
    assert [(name.strip(), facts.split()[0], facts.split()[-1]) for name, _, facts in rows] == [
        ("reserve <i>", "completed", "1"),
        ("pay", "failed", "1"),
        ("pay", "failed", "2"),
        ("pay", "failed", "3"),
        ("↩ reserve <i>", "completed", "1"),
    ]
    assert "▒" in rows[-1][1]
    assert html.count("position:absolute") == len(rows)
    assert "orders revision 1, attempt 1" in text
    assert "started by orders.on_order" in text
    assert "{'who': '<script>me</script>'}" in text
    assert "reserve <i>  '<script>reserved</script>'" in text
    assert "pay: ValueError: <script>no money</script> (3 times)" in text
    assert 'cell line 15: raise ValueError("<script>no money</script>")' in text
    assert "&lt;script&gt;reserved&lt;/script&gt;" in html
    assert re.search(r"<details><summary>pay: ValueError.*</summary><pre[^>]*>Traceback", html)


def test_a_held_run_shows_what_it_waits_with(kernel):
    text, html = shown(kernel, "lab.run(kept.run_id)")
    assert text.splitlines()[0] == f"run {kernel.run('print(kept.run_id)').stdout.strip()}: held"
    assert "↩" not in text
    assert "failed" in html


def test_a_live_run_is_shown_up_to_now(kernel):
    kernel.run("""
class Slow(Saga):
    @trigger(source="memory", topic="slow")
    def on_event(self, event): return {}
    @action("wait")
    async def wait(self, ctx):
        ctx.progress(1, 3, "files")
        await go_on.wait()
go_on = asyncio.Event()""")
    kernel.run(
        'slow = (await lab.fire("Slow.on_event", {}))[0]\n'
        'while "1 of 3" not in str(lab.status().runs):\n    await asyncio.sleep(0.01)'
    )
    text, html = shown(kernel, "lab.run(slow.run_id)")
    assert "running: 1 of 3 files" in text
    assert "running: 1 of 3 files" in html
    kernel.run("go_on.set(); await lab.drain()")
    assert "completed" in shown(kernel, "lab.run(slow.run_id)")[0]


def test_an_event_and_an_outcome_show_their_fields(kernel):
    text, html = shown(kernel, "lab.run(orders.run_id).event")
    assert text.splitlines()[0] == "event <e>orders from memory <b>orders</b>"
    assert "{'who': '<script>me</script>'}" in text
    assert "&lt;e&gt;orders" in html
    assert "<table" in html
    text, html = shown(kernel, "orders")
    assert text.startswith("<e>orders -> orders.on_order: started")
    assert "&lt;e&gt;orders" in html


def test_a_saga_class_is_its_picture_and_other_classes_are_as_before(kernel):
    text, html = shown(kernel, "Orders")
    assert "trigger on_order <- memory <b>orders</b>" in text
    assert "action reserve <i> (undone by release)" in text
    assert "<svg" in html
    assert "↩ release" in html
    assert "&lt;b&gt;orders" in html
    for cell in ("int", "Saga", "[Orders]", "[lab.run(orders.run_id).event]", "type(lab.sagas)({1: 2})"):
        assert "text/html" not in kernel.run(cell).data, cell
    assert kernel.run("int").text == "int"
    assert kernel.run("[lab.run(orders.run_id).event]").text.startswith("[Event(memory <b>orders</b> <e>orders, ")


def test_a_class_that_its_own_cell_shows_says_when_it_counts(kernel):
    _, html = shown(kernel, "class Fresh(Saga):\n    @action()\n    async def work(self, ctx): ...\nFresh")
    assert "registered when this cell succeeds" in html
    assert "<b>Fresh</b> revision 1" in shown(kernel, "Fresh")[1]


def test_a_list_of_another_kind_keeps_its_own_look(kernel):
    kernel.run("class Rows(list):\n    def _repr_html_(self):\n        return '<b>own</b>'")
    assert kernel.run("Rows([1])").data["text/html"] == "<b>own</b>"
    assert "text/html" not in kernel.run("Rows").data


def test_the_sagas_and_the_lab_are_tables(kernel):
    for cell in ("lab.sagas", "lab.registry", "lab"):
        text, html = shown(kernel, cell)
        assert re.search(r"^orders +r1 +on_order <- memory <b>orders</b> +20\d\d-", text, flags=re.MULTILINE), cell
        assert "<td" in html
    assert "runs in flight" in text


def test_two_revisions_are_shown_as_a_diff(kernel):
    for limit in (1, 2):
        kernel.run(
            f"class Changed(Saga):\n    @action()\n    async def work(self, ctx):\n        return '<script>{limit}'"
        )
    text, html = shown(kernel, "lab.diff('Changed', 1, 2)")
    assert shown(kernel, "Changed.diff(1, 2)") == (text, html)
    assert text.splitlines()[:2] == ["--- revision 1", "+++ revision 2"]
    assert text.splitlines()[-2:] == ["-        return '<script>1'", "+        return '<script>2'"]
    assert "--jp-success-color1" in html
    assert "--jp-error-color1" in html
    assert "same code" in shown(kernel, "lab.diff('Changed', 2, 2)")[0]
    assert "no revision '7' (known: 1, 2)" in kernel.run("lab.diff('Changed', 1, 7)").error


def test_a_payload_that_cannot_be_shown_spoils_nothing(kernel):
    kernel.run("class Broken:\n    def __repr__(self): raise RuntimeError('no words')")
    text, _ = shown(kernel, "Event({'x': Broken()}, id='e')")
    assert "<unprintable dict: RuntimeError: no words" in text
    text, html = shown(kernel, "Event({'many': list(range(10**6)), 'long': 'x' * 10**6}, id='e')")
    assert max(len(text), len(html)) < 10_000
