"""The notebook of the live lab in JupyterLab. Its pictures are those of docs/ (`make pictures` puts them there)."""

import nbformat
import pytest
from playwright.async_api import expect

from tests.browser.lab_server import ROOT

LIVE = ROOT / "notebooks" / "03_live_lab.ipynb"
CELLS = {cell.id: cell.source for cell in nbformat.read(LIVE, as_version=4).cells}


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_the_dashboard_shows_what_the_notebook_does(open_notebook, theme):
    notebook = await open_notebook([CELLS[name] for name in ("setup", "saga", "start", "flow")], theme=theme)
    await notebook.page.set_viewport_size({"width": 1180, "height": 2400})
    await notebook.run_all()
    dashboard = notebook.output(2).locator(".sagaz-lab")
    for name in ("change", "hold"):
        await notebook.add_and_run(CELLS[name])
    await notebook.add_and_run("await lab.fire('training.on_night', {'rows': 12});")
    await expect(dashboard.get_by_role("region", name="Held runs").get_by_role("button", name="resume")).to_be_visible()
    await expect(dashboard.get_by_role("region", name="Dead letters")).to_contain_text("no such customer")
    await notebook.add_and_run("await asyncio.sleep(15)")  # for curves that can be seen
    await notebook.screenshot(f"docs-dashboard-{theme}", of=dashboard)


async def test_a_shadow_shows_where_it_decides_differently(open_notebook):
    names = ("setup", "saga", "start", "flow", "shadow", "shadow-look")
    notebook = await open_notebook([CELLS[name] for name in names])
    await notebook.page.set_viewport_size({"width": 1180, "height": 1800})
    await notebook.run_all()
    await expect(notebook.output(5)).to_contain_text("no such customer")
    await notebook.screenshot("docs-shadow", of=notebook.output(5))
