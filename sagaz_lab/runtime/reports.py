"""Problems that no caller hears of: logged, kept for the status, given to listeners."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from threading import Lock

logger = logging.getLogger("sagaz_lab")

KEPT = 100
"""Kinds of problem that are kept, each with its last text; the oldest go first."""

Listener = Callable[[str, str], None]
"""Called with the kind and the text of a problem."""


class Reports:
    """What went wrong, by kind. Any thread may tell."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._kept: dict[str, tuple[str, int]] = {}
        self._lock = Lock()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Returns what undoes this."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def tell(self, kind: str, text: str) -> None:
        with self._lock:
            count = self._kept.pop(kind, ("", 0))[1] + 1
            self._kept[kind] = (text, count)
            if len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]
        logger.warning("%s", text)
        for listener in list(self._listeners):
            try:
                listener(kind, text)
            except BaseException:  # it is told of what goes wrong, and is not to make it worse
                logger.exception("a listener to reports failed")

    def texts(self) -> list[str]:
        """The last text of each kind, newest last, with the number of those like it."""
        with self._lock:
            kept = list(self._kept.values())
        return [text if count == 1 else f"{text} (and {count - 1} like it)" for text, count in kept]
