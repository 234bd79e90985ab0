"""The wall clock."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    sleep = staticmethod(asyncio.sleep)
