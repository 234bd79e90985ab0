"""How long an import takes in a bare interpreter, and what it must not load."""

from __future__ import annotations

import statistics
import subprocess
import sys

# Each of these is for an adapter or the notebook, loaded when one is used.
UNWANTED = (
    "IPython", "aio_pika", "aiobotocore", "aiokafka", "anywidget", "ipywidgets", "numpy", "pandas", "pulsar",
    "pyarrow", "pydantic", "redis",
)  # fmt: skip

PROGRAM = """
import sys, time
start = time.perf_counter()
import {modules}
elapsed_s = time.perf_counter() - start
print(elapsed_s * 1000, *sorted(set({unwanted!r}) & set(sys.modules)))
"""


async def measure(n: int, *, modules: str) -> float:
    """Milliseconds, the median of `n` interpreters. Raises if one of `UNWANTED` was loaded."""
    bare(modules)  # writes the byte code, which is not measured
    return statistics.median(bare(modules) for _ in range(n))


def bare(modules: str) -> float:
    program = PROGRAM.format(modules=modules, unwanted=UNWANTED)
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"import {modules} failed: {done.stderr.strip()[-500:]}")
    elapsed_ms, *loaded = done.stdout.split()
    if loaded:
        raise RuntimeError(f"import {modules} loads {', '.join(loaded)}")
    return float(elapsed_ms)
