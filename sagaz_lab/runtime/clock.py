"""The clock on the wall."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """Real time."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)
