"""A real Jupyter kernel, to run cells in as a front end does."""

import os
import re
import signal
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

ROOT = Path(__file__).parents[2]
LOAD = "%load_ext sagaz_lab\nfrom sagaz_lab import *"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class Result:
    """What a cell gave. `data` is its value by type of content, `shown` is what it displayed besides."""

    stdout: str = ""
    stderr: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    paged: str = ""
    begun: bool = False
    ok: bool = True

    @property
    def text(self) -> str:
        """The value as text."""
        return str(self.data.get("text/plain", ""))


class Kernel:
    """`with Kernel(folder) as kernel: kernel.run("1 + 1").text`. It looks into `first_on_path` before all else."""

    def __init__(self, folder: Path, *first_on_path: Path) -> None:
        self._folder = folder
        self._path = os.pathsep.join(map(str, (*first_on_path, ROOT)))
        self._manager = KernelManager(kernel_name="python3")
        self._client: BlockingKernelClient | None = None
        self._results: dict[str, Result] = {}

    def __enter__(self) -> Self:
        settings = self._folder / ".ipython"
        env = {**os.environ, "PYTHONPATH": self._path, "IPYTHONDIR": str(settings), "PYTHONWARNINGS": "default"}
        self._manager.start_kernel(cwd=str(self._folder), env=env)
        self._client = self._manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.stop_channels()
        if self._manager.has_kernel:
            self._manager.shutdown_kernel(now=True)

    @property
    def client(self) -> BlockingKernelClient:
        assert self._client is not None
        return self._client

    def send(self, cell: str, cell_id: str | None = None) -> str:
        """Have it run, without waiting. Returns the name of the request. A front end gives each cell an id."""
        if cell_id is None:
            request: str = self.client.execute(cell)
            return request
        content = {"code": cell, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False,
                   "stop_on_error": True}  # fmt: skip
        message = self.client.session.msg("execute_request", content, metadata={"cellId": cell_id})
        self.client.shell_channel.send(message)
        return str(message["header"]["msg_id"])

    def run(self, cell: str, timeout_s: float = 30.0, cell_id: str | None = None) -> Result:
        return self.result(self.send(cell, cell_id), timeout_s)

    def result(self, request: str, timeout_s: float = 30.0) -> Result:
        """What the cell gave, once the kernel is idle again. What comes for it later is added to the same object."""
        deadline = time.monotonic() + timeout_s
        while not self.receive(deadline, request):
            pass
        result = self._results[request]
        while True:
            reply = self.client.get_shell_msg(timeout=max(deadline - time.monotonic(), 0.01))
            if reply["parent_header"].get("msg_id") == request:
                content = reply["content"]
                result.ok = content["status"] == "ok"
                pages = [page["data"]["text/plain"] for page in content.get("payload", ()) if "data" in page]
                result.paged = "".join(pages)
                return result

    def begins(self, request: str, timeout_s: float = 30.0) -> None:
        """Returns once the kernel has begun the cell; its code runs a moment later."""
        deadline = time.monotonic() + timeout_s
        while not self._results.setdefault(request, Result()).begun:
            self.receive(deadline, request)

    def receive(self, deadline: float, request: str) -> bool:
        """Takes one message; true if it says that the request is done."""
        message = self.client.get_iopub_msg(timeout=max(deadline - time.monotonic(), 0.01))
        parent, kind, content = message["parent_header"].get("msg_id"), message["msg_type"], message["content"]
        _add(self._results.setdefault(parent, Result()), kind, content)
        return bool(parent == request and kind == "status" and content["execution_state"] == "idle")

    def completions(self, cell: str) -> list[str]:
        """What is offered with the cursor at the end of the cell, each as the whole cell would read."""
        reply = self.client.complete(cell, reply=True, timeout=30)["content"]
        return [cell[: reply["cursor_start"]] + text for text in reply["matches"]]

    def interrupt(self) -> None:
        self._manager.interrupt_kernel()

    def signal(self, number: int) -> None:
        """Send it to the kernel's process itself."""
        os.kill(self.pid, number)

    @property
    def pid(self) -> int:
        provisioner: Any = self._manager.provisioner
        number: int = provisioner.process.pid
        return number

    def kill(self) -> None:
        """As the kernel of an out-of-memory machine dies."""
        self.signal(signal.SIGKILL)
        provisioner: Any = self._manager.provisioner
        provisioner.process.wait(10)

    def restart(self) -> None:
        """As "Restart kernel" does: the kernel is asked to end, and another takes its place."""
        self._manager.restart_kernel(now=False)
        self.client.wait_for_ready(timeout=60)

    def shut_down(self, timeout_s: float = 15.0) -> None:
        """Ask it to end, as Jupyter does, and wait until it has."""
        self.client.shutdown()
        deadline = time.monotonic() + timeout_s
        while self._manager.is_alive():
            if time.monotonic() > deadline:
                raise TimeoutError("the kernel did not end")
            time.sleep(0.05)


def _add(result: Result, kind: str, content: dict[str, Any]) -> None:
    match kind:
        case "execute_input":
            result.begun = True
        case "stream" if content["name"] == "stdout":
            result.stdout += content["text"]
        case "stream":
            result.stderr += content["text"]
        case "execute_result":
            result.data = content["data"]
        case "display_data":
            result.shown.append(content["data"])
        case "error":
            result.error = _COLOURS.sub("", "\n".join(content["traceback"]))


def saga(name, topic=None, trigger="return {}", action="return {}", after=""):
    """The text of a saga with one trigger and one action; `after` follows the class."""
    return textwrap.dedent(f'''\
        class S(Saga):
            saga_name = "{name}"
            @trigger(source="memory", topic="{topic or name}")
            def on_event(self, event):
                {trigger}
            @action("act")
            async def act(self, ctx):
                {action}
            @compensate("act")
            def undo(self, ctx): ...
        {after}''')


def told(result):
    """The one line on stderr, of a cell that failed without a traceback."""
    assert (result.ok, result.error) == (False, None)
    (line,) = result.stderr.splitlines()
    return line
