"""A bounded pool of worker threads for plain functions; a thread that does not return is replaced."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

THREADS = 64
"""Concurrent plain `def` actions; more wait. Enough for blocking I/O, few enough for memory."""

WAITED_S = 5.0
"""An action that waits this long for a thread is reported."""

AGAIN_S = 60.0
"""Minimum interval between such reports."""


Report = Callable[[str, str], None]
"""Takes the kind and text of a background problem."""


class Call:
    """A function call in a thread. `begun_at` (monotonic seconds) is None until it begins.

    `waits`: no thread was free for it.
    """

    __slots__ = ("args", "asked_at", "begun_at", "context", "function", "future", "label", "loop", "lost", "over",
                 "waits", "withdrawn")  # fmt: skip

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], label: str, context: Context) -> None:
        self.function = function
        self.args = args
        self.label = label
        self.context = context
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.asked_at = time.monotonic()
        self.begun_at: float | None = None
        self.waits = self.withdrawn = self.lost = self.over = False

    def run(self) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = self.context.run(self.function, *self.args)
        except (StopIteration, GeneratorExit) as stop:  # a future cannot raise these as they are
            error = RuntimeError(f"it raised {stop!r}")
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: no waiter is left
            self.loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if not self.future.done():
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)


class Threads:
    """Up to `limit` working daemon threads: an hour's training does not delay the process's exit.

    `report` takes reports on calls that hold up others.
    """

    def __init__(self, limit: int = THREADS, report: Report | None = None) -> None:
        self.limit = limit
        self._report = report
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._running: set[Call] = set()
        self._queued = self._idle = self._alive = 0
        self._lock = Lock()
        self._told_at = -AGAIN_S

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], label: str) -> Call:
        """Call it in a thread. `label` names it in reports."""
        call = Call(function, args, label, copy_context())
        with self._lock:
            self._queued += 1
            call.waits = not self._has_thread()
        self._calls.put(call)
        if call.waits:
            call.loop.call_later(WAITED_S, self._tell_if_waiting, call)
        return call

    def withdraw(self, call: Call) -> bool:
        """Withdraw a call that still waits for a thread; returns whether it did."""
        with self._lock:
            call.withdrawn = call.waits and call.begun_at is None
            return call.withdrawn

    def replace(self, call: Call) -> None:
        """Replace the thread of a stopped call that has not returned."""
        with self._lock:
            if call.over or call.lost:
                return
            call.lost = True
            self._running.discard(call)
            self._alive -= 1
            self._has_thread()
        self._report_call(
            f"stuck:{call.label}",
            f"{call.label} was stopped but its thread has not returned; another thread replaces it. Make it "
            "return once ctx.cancelled is true, and set time-outs on its calls",
        )

    def close(self) -> None:
        with self._lock:
            alive = self._alive
        for _ in range(alive):
            self._calls.put(None)

    def _has_thread(self) -> bool:
        """Whether there is a thread for each queued call. Requires the lock."""
        if self._queued > self._idle and self._alive < self.limit:
            self._alive += 1
            self._idle += 1
            Thread(target=self._work, name=f"sagaz-lab-{self._alive}", daemon=True).start()
        return self._queued <= self._idle

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            with self._lock:
                self._queued -= 1
                self._idle -= 1
                if not call.withdrawn:
                    call.begun_at = time.monotonic()
                    self._running.add(call)
            if not call.withdrawn:
                call.run()
            with self._lock:
                call.over = True
                self._running.discard(call)
                if call.lost:
                    return
                self._idle += 1
            del call  # it would keep the action's result alive

    def _tell_if_waiting(self, call: Call) -> None:
        if call.begun_at is not None or call.withdrawn or time.monotonic() - self._told_at < AGAIN_S:
            return
        self._told_at = time.monotonic()
        with self._lock:
            waiting, running = max(1, self._queued - self._idle), list(self._running)
        label, count = Counter(one.label for one in running).most_common(1)[0] if running else ("others", 0)
        longest_s = max((time.monotonic() - (one.begun_at or self._told_at) for one in running), default=0.0)
        self._report_call(
            "threads",
            f"{waiting} plain `def` step(s) wait for a thread, {call.label} for {WAITED_S:g} s: all {self.limit} are "
            f"taken, {count} by {label}, the longest for {longest_s:.0f} s; set timeout_s= on steps that may hang, or "
            "raise Lab(threads=)",
        )

    def _report_call(self, kind: str, text: str) -> None:
        if self._report is not None:
            self._report(kind, text)
