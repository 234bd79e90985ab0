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
    async def ack(self, deliveries): ...
    async def nack(self, delivery, delay_s=0.0): ...
with lab.activate():
    define("away", {"source": "custom", "factory": Away})
"""
FIRE = """lab.start(skip_failed=True)
for n in range(4):
    await lab.fire("model-retraining-0.on_drift", {"n": n}, wait=False)
    await lab.fire("model-retraining-1.on_drift", {"n": n}, wait=False)
await lab.fire("model-retraining-1.on_drift", {"n": 9}, wait=False)
await asyncio.sleep(1)"""

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
