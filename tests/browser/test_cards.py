"""What the cells show in JupyterLab: cards, tables, the time line of a run."""

import pytest
from playwright.async_api import expect

from tests.browser.notebook import contrast

READABLE = 4.5
LOAD = "%load_ext sagaz_lab\nfrom sagaz_lab import *"
RETRAINING = """%%saga
class ModelRetraining(Saga):
    saga_name = "model-retraining"
    trigger_config = TriggerConfig(max_retries=0)
    @trigger(source="memory", topic="model.drift", idempotency_key="drift_id")
    def on_drift(self, event):
        return {"model": event.model} if event.score > 0.5 else skip("score too low", score=event.score)
    @action("train")
    async def train(self, ctx):
        return {"version": ctx["model"] + "-2"}
    @compensate("train")
    def discard(self, ctx): ...
    @action("check", depends_on=["train"])
    async def check(self, ctx): ...
    @action("deploy", depends_on=["train", "check"])
    async def deploy(self, ctx):
        if ctx["model"] == "broken":
            raise RuntimeError("no place for it")
"""
START = "handle = %triggers start"
FIRE = """%triggers fire model-retraining.on_drift {"drift_id": 1, "model": "ctr", "score": 0.9}"""
FIRE_LOW = """%triggers fire model-retraining.on_drift {"drift_id": 2, "model": "ctr", "score": 0.2}"""
FIRE_BROKEN = """%triggers fire model-retraining.on_drift {"drift_id": 3, "model": "broken", "score": 0.9}"""
WAIT = "%triggers wait until idle --timeout 20"
HOSTILE = "</td></table><img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script><b>&amp;"


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_saga_cell_shows_its_actions_as_boxes_that_can_be_read(open_notebook, theme):
    notebook = await open_notebook([LOAD, RETRAINING], theme)
    await notebook.run_all()
    card = notebook.output(1)
    await expect(card).to_contain_text("model-retraining: revision 1, the first")
    picture = card.get_by_role("img")
    for name in ("on_drift", "train", "check", "deploy"):
        box = picture.locator("g", has=notebook.page.get_by_text(name, exact=True))
        await expect(box.locator("rect")).to_be_in_viewport(ratio=1)
        word, frame = await box.locator("text").first.bounding_box(), await box.locator("rect").bounding_box()
        assert frame["x"] < word["x"]
        assert word["x"] + word["width"] < frame["x"] + frame["width"]
    for words in (*await picture.locator("text").all(), card.locator("b")):
        assert await contrast(words) >= READABLE
    await notebook.screenshot(f"card-{theme}")


async def test_cards_follow_when_the_theme_is_changed(open_notebook):
    notebook = await open_notebook([LOAD, RETRAINING])
    await notebook.run_all()
    words = notebook.output(1).locator("text").first
    for theme in ("dark", "light"):
        await notebook.change_theme(theme)
        assert await contrast(words) >= READABLE


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_what_became_of_events_is_in_tables_that_can_be_read(open_notebook, theme):
    notebook = await open_notebook([LOAD, RETRAINING, START, FIRE, FIRE_LOW, WAIT], theme)
    await notebook.run_all()
    status = await notebook.add_and_run("%triggers status")
    await expect(notebook.output(3).get_by_role("table")).to_contain_text("started")
    await expect(notebook.output(4).get_by_role("table")).to_contain_text("score too low [score=0.2]")
    await expect(status).to_contain_text("started, 0 runs in flight")
    trigger = status.get_by_role("row").filter(has_text="model-retraining.on_drift").filter(has_text="r1")
    counts = dict(zip(await status.get_by_role("table").nth(1).locator("th").all_inner_texts(),
                      await trigger.locator("td").all_inner_texts(), strict=True))  # fmt: skip
    assert (counts["received"], counts["started"], counts["filtered"]) == ("2", "1", "1")
    for cell in await status.locator("td, th").all():
        assert await contrast(cell) >= READABLE
    await status.scroll_into_view_if_needed()
    await notebook.screenshot(f"tables-{theme}")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_a_run_is_drawn_on_one_axis_of_time(open_notebook, theme):
    notebook = await open_notebook([LOAD, RETRAINING, FIRE_BROKEN, WAIT], theme)
    await notebook.run_all()
    run = await notebook.add_and_run("lab = default_lab()\nlab.run(lab.runs().run_id[0])")
    await expect(run).to_contain_text("compensated")
    await expect(run).to_contain_text("no place for it")
    steps = run.get_by_role("table").first
    for name, status in {"train": "completed", "deploy": "failed", "↩ train": "completed"}.items():
        row = steps.get_by_role("row").filter(has=notebook.page.get_by_role("cell", name=name, exact=True))
        await expect(row).to_contain_text(status)
        track, bar = [await one.bounding_box() for one in await row.locator("td").nth(1).locator("div").all()]
        assert track["x"] <= bar["x"]
        assert 3 <= bar["width"] <= track["x"] + track["width"] - bar["x"] + 0.5
    await run.scroll_into_view_if_needed()
    await notebook.screenshot(f"time-line-{theme}")


async def test_what_a_user_writes_is_shown_as_text_whatever_it_looks_like(open_notebook):
    saga = RETRAINING.replace('skip("score too low"', f"skip({HOSTILE!r}")
    notebook = await open_notebook([LOAD, saga, FIRE_LOW, WAIT])
    await notebook.run_all()
    outcome = notebook.output(2)
    await expect(outcome).to_contain_text(HOSTILE)
    await expect(outcome.locator("img, script")).to_have_count(0)
    await expect(outcome.get_by_role("table")).to_have_count(1)
    why = await notebook.add_and_run("lab = default_lab()\nlab.why(lab.outcomes().event_id[0])")
    await expect(why).to_contain_text(HOSTILE)
    await expect(why.locator("img, script")).to_have_count(0)
    await expect(notebook.page).not_to_have_title("taken")
    await notebook.screenshot("hostile")
