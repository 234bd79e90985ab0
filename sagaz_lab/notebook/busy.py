"""Detects that a cell blocks the kernel's event loop, and with it the intake."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import ClassVar, Self
from weakref import WeakKeyDictionary, WeakMethod, ref

BEAT_S = 0.25
BUSY_S = 1.0
"""Shorter blocks are ignored."""

REPORT_EVERY_S = 1.0

Listener = Callable[[float], None]


class Watchman:
    """A thread that watches one loop for as long as it has listeners.

    While the loop is blocked, listeners are called once a second, on that thread, with the seconds so far.
    """

    _of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Watchman]] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)  # identifies it while the loop lives
        self._beat = time.monotonic()
        self._listeners: list[WeakMethod[Listener]] = []
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Self:
        """The loop's watchman. Call it on the loop."""
        if loop not in cls._of:
            cls._of[loop] = cls(loop)
        return cls._of[loop]  # type: ignore[return-value]

    def listen(self, listener: Listener) -> None:
        """Add a bound method as listener for as long as its object lives."""
        if not any(known() == listener for known in self._listeners):
            self._listeners.append(WeakMethod(listener))
        if self._thread is None or not self._thread.is_alive():
            self._beat_on()
            self._thread = threading.Thread(target=self._watch, name="sagaz_lab busy", daemon=True)
            self._thread.start()

    def _beat_on(self) -> None:
        self._beat = time.monotonic()
        if self._listeners and (loop := self._loop()) is not None:
            loop.call_later(BEAT_S, self._beat_on)

    def _watch(self) -> None:
        told = 0.0
        while (loop := self._loop()) is not None and not loop.is_closed():
            del loop
            time.sleep(BEAT_S)
            self._listeners = [known for known in self._listeners if known() is not None]
            if not self._listeners:
                return
            busy_s = time.monotonic() - self._beat
            if busy_s < BUSY_S + BEAT_S:
                told = 0.0
            elif busy_s >= told + REPORT_EVERY_S:
                told = busy_s
                for known in self._listeners:
                    if (listener := known()) is not None:
                        listener(busy_s)
