"""The observers of a Lab: they stay when it is stopped and opened again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sagaz_lab.abc import Observer
from sagaz_lab.errors import DefinitionError
from sagaz_lab.runtime.triggers.observers import Observers


class Observing:
    """Adds them to each opening's own."""

    def __init__(self) -> None:
        self._kept: tuple[Observer, ...] = ()
        self._current: Observers | None = None

    def use(self, observers: Observers) -> None:
        """Those of the next opening."""
        self._current = observers
        for observer in self._kept:
            observers.add(observer)

    def add(self, observer: Observer) -> Callable[[], None]:
        """Once, however often it is added. Returns what removes it. Raises `DefinitionError`."""
        if not isinstance(observer, Observer):
            raise DefinitionError(f"observe: {observer!r} must be an Observer (sagaz_lab.abc)")
        self._kept = (*(other for other in self._kept if other is not observer), observer)
        if self._current is not None:
            self._current.add(observer)
        return partial(self._remove, observer)

    def _remove(self, observer: Observer) -> None:
        self._kept = tuple(other for other in self._kept if other is not observer)
        if self._current is not None:
            self._current.remove(observer)
