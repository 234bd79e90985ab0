"""Ends `sagaz-lab run` on a signal and within its grace, whatever a saga does."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from threading import Thread
from types import FrameType

CLOSING_S = 5.0
"""After `--grace`: the time to cancel live runs and to record that in the store."""

LEFT = 3
"""Exit status of `sagaz-lab run` with runs left for the next start."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_on_signal(ask: Callable[[], None], grace_s: float) -> None:
    """On the first SIGINT or SIGTERM call `ask` on this loop and make sure that the process ends.

    A second signal ends it at once. It uses Python's signal handlers and a thread as timer, because a loop blocked by
    an action would not notice the signal.
    """
    loop = asyncio.get_running_loop()

    def once(number: int, frame: FrameType | None) -> None:
        for known in _SIGNALS:
            signal.signal(known, signal.SIG_DFL)
        Thread(target=_end, args=(grace_s,), name="sagaz-lab-end", daemon=True).start()
        loop.call_soon_threadsafe(ask)

    for number in _SIGNALS:
        signal.signal(number, once)


def _end(grace_s: float) -> None:
    time.sleep(max(0.0, grace_s) + CLOSING_S)
    printer = Thread(target=_print_end, args=(grace_s,), daemon=True)
    printer.start()
    printer.join(1.0)  # a full pipe without a reader would block
    os._exit(LEFT)


def _print_end(grace_s: float) -> None:
    text = f"sagaz-lab: the grace of {grace_s:g} s is over and some code did not stop; the next start"
    print(text, "resumes the unfinished runs", file=sys.stderr, flush=True)
    sys.stdout.flush()
