"""A JupyterLab server of the tests' own, on a free port, that reads and writes settings in its own folder only."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"

SETTINGS = {
    # What a notebook is saved as, and when, is for the test to say.
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    # Every cell is in the page and drawn, however far down.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {"checkForUpdates": False, "fetchNews": "false"},
}
PAGE_CONFIG = {
    "disabledExtensions": {
        "@jupyterlab/apputils-extension:announcements": True,
        "@jupyterlab/extensionmanager-extension": True,
    }
}
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
OPTIONS = [
    "--no-browser",
    f"--ServerApp.ip={HOST}",
    "--ServerApp.port=0",
    "--ServerApp.allow_root=True",
    "--ServerApp.terminals_enabled=False",
    # It ends by itself where a test run was killed.
    "--ServerApp.shutdown_no_activity_timeout=3600",
    "--LabApp.extension_manager=readonly",
    "--LabApp.news_url=None",
    "--LabApp.collaborative=False",
    "--LabApp.expose_app_in_browser=True",
]


class LabServer:
    """Notebooks lie below `notebooks`; their kernels import this checkout."""

    def __init__(self, folder: Path) -> None:
        self.notebooks = folder / "notebooks"
        self.token = secrets.token_hex(16)
        self._folder = folder
        self._url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.notebooks.mkdir()
        for path, content in (
            ("config/labconfig/default_setting_overrides.json", SETTINGS),
            ("config/labconfig/page_config.json", PAGE_CONFIG),
        ):
            self._write(path, content)
        options = [*OPTIONS, f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.notebooks}"]
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(1200):
            assert self._process.poll() is None, self.log()
            if self._answers():
                return
            time.sleep(0.05)
        raise AssertionError(f"JupyterLab did not start: {self.log()}")

    def log(self) -> str:
        return (self._folder / "server.log").read_text()

    def url(self, path: str, query: str = "") -> str:
        """With the token."""
        return f"{self._url}{path}?token={self.token}{query and f'&{query}'}"

    def set_theme(self, theme: str) -> None:
        """Of the pages that are opened from now on."""
        self._write("settings/@jupyterlab/apputils-extension/themes.jupyterlab-settings", {"theme": THEMES[theme]})

    def end_kernels(self) -> None:
        """Their sessions go with them."""
        for kernel in self._ask("api/kernels"):
            self._ask(f"api/kernels/{kernel['id']}", "DELETE")

    def close(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON"))}
        own = {
            "HOME": "home",
            "IPYTHONDIR": "ipython",
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        }
        for name in own.values():
            (self._folder / name).mkdir(exist_ok=True)
        return {**kept, **{name: str(self._folder / value) for name, value in own.items()}, "PYTHONPATH": str(ROOT)}

    def _write(self, path: str, content: Mapping[str, Any]) -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))

    def _answers(self) -> bool:
        """Once it listens, a file of its own names the port."""
        try:
            (file,) = (self._folder / "runtime").glob("jpserver-*.json")
            self._url = f"http://{HOST}:{json.loads(file.read_text())['port']}/"
            self._ask("api/status")
        except (OSError, ValueError):
            return False
        return True

    def _ask(self, path: str, method: str = "GET") -> Any:
        request = Request(self._url + path, method=method, headers={"Authorization": f"token {self.token}"})
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")
