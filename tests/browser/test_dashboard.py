"""The dashboard in JupyterLab: what it shows, that its controls work, and what it costs the page."""

import nbformat
import pytest
from playwright.async_api import expect

from tests.browser.notebook import contrast
from tests.browser.watch import most_in_a_second, usage

LOAD = "%load_ext sagaz_lab\nimport asyncio, time\nlab = default_lab()"
SCORES = """%%saga --quiet
class Scores(Saga):
    @trigger(source="memory", topic="scores", params={"threshold": 0.5}, max_concurrent_sagas=4)
    def on_score(self, event):
        return {"n": event.n} if event.score > self.params.threshold else skip("too low", score=event.score)
    @action("check")
    async def check(self, ctx):
        if ctx["n"] == 13:
            raise Permanent("thirteen")
        return {"checked": True}
    @action("train", depends_on=["check"])
    async def train(self, ctx):
        for epoch in range(10):
            ctx.progress(epoch, 10, "epochs")
            ctx.log("epoch", epoch)
            await asyncio.sleep(ctx["n"] / 100)
    @compensate("train")
    async def discard(self, ctx): ..."""
FLOW = """async def flow(every_s=0.01):
    n = 0
    while True:
        n += 1
        await lab.fire("Scores.on_score", {"n": n % 20, "score": n % 10 / 10}, wait=False)
        await asyncio.sleep(every_s)
flowing = asyncio.create_task(flow())"""


@pytest.fixture
def open_dashboard(open_notebook):
    """A notebook with a started saga and events that flow; its fourth cell shows the dashboard."""

    async def opened(theme="light", flow=FLOW):
        notebook = await open_notebook([LOAD, SCORES, "%triggers start;", "%triggers dashboard", flow], theme=theme)
        await notebook.run_all()
        await expect(notebook.output(3).get_by_role("article", name="Scores.on_score")).to_be_visible()
        return notebook, notebook.output(3).locator(".sagaz-lab")

    return opened


def stage(dashboard, name):
    """The number of a stage of the funnel."""
    row = dashboard.get_by_role("row").filter(has=dashboard.page.get_by_role("rowheader", name=name, exact=True))
    return row.locator("td").nth(1)


async def type_over(field, text):
    await field.click(click_count=3)
    await field.press_sequentially(text)
    await field.press("Enter")


async def shown(locator):
    return int((await locator.inner_text()).replace(",", "") or 0)


async def shown_together(*locators):
    """The numbers of one moment: the page may change between two readings."""
    before = None
    while before != (before := [await shown(locator) for locator in locators]):
        pass
    return before


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_what_flows_is_shown_in_the_colours_of_the_page(open_dashboard, theme):
    notebook, dashboard = await open_dashboard(theme)
    for name in ("received", "filtered", "started", "completed"):
        await expect(stage(dashboard, name)).not_to_have_text("0")
    await expect(
        dashboard.get_by_role("region", name="Runs in flight").get_by_text("train running").first
    ).to_be_visible()
    await expect(dashboard.locator("canvas")).to_be_visible()
    received, filtered = await shown_together(stage(dashboard, "received"), stage(dashboard, "filtered"))
    assert 0.4 < filtered / received < 0.7
    await notebook.page.wait_for_timeout(3000)  # for a picture with some curve
    await notebook.screenshot(f"dashboard-{theme}", of=dashboard)
    for text in (
        dashboard.get_by_role("heading", name="Triggers"),
        stage(dashboard, "received"),
        dashboard.locator(".dim").first,
    ):
        assert await contrast(text) >= 4.5


async def test_the_theme_is_followed_while_it_is_open(open_dashboard):
    notebook, dashboard = await open_dashboard("light")
    before = await dashboard.evaluate("it => getComputedStyle(it).backgroundColor")
    await notebook.change_theme("dark")
    assert await dashboard.evaluate("it => getComputedStyle(it).backgroundColor") != before
    assert await contrast(dashboard.get_by_role("heading", name="Triggers")) >= 4.5


