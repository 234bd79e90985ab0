"""Gives each trial of an action the context that the first one had."""

from __future__ import annotations

from typing import Any

from sagaz_lab.model.apart import apart
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.run import Loadable

_GONE = object()


class ContextBefore:
    """The context before an action. `sets` are the keys set by its current trial."""

    __slots__ = ("_changed", "_values", "sets")

    def __init__(self, ctx: SagaContext) -> None:
        # The value the trial gets, and a private copy.
        self._values = {key: (value, apart(value)) for key, value in dict.items(ctx)}
        self._changed = frozenset(ctx.changed or ())
        self.sets: set[str] = set()

    def restore(self, ctx: SagaContext) -> None:
        """Undo a trial's changes; changes by other actions stay."""
        for key, (given, kept) in self._values.items():
            now = dict.get(ctx, key, _GONE)
            if now is given and kept is given:
                continue  # immutable
            if now is given or now is _GONE or key in self.sets or isinstance(given, Loadable):
                own: Any = apart(kept)
                self._values[key] = own, kept
                dict.__setitem__(ctx, key, own)
        for key in self.sets.difference(self._values):
            dict.pop(ctx, key, None)
        if ctx.changed:
            ctx.changed -= self.sets.difference(self._changed)
        self.sets.clear()
        ctx.forget_event()
