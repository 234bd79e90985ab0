"""Problems without a caller to raise to: logged, kept for the status, passed to listeners."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from functools import partial
from threading import Lock
from typing import Any

from sagaz_lab.model.awaiting import is_awaitable
from sagaz_lab.model.inside import outside
from sagaz_lab.model.stopping import UserCode
from sagaz_lab.texts import masked, printable

logger = logging.getLogger("sagaz_lab")

KEPT = 100
"""Kinds of problem kept, each with its last text; the oldest are dropped first."""

Listener = Callable[[str, str], Any]
"""Called with the kind and the text of a problem; sync or async."""


class Reports:
    """Problems by kind. Thread-safe."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._kept: dict[str, tuple[str, int]] = {}
        self._lock = Lock()
        self._waiting: set[asyncio.Task[None]] = set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Returns a function that removes the listener."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def tell(self, kind: str, text: str) -> None:
        """Masks credentials in the text and escapes terminal control characters."""
        text = printable(masked(text), lines=True)
        with self._lock:
            count = self._kept.pop(kind, ("", 0))[1] + 1
            self._kept[kind] = (text, count)
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        logger.warning("%s", text)
        context = outside()
        for listener in list(self._listeners):
            try:
                answer = context.run(listener, kind, text)
                if is_awaitable(answer):
                    self._wait_for(answer, context)
            except BaseException:  # a listener must not make the problem worse
                logger.exception("a listener to reports failed")

    def _wait_for(self, answer: Any, context: Context) -> None:
        """On this thread's loop, or on one of its own."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(_heard(answer))
            return
        task = loop.create_task(_heard(answer), name="listener to reports", context=context)
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    def texts(self) -> list[str]:
        """The last text of each kind, newest last, with the number of repetitions."""
        with self._lock:
            kept = list(self._kept.values())
        return [text if count == 1 else f"{text} (and {count - 1} like it)" for text, count in kept]


async def _heard(answer: Any) -> None:
    code = UserCode()
    try:
        await code.awaited(answer)
    except BaseException as error:
        if code.ends_by(error):
            raise
        logger.exception("a listener to reports failed")
