"""What it costs that a payload is copied for each who reads it: one of 20 rows, as JSON gives it."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from sagaz_lab.model.apart import apart

HOW: dict[str, Callable[[Any], Any]] = {"apart": apart, "deepcopy": deepcopy}


async def measure(n: int, *, how: str = "apart") -> float:
    """Copies per second."""
    copy = HOW[how]
    payload = {"model_id": "churn", "rows": [{"n": n, "score": 0.5, "tags": ["a", "b"]} for n in range(20)]}
    start = time.perf_counter()
    for _ in range(n):
        copy(payload)
    return n / (time.perf_counter() - start)