async def test_a_trigger_is_paused_and_resumed_with_the_keyboard_alone(open_dashboard):
    notebook, dashboard = await open_dashboard()
    pause = dashboard.get_by_role("button", name="pause Scores.on_score")
    await expect(pause).to_be_enabled()
    await pause.press("Enter")
    await expect(dashboard.get_by_role("button", name="resume Scores.on_score")).to_be_visible()
    await expect(await notebook.add_and_run("lab.status().triggers[0].state")).to_contain_text("paused")
    await dashboard.get_by_role("button", name="resume Scores.on_score").press("Space")
    await expect(dashboard.get_by_role("button", name="pause Scores.on_score")).to_be_visible()


async def test_a_slider_changes_a_param_which_is_recorded(open_dashboard):
    notebook, dashboard = await open_dashboard()
    slider = dashboard.get_by_role("slider", name="threshold")
    await slider.fill("0.8")
    await expect(dashboard.get_by_role("spinbutton", name="threshold")).to_have_value("0.8")
    output = await notebook.add_and_run(
        "[(c.name, c.old, c.new) for c in await lab.params('Scores.on_score', history=True)]"
    )
    await expect(output).to_contain_text("[('threshold', 0.5, 0.8)]")
    await (
        dashboard.get_by_role("group", name="threshold")
        .or_(dashboard.locator(".setting", has_text="threshold"))
        .get_by_role("button", name="reset")
        .click()
    )
    await expect(slider).to_have_value("0.5")


async def test_a_limit_is_changed_and_a_wrong_one_is_told_beside_it(open_dashboard):
    notebook, dashboard = await open_dashboard()
    runs = dashboard.get_by_role("spinbutton", name="runs at a time")
    await type_over(runs, "2")
    await expect(dashboard.get_by_role("button", name="reset to 4")).to_be_enabled()
    await expect(await notebook.add_and_run("await lab.set_limits('Scores.on_score')")).to_contain_text(
        "max_concurrent_sagas=2"
    )
    await type_over(runs, "0")
    await expect(dashboard.locator(".setting", has_text="runs at a time")).to_contain_text("must be a whole number")
    await expect(dashboard.get_by_role("spinbutton", name="runs at a time")).to_have_value("2")


async def test_a_field_keeps_the_focus_and_the_draft_when_a_warning_arrives(open_dashboard):
    _, dashboard = await open_dashboard(
        flow="""async def later():
    await asyncio.sleep(6)
    await lab.fire("Scores.on_score", {"n": 13, "score": 1}, wait=False)
task = asyncio.create_task(later())"""
    )
    field = dashboard.get_by_role("spinbutton", name="runs at a time")
    await field.click(click_count=3)
    await field.press_sequentially("17")
    await expect(dashboard.locator(".notice")).to_have_count(0)
    await expect(dashboard.locator(".notice")).not_to_have_count(0)
    await expect(field).to_be_focused()
    await expect(field).to_have_value("17")


async def test_dead_letters_are_put_back_from_the_page(open_dashboard):
    notebook, dashboard = await open_dashboard(
        flow="for n in (13, 13):\n    await lab.fire('Scores.on_score', {'n': n, 'score': 1})"
    )
    letters = dashboard.get_by_role("region", name="Dead letters")
    await expect(letters.get_by_role("cell", name="Permanent: thirteen")).to_be_visible()
    await notebook.add_and_run(SCORES.replace("== 13", "== 14"))
    await letters.get_by_role("button", name="redrive").click()
    await expect(letters).to_contain_text("none")
    await expect(await notebook.add_and_run("len(lab.dead_letters())")).to_contain_text("0")


async def test_a_revision_is_looked_at_and_rolled_back(open_dashboard):
    notebook, dashboard = await open_dashboard(flow="1")
    await notebook.add_and_run(SCORES.replace("== 13", "== 14"))
    await dashboard.locator("summary", has_text="Scores, revision 2").click()
    await dashboard.get_by_text("changes from 1").click()
    await expect(dashboard.locator("ins").last).to_contain_text("== 14")
    await notebook.screenshot("dashboard-revisions", of=dashboard.get_by_role("region", name="Sagas"))
    await dashboard.get_by_role("button", name="roll back").click()
    await expect(dashboard.locator("summary", has_text="Scores, revision 1")).to_be_visible()
    await expect(await notebook.add_and_run("lab.sagas['Scores'].revision")).to_contain_text("1")


