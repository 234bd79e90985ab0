"""tools/demo.py [FOLDER]: runs the notebook from first to last cell in FOLDER (build/demo) and prints its summary.

Writes 01_drift_retraining.ipynb there, the same as .html (a static page without scripts) and drift.png.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "01_drift_retraining.ipynb"
BUILD = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "build" / "demo"
WIDTH = 30
CELL_TIMEOUT_S = 600


class Bar:
    """One line on a terminal; elsewhere a line for each cell and each tenth of a long one."""

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self._began = time.monotonic()
        self._shown = ""

    def show(self, cell: int, name: str, part: float = 0.0, text: str = "") -> None:
        filled = round(WIDTH * (cell + part) / self._cells)
        line = f"[{'#' * filled}{'.' * (WIDTH - filled)}] {time.monotonic() - self._began:5.1f} s  {text or name}"
        if sys.stdout.isatty():
            print(f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        elif (state := f"{cell} {part:.1f}") != self._shown:
            self._shown = state
            print(line, flush=True)

    def end(self) -> float:
        if sys.stdout.isatty():
            print("\r\x1b[K", end="")
        return time.monotonic() - self._began


class Client(NotebookClient):
    """Tells a bar which cell runs and, where a cell's output says so in its metadata, how far it is."""

    def __init__(self, notebook: nbformat.NotebookNode, bar: Bar, **options: Any) -> None:
        super().__init__(notebook, **options)
        self._bar = bar
        self.on_cell_execute = lambda cell, cell_index: bar.show(cell_index, cell.id)

    def process_message(self, msg: dict[str, Any], cell: nbformat.NotebookNode, cell_index: int) -> Any:
        if progress := msg["content"].get("metadata", {}).get("progress"):
            done, total = progress
            self._bar.show(cell_index, cell.id, done / total, msg["content"]["data"]["text/plain"])
        return super().process_message(msg, cell, cell_index)


def run(notebook: nbformat.NotebookNode) -> float:
    """Execute it in a new build/demo/, in place; returns the seconds. What was run is kept also if a cell fails."""
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(NOTEBOOK.parent), os.environ.get("PYTHONPATH", "")])
    bar = Bar(len(notebook.cells))
    where = {"metadata": {"path": str(BUILD)}}
    client = Client(notebook, bar, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources=where)
    client.extra_arguments = ["--log-level=ERROR"]  # not the kernel's warning about its local sockets
    try:
        client.execute()
    finally:
        seconds = bar.end()
        nbformat.write(notebook, BUILD / NOTEBOOK.name)
        (BUILD / f"{NOTEBOOK.stem}.html").write_text(page(notebook))
    return seconds


def page(notebook: nbformat.NotebookNode) -> str:
    """Static HTML: all scripts are taken out (the template's load from the network), widgets show their text."""
    still = nbformat.from_dict(notebook)
    still.metadata.pop("widgets", None)
    for cell in still.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    html, _ = HTMLExporter().from_notebook_node(still)
    return re.sub(r"<script\b.*?</script>|<link\b[^>]*https?://[^>]*>", "", html, flags=re.DOTALL)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return next(cell.outputs for cell in notebook.cells if tag in cell.metadata.get("tags", ()))


def main() -> int:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    source = "a Redis stream" if os.environ.get("REDIS_URL") else "the memory source"
    print(f"==> {NOTEBOOK.relative_to(ROOT)}, events from {source}")
    try:
        seconds = run(notebook)
    except CellExecutionError as error:
        print(f"{error}\nerror: a cell failed; the notebook as far as it ran is in {BUILD}", file=sys.stderr)
        return 1
    [image] = [output for output in tagged(notebook, "figure") if "image/png" in output.get("data", {})]
    (BUILD / "drift.png").write_bytes(base64.b64decode(image.data["image/png"]))
    print("".join(output.text for output in tagged(notebook, "summary") if output.output_type == "stream"))
    print(f"time taken        {seconds:>8.1f} s")
    for written in (NOTEBOOK.name, f"{NOTEBOOK.stem}.html", "drift.png"):
        print(f"==> {os.path.relpath(BUILD / written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
