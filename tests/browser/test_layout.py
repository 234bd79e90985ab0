"""The dashboard at the widths of real windows: what can be read and reached without scrolling sideways."""

import pytest
from playwright.async_api import expect

LOAD = "%load_ext sagaz_lab\nimport asyncio\nlab = default_lab()"
SAGAS = """with lab.activate():
    def define(n, source):
        class Made(Saga):
            saga_name = f"model-retraining-{n}"
            on_failure = "hold" if n == 0 else "compensate"
            trigger_config = TriggerConfig(max_retries=0)
            @trigger(**source, max_concurrent_sagas=4)
            def on_drift(self, event):
                return {"n": event["n"]}
            @action("train")
            async def train(self, ctx):
                if ctx["n"] == 9:
                    await asyncio.sleep(600)
                raise ValueError("the model of customer 4711 could not be trained: " + "matrix is singular, " * 12)
    for n in range(40):
        define(n, {"source": "memory", "topic": f"drift-{n}"})
class Away:
    name = "broker"
    async def __aenter__(self): raise OSError("broker-1.example.org:9092 does not answer, " * 6)
    async def __aexit__(self, *_): ...
    async def receive(self, limit): ...
    async def settle(self, deliveries, outcomes): ...
    async def nack(self, deliveries, delay_s=0.0): ...
    async def keep_alive(self, deliveries): ...
with lab.activate():
    define("away", {"source": "custom", "factory": Away})
"""
FIRE = """lab.start(skip_failed=True)
for n in range(4):
    await lab.fire("model-retraining-0.on_drift", {"n": n}, wait=False)
    await lab.fire("model-retraining-1.on_drift", {"n": n}, wait=False)
await lab.fire("model-retraining-1.on_drift", {"n": 9}, wait=False)
await asyncio.sleep(1)"""

COLD_CHAIN = """%%saga --quiet
class ColdChain(Saga):
    on_failure = "hold"
    trigger_config = TriggerConfig(max_retries=0)
    @trigger(source="memory", topic="readings", params={"limit": 8.0}, concurrency_key="truck")
    def on_reading(self, event):
        return dict(event) if event["celsius"] > self.params.limit else skip("cold enough")
    @trigger(source="memory", topic="crates", batch=Batch(4, "1m"))
    def on_crates(self, events):
        raise ValueError("no such crate")
    @action("quarantine")
    async def quarantine(self, ctx):
        for part in range(10):
            ctx.progress(part, 10, "crates")
            await asyncio.sleep(0.3)
        raise RuntimeError("the cold store is full")"""
READINGS = """for n in range(6):
    await lab.fire("ColdChain.on_reading", {"truck": n % 2, "celsius": n * 4}, wait=False)
for n in range(5):
    await lab.fire("ColdChain.on_crates", {"n": n}, wait=False)"""

# How far a table would have to be scrolled, and the controls that the right edge cuts off.
CUT_OFF = """root => {
    const edge = root.getBoundingClientRect().right + 1;
    const tables = [...root.querySelectorAll('.wide')].filter(it => !it.querySelector('svg'));
    const controls = [...root.querySelectorAll('button, input')].filter(it => it.getBoundingClientRect().right > edge);
    return [...tables.map(it => it.scrollWidth - it.clientWidth).filter(more => more > 1),
            ...controls.map(it => it.textContent || it.placeholder)];
}"""
LONG_TEXTS = """root => [...root.querySelectorAll('td')]
    .filter(it => it.innerText.length > 200).map(it => it.getBoundingClientRect().width)"""
HEIGHTS = """root => Object.fromEntries([...root.querySelectorAll('section')]
    .map(it => [it.ariaLabel, it.getBoundingClientRect().height]))"""
SECTIONS = {"Throughput", "Triggers", "Sources", "Runs in flight", "Held runs", "Dead letters", "Sagas"}
WRAPPED_ROWS = "root => [...root.querySelectorAll('td .row')].filter(it => it.offsetHeight > 30).length"


@pytest.mark.timeout(300)
async def test_forty_triggers_and_long_errors_can_be_read_and_reached(open_notebook):
    notebook = await open_notebook([LOAD, SAGAS, FIRE, "%triggers dashboard"])
    await notebook.run_all()
    dashboard = notebook.output(3).locator(".sagaz-lab")
    await notebook.output(3).scroll_into_view_if_needed()  # it is drawn where it can be seen
    letters = dashboard.get_by_role("region", name="Dead letters")
    await expect(letters.get_by_text("matrix")).not_to_have_count(0, timeout=60_000)
    for width, highest in ((600, 4200), (1024, 3400), (1440, 3200), (1920, 2200)):
        await notebook.page.set_viewport_size({"width": width, "height": 1000})
        await expect(dashboard.get_by_role("button", name="discard")).to_be_visible()
        await notebook.page.evaluate("() => new Promise(requestAnimationFrame)")
        assert await dashboard.evaluate(CUT_OFF) == []
        assert min(await dashboard.evaluate(LONG_TEXTS)) > 400
        assert (await dashboard.bounding_box())["height"] < highest
        if width > 1024:
            assert await dashboard.evaluate(WRAPPED_ROWS) == 0


async def test_every_section_stays_visible_while_events_arrive_and_the_window_changes(open_notebook):
    """Chromium once gave all below the chart a height of 0, and left it so."""
    notebook = await open_notebook([LOAD, COLD_CHAIN, "%triggers start", READINGS])
    dashboard = notebook.output(2).locator(".sagaz-lab")

    async def assert_visible(seconds):
        for _ in range(5 * seconds):
            heights = await dashboard.evaluate(HEIGHTS)
            assert heights.keys() == SECTIONS
            assert min(heights.values()) > 30, heights
            await notebook.page.wait_for_timeout(200)
        for name in SECTIONS:
            await expect(dashboard.get_by_role("region", name=name)).to_be_visible()

    await notebook.page.set_viewport_size({"width": 1440, "height": 1000})
    for n in range(3):
        await notebook.run_cell(n)
    await expect(dashboard.get_by_role("article", name="ColdChain.on_crates")).to_be_visible()
    await assert_visible(1)
    await notebook.run_cell(3)
    await assert_visible(6)
    await expect(
        dashboard.get_by_role("region", name="Held runs").get_by_role("button", name="resume")
    ).not_to_have_count(0)
    await expect(dashboard.get_by_role("button", name="discard")).to_be_visible()
    for width in (1024, 600, 1440, 1024, 600, 1440):
        await notebook.page.set_viewport_size({"width": width, "height": 1000})
        await assert_visible(1)
    await notebook.screenshot("dashboard-after-resizes", of=dashboard)
