"""The context of a run loaded from the store; artifacts are read on demand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sagaz_lab.abc import StoredRun
from sagaz_lab.model.apart import apart
from sagaz_lab.model.context import SagaContext, fresh_context
from sagaz_lab.model.run import History, Loadable
from sagaz_lab.runtime.gates.pending_run import PendingRun


def context_of(pending: PendingRun) -> SagaContext:
    """A fresh context, or the one that its history describes."""
    history = pending.history
    if history is None:
        values = pending.context
        if pending.attempt == 1 or not any(isinstance(value, Loadable) for value in values.values()):
            own = values if pending.flat else {key: apart(value) for key, value in values.items()}
            return fresh_context(own, pending.run_id, pending.event)
        return LoadingContext(apart({**values}), pending.run_id, pending.event)
    return LoadingContext(apart({**pending.context, **history.changes}), pending.run_id, pending.event)


def stored_context(run: StoredRun) -> SagaContext:
    """The initial values and those set by the finished actions of the current attempt."""
    changes = History.of(run.records, run.attempt).changes
    return LoadingContext(apart({**run.context, **changes}), run.run_id, run.event)


class LoadingContext(SagaContext):
    """A context whose values may still be artifacts. They load on first use and stay loaded."""

    __slots__ = ()

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        if isinstance(value, Loadable):
            value = value.load()
            dict.__setitem__(self, key, value)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        if key not in self:
            return default
        return self[key]

    def values(self) -> Any:
        return [self[key] for key in self]

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def pop(self, key: str, *default: Any) -> Any:
        if key in self:
            self[key] = self[key]
        return dict.pop(self, key, *default)

    def copy(self) -> dict[str, Any]:
        return dict(self.items())

    def __iter__(self) -> Iterator[str]:
        return dict.__iter__(self)
