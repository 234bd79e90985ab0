"""How `sagaz-lab run` ends: a signal asks for it, and whatever a saga does, the process is gone in time."""

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
"""What `--grace` leaves behind gets so long to be stopped, and the store to note it."""

LEFT = 3
"""The exit status of `sagaz-lab run` when runs are left to the next start."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_on_signal(ask: Callable[[], None], grace_s: float) -> None:
    """On the first SIGINT or SIGTERM call `ask` on this loop, and see to it that the process ends.

    A second signal ends it at once. The handlers are Python's and the clock is a thread's: a loop that an action blocks
    would notice no signal of its own.
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
    teller = Thread(target=_tell, args=(grace_s,), daemon=True)
    teller.start()
    teller.join(1.0)  # whoever should read it may have stopped reading
    os._exit(LEFT)


def _tell(grace_s: float) -> None:
    text = f"sagaz-lab: the grace of {grace_s:g} s is over, and something did not let itself be stopped; the next start"
    print(text, "resumes the runs that are left", file=sys.stderr, flush=True)
    sys.stdout.flush()
