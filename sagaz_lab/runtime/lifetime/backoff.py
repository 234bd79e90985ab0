"""Pauses between attempts to reach a broker. They grow, with jitter, so that clients do not retry in step."""

from __future__ import annotations

import random

FIRST_DELAY_S, LAST_DELAY_S = 0.1, 30.0


def backoff_s(failures: int) -> float:
    """Seconds to wait after this many consecutive failures."""
    return random.uniform(FIRST_DELAY_S, min(LAST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(failures, 20)))