async def test_a_run_shows_its_progress_and_its_log(open_dashboard):
    notebook, dashboard = await open_dashboard(
        flow="await lab.fire('Scores.on_score', {'n': 600, 'score': 1}, wait=False);"
    )
    run = dashboard.get_by_role("region", name="Runs in flight").get_by_role("article")
    await expect(run).to_contain_text("of 10 epochs")
    await run.get_by_text("log").click()
    await expect(run.locator("pre")).to_contain_text("epoch 0")
    await notebook.screenshot("dashboard-run", of=run)
    await run.get_by_role("button", name="compensate").click()
    await run.get_by_role("button", name="stop and undo?").click()
    await expect(run).to_have_count(0)


async def test_a_page_that_is_loaded_again_goes_on_with_all_that_was_there(open_dashboard):
    notebook, _ = await open_dashboard()
    await notebook.page.wait_for_timeout(3000)
    await notebook.save()
    await notebook.reload()
    dashboard = notebook.output(3).locator(".sagaz-lab")
    received = await shown(stage(dashboard, "received"))
    assert received > 100
    await expect(stage(dashboard, "received")).not_to_have_text(f"{received:,}")
    await expect(dashboard.locator("canvas")).to_be_visible()


async def test_after_a_restart_of_the_kernel_it_says_that_it_is_not_live(open_dashboard):
    notebook, dashboard = await open_dashboard()
    await expect(dashboard.get_by_role("button", name="pause Scores.on_score")).to_be_enabled()
    await notebook.restart_kernel()
    await expect(dashboard.get_by_text("not live: the kernel is gone or was restarted").first).to_be_visible()
    await expect(dashboard.get_by_role("button", name="pause Scores.on_score")).to_be_disabled()


async def test_a_blocked_kernel_is_told_and_then_it_goes_on(open_dashboard):
    notebook, dashboard = await open_dashboard()
    running = notebook.page.evaluate("0")
    await notebook.page.evaluate(
        """() => { const cells = jupyterapp.shell.currentWidget.content.model.sharedModel;
        cells.insertCell(cells.cells.length, {cell_type: 'code', source: 'time.sleep(5)', metadata: {trusted: true}});
        jupyterapp.shell.currentWidget.content.activeCellIndex = cells.cells.length - 1;
        jupyterapp.commands.execute('notebook:run-cell'); }"""
    )
    await running
    await expect(dashboard).to_contain_text("kernel busy")
    await expect(dashboard).to_contain_text("intake waits")
    await notebook.idle()
    await expect(dashboard).not_to_contain_text("kernel busy")
    received = await stage(dashboard, "received").inner_text()
    await expect(stage(dashboard, "received")).not_to_have_text(received)


FLOOD = """from sagaz_lab.abc import Delivery, Event, SourceTraits
import itertools
class Numbers:
    name, traits, numbers = "numbers", SourceTraits(redelivers=False), itertools.count()
    async def __aenter__(self): return self
    async def __aexit__(self, *_): ...
    async def settle(self, deliveries, outcomes): ...
    async def nack(self, deliveries, *, delay_s=0.0): ...
    async def keep_alive(self, deliveries): ...
    async def receive(self, limit):
        await asyncio.sleep(min(limit, 500) / 10_000)
        taken = itertools.islice(self.numbers, min(limit, 500))
        return [Delivery(Event(b"{}", str(n), self.name), n) for n in taken]
class Flooded(Saga):
    @trigger(source=Numbers())
    def on_event(self, event):
        return skip("one of many")
    @action()
    async def work(self, ctx): ..."""


async def test_a_flood_of_events_is_no_flood_of_messages_and_the_page_stays_quick(open_dashboard):
    notebook, dashboard = await open_dashboard(flow=FLOOD)
    flood = dashboard.get_by_role("article", name="Flooded.on_event")
    sent = await notebook.comms.during(6)
    assert 0 < most_in_a_second(sent) <= 10
    before = await shown(stage(flood, "received"))
    await notebook.page.wait_for_timeout(2000)
    assert await shown(stage(flood, "received")) - before > 10_000
    await notebook.screenshot("dashboard-flood", of=dashboard)


async def test_nothing_is_sent_where_nobody_looks(open_dashboard):
    notebook, dashboard = await open_dashboard()
    await notebook.page.evaluate("jupyterapp.shell.currentWidget.content.activeCellIndex = 3")
    await notebook.command("notebook:clear-cell-output")
    await expect(dashboard).to_have_count(0)
    await notebook.comms.during(1)
    assert await notebook.comms.during(3) == []


HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});
    document.dispatchEvent(new Event('visibilitychange'));
}"""


async def test_a_page_that_is_hidden_is_sent_nothing_and_then_everything(open_dashboard):
    notebook, dashboard = await open_dashboard()
    await notebook.page.evaluate(HIDE, True)
    await notebook.comms.during(1)
    received = await shown(stage(dashboard, "received"))
    assert await notebook.comms.during(3) == []
    await notebook.page.evaluate(HIDE, False)
    await expect(stage(dashboard, "received")).not_to_have_text(f"{received:,}")
    assert "full" in [update.data["content"]["kind"] for update in notebook.comms.updates()[-20:]]


async def test_a_saved_notebook_shows_how_it_stood_when_there_is_no_kernel(open_dashboard, lab_server):
    notebook, dashboard = await open_dashboard()
    await expect(stage(dashboard, "completed")).not_to_have_text("0")
    picture = notebook.output(3).locator(".sagaz-lab-still")
    await expect(picture).to_be_hidden()
    await expect(picture.locator("svg")).to_have_count(1)  # it has been renewed since
    await notebook.save()
    file = await notebook.page.evaluate("jupyterapp.shell.currentWidget.context.path")
    saved = nbformat.read(lab_server.notebooks / file, as_version=4).cells[3].outputs
    await notebook.page.set_content("".join(output.data.get("text/html", "") for output in saved))
    await expect(notebook.page.locator(".sagaz-lab-still")).to_contain_text("as of 20")
    await expect(notebook.page.get_by_role("row", name="Scores.on_score memory scores")).to_be_visible()
    await notebook.screenshot("dashboard-still")


CYCLES = """import anywidget
import sagaz_lab.notebook.dashboard as made_by
from IPython.display import clear_output
class Plain(anywidget.AnyWidget):
    # As long a script, which JupyterLab keeps for each widget.
    _esm = made_by.script().replace("export default", "const unused =") + '''
        export default { render({ model, el }) { el.textContent = "plain"; model.send({}); } }'''
    def __init__(self):
        super().__init__()
        self._views = []
        self.on_msg(lambda *_: self._views.append(1))
async def views(widget, number):
    for _ in range(number):
        widget._views.clear()
        display(widget)
        while not widget._views:
            await asyncio.sleep(0.01)
        clear_output()
        await asyncio.sleep(0.05)
async def widgets(make, number):
    for _ in range(number):
        widget = make()
        await views(widget, 1)
        widget.close()
        await asyncio.sleep(0.02)"""


async def grown_by(notebook, cycles):
    """What 200 of them leave in the page: nodes, listeners, bytes."""
    await notebook.add_and_run(f"await {cycles.format(10)}")
    before = await usage(notebook.page)
    await notebook.add_and_run(f"await {cycles.format(200)}")
    after = await usage(notebook.page)
    return after.nodes - before.nodes, after.listeners - before.listeners, after.heap_bytes - before.heap_bytes


@pytest.mark.timeout(240)
async def test_two_hundred_views_that_come_and_go_leave_nothing(open_dashboard):
    """Nothing more than JupyterLab keeps of any widget's."""
    notebook, _ = await open_dashboard(flow=CYCLES)
    plain = await grown_by(notebook, "views(Plain(), {})")
    ours = await grown_by(notebook, "views(lab.dashboard(), {})")
    nodes, listeners, heap = (one - other for one, other in zip(ours, plain, strict=True))
    assert nodes < 200, (plain, ours)
    assert listeners < 100, (plain, ours)
    assert heap < 10e6, (plain, ours)


@pytest.mark.timeout(240)
async def test_two_hundred_dashboards_that_are_made_and_closed_leave_nothing(open_dashboard):
    """The page keeps each one's script for ever, as any widget's, so its heap is not looked at."""
    notebook, _ = await open_dashboard(flow=CYCLES)
    plain = await grown_by(notebook, "widgets(Plain, {})")
    ours = await grown_by(notebook, "widgets(lab.dashboard, {})")
    nodes, listeners, _ = (one - other for one, other in zip(ours, plain, strict=True))
    assert nodes < 200, (plain, ours)
    assert listeners < 100, (plain, ours)
    left = await notebook.add_and_run("len(made_by._dashboards), len(made_by._live)")
    await expect(left).to_contain_text("(0, 0)")
