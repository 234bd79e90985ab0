"""A notebook's life in the page, and what these tests themselves rely on: that the page is watched and measured."""

import pytest
from playwright.async_api import Error, expect

from tests.browser.test_cards import LOAD, RETRAINING
from tests.browser.watch import Watch, most_in_a_second, usage

TEN_UPDATES = """\
import asyncio
from ipywidgets import Label
label = Label("0")
display(label)
for n in range(10):
    label.value = f"{n + 1} of 10"
    await asyncio.sleep(0.05)"""


async def test_a_saved_card_is_there_when_the_page_is_loaded_again_and_while_the_kernel_is_new(open_notebook):
    notebook = await open_notebook([LOAD, RETRAINING])
    await notebook.run_all()
    await notebook.save()
    await notebook.reload()
    await expect(notebook.output(1).get_by_role("img")).to_be_in_viewport(ratio=1)
    await notebook.restart_kernel()
    await expect(notebook.output(1).get_by_role("img")).to_be_in_viewport(ratio=1)
    await notebook.run_all()
    await expect(notebook.output(1)).to_contain_text("model-retraining")
    assert notebook.comms.updates() == []


async def test_what_a_kernel_sends_on_comms_is_counted(open_notebook):
    notebook = await open_notebook([TEN_UPDATES])
    await notebook.run_all()
    await expect(notebook.output(0)).to_contain_text("10 of 10")
    values = [update.data["state"]["value"] for update in notebook.comms.updates()]
    assert values == [f"{n} of 10" for n in range(1, 11)]
    opened = {one.comm_id for one in notebook.comms.received if one.kind == "comm_open"}
    assert {update.comm_id for update in notebook.comms.updates()} < opened
    assert most_in_a_second(notebook.comms.updates()) == 10
    assert await notebook.comms.during(0.2) == []


async def test_what_a_page_occupies_is_measured_once_its_garbage_is_gone(open_notebook):
    notebook = await open_notebook()
    before = await usage(notebook.page)
    await notebook.page.evaluate("kept = Array.from({length: 1000}, () => document.createElement('b'))")
    during = await usage(notebook.page)
    await notebook.page.evaluate("kept = null")
    after = await usage(notebook.page)
    assert during.nodes - before.nodes > 900
    assert abs(after.nodes - before.nodes) < 100


@pytest.mark.parametrize(
    ("done", "told"),
    [
        ("console.error('on', 'purpose')", "console error: on purpose"),
        ("new Promise(done => setTimeout(() => { done(); throw Error('thrown') }))", "page error: Error: thrown"),
        ("fetch('http://elsewhere.invalid/a')", "asked another host: http://elsewhere.invalid/a"),
        ("void new WebSocket('ws://elsewhere.invalid/b')", "asked another host: ws://elsewhere.invalid/b"),
    ],
)
async def test_a_page_that_does_what_none_may_is_told(chromium, done, told):
    watch = Watch()
    async with await chromium.new_context() as context:
        watch.follow(context)
        page = await context.new_page()
        try:
            await page.evaluate(done)
        except Error:
            assert "fetch" in done
        for _ in range(100):  # a websocket is told of a moment later
            if watch.faults:
                break
            await page.wait_for_timeout(50)
        with pytest.raises(AssertionError):
            await watch.check(context)
    assert told in "\n".join(watch.faults)
