"""What every notebook that shows the dashboard carries with it."""

import hashlib
from importlib.resources import files

from sagaz_lab import Lab
from sagaz_lab.notebook.dashboard import SCRIPTS, UPLOT, Dashboard, script, static

FOLDER = files("sagaz_lab.notebook") / "static"


def test_it_is_small() -> None:
    assert len(script().encode()) + len(static("dashboard.css").encode()) < 80_000


def test_it_is_all_there_and_nothing_else_is() -> None:
    ours = {*SCRIPTS, UPLOT, "dashboard.css", "uplot-LICENSE.txt", "uplot-SHA256SUMS"}
    assert {file.name for file in FOLDER.iterdir()} == ours
    assert Dashboard(Lab("memory")).get_state()["_esm"] == script()


def test_what_is_not_ours_is_unchanged() -> None:
    for line in static("uplot-SHA256SUMS").splitlines():
        digest, name = line.split()
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_nothing_is_asked_of_a_network() -> None:
    for name in (*SCRIPTS, "dashboard.css"):
        for word in ("http:", "https:", "fetch(", "import(", "@import", "url(", "XMLHttpRequest", "WebSocket"):
            assert word not in static(name), f"{name}: {word}"
