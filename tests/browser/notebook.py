"""A notebook in JupyterLab, as its user sees it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nbformat
from playwright.async_api import Locator, Page, expect

from tests.browser.lab_server import ROOT, LabServer
from tests.browser.watch import Comms

PICTURES = ROOT / "build" / "browser"
_IDLE = "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
# What a page asks by itself (subshells, comms, debugger) has been answered; those of cells are kept for later output.
_ANSWERED = """() => [...jupyterapp.shell.currentWidget.sessionContext.session.kernel._futures.values()]
    .every(one => one.msg.header.msg_type === 'execute_request')"""
_RUN = """async n => {
    const {content} = jupyterapp.shell.currentWidget;
    content.deselectAll();
    content.activeCellIndex = n;
    await jupyterapp.commands.execute('notebook:run-cell');
}"""
_ADD = """source => {
    const cells = jupyterapp.shell.currentWidget.content.model.sharedModel;
    cells.insertCell(cells.cells.length, {cell_type: 'code', source, metadata: {trusted: true}});
    return cells.cells.length - 1;
}"""
_CONTRAST = """element => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const parsed = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return {rgb: [r, g, b], a: a / 255};
    };
    const over = (top, below) => top.rgb.map((value, n) => value * top.a + below[n] * (1 - top.a));
    const light = rgb => {
        const [r, g, b] = rgb.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const around = [];
    for (let one = element; one; one = one.parentElement) around.unshift(getComputedStyle(one));
    const ground = around.reduce((below, style) => over(parsed(style.backgroundColor), below), [255, 255, 255]);
    const own = getComputedStyle(element);
    const text = parsed(element instanceof SVGElement ? own.fill : own.color);
    text.a *= around.reduce((whole, style) => whole * Number(style.opacity), 1);
    const [dark, bright] = [light(over(text, ground)), light(ground)].sort((one, other) => one - other);
    return (bright + 0.05) / (dark + 0.05);
}"""


class Notebook:
    """Cells are counted from 0. What runs cells returns once the kernel is idle again."""

    def __init__(self, page: Page, server: LabServer) -> None:
        self.page = page
        self.comms = Comms(page)
        self._server = server

    async def open(self, file: Path, cells: Sequence[str], theme: str) -> None:
        """Writes the file first."""
        notebook = nbformat.v4.new_notebook()
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
        nbformat.write(notebook, file)
        self._server.set_theme(theme)
        path = file.relative_to(self._server.notebooks).as_posix()
        await self.page.goto(self._server.url(f"lab/tree/{path}", "reset"))
        await self._ready()
        await self.page.evaluate("jupyterapp.shell.collapseLeft()")

    async def run_all(self) -> None:
        await self.command("notebook:run-all-cells")
        await self.idle()

    async def run_cell(self, n: int) -> None:
        await self.page.evaluate(_RUN, n)
        await self.idle()

    async def add_and_run(self, source: str) -> Locator:
        """A new cell at the end; returns the place of its output."""
        n: int = await self.page.evaluate(_ADD, source)
        await self.run_cell(n)
        return self.output(n)

    async def idle(self) -> None:
        await self.page.wait_for_function(_IDLE)

    def cell(self, n: int) -> Locator:
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{n}"]')

    def output(self, n: int) -> Locator:
        """All that the cell shows below itself."""
        return self.cell(n).locator(".jp-OutputArea").first

    async def command(self, name: str, **arguments: object) -> None:
        """One of JupyterLab's, awaited."""
        await self.page.evaluate("([name, told]) => jupyterapp.commands.execute(name, told)", [name, arguments])

    async def change_theme(self, theme: str) -> None:
        """`light` or `dark`, in the open page."""
        await self.command("apputils:change-theme", theme=f"JupyterLab {theme.title()}")
        await expect(self.page.locator("body")).to_have_attribute(
            "data-jp-theme-light", "true" if theme == "light" else "false"
        )

    async def save(self) -> None:
        await self.command("docmanager:save")

    async def reload(self) -> None:
        """The page, not the kernel."""
        await self.page.reload()
        await self._ready()

    async def restart_kernel(self) -> None:
        """Not while the page still waits for answers: JupyterLab reports those that a restart cuts off as errors."""
        await self.page.wait_for_function(_ANSWERED)
        await self.page.evaluate("jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
        await self.idle()

    async def screenshot(self, name: str, of: Locator | None = None) -> Path:
        """The window, or one part of it, as `build/browser/NAME.png`."""
        file = PICTURES / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        await (self.page if of is None else of).screenshot(path=file)
        return file

    async def _ready(self) -> None:
        await self.idle()
        await expect(self.page.locator("#jupyterlab-splash")).to_have_count(0)


async def contrast(text: Locator) -> float:
    """Of the text's colour with what is behind it, as WCAG counts: 1 is none, 4.5 is enough for small text."""
    ratio: float = await text.evaluate(_CONTRAST)
    return ratio
