"""One figure, measured in a process of its own, and what such a process needs from outside."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.rows import Call
from tests.benchmarks.streams import redis_server

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build"
# The longest measurement takes about a minute on two slow cores.
TIMEOUT_S = 300.0


class Unmeasured(Exception):
    """A measurement failed; says which and with what last words."""


class Figure(NamedTuple):
    """In the row's unit, and the processor time of its process and of those that it started, from first to last."""

    value: float
    processor_s: float


class Resources:
    """Files and servers for measurements, made at the first use and removed at the end."""

    def __init__(self, stack: ExitStack) -> None:
        BUILD.mkdir(exist_ok=True)
        self._stack = stack
        self._url: str | None = None
        # Below build/, not /tmp: that may be memory, where a commit costs nothing.
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=BUILD)))
        self._files = 0

    def options(self, needs: Sequence[str]) -> Mapping[str, str]:
        found: dict[str, str] = {}
        if "path" in needs:
            self._files += 1
            found["path"] = str(self.folder / f"{self._files}.db")
        if "url" in needs:
            self._url = self._url or self._stack.enter_context(redis_server())
            found["url"] = self._url
        return found


def measure(call: Call, resources: Resources, *, small: bool, package: Path = ROOT) -> Figure:
    """The measurement of this checkout; `package` is the folder that has the `sagaz_lab` to measure.

    Raises `Unmeasured`.
    """
    options = json.dumps({**call.options, **resources.options(call.needs)})
    n = call.small if small else call.n
    command = [sys.executable, "-m", "tests.benchmarks.measure", call.module, str(n), options]
    # The folder comes first for this process and for those that it starts elsewhere, such as a kernel.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (package, ROOT)))}
    used_s = _used_s()
    try:
        done = subprocess.run(
            command, check=False, cwd=package, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise Unmeasured(f"no figure after {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        last_words = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise Unmeasured(last_words[0])
    return Figure(float(done.stdout.splitlines()[-1]), _used_s() - used_s)


def _used_s() -> float:
    """Processor time of all processes that have ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
