"""The current params or limits of a trigger, which may change while events flow."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sagaz_lab.model.params import Params, Scalar, same

KEPT_CHANGES = 100


@dataclass(frozen=True, slots=True)
class ParamChange:
    """One change of a param or a limit."""

    at: datetime
    name: str
    old: Scalar
    new: Scalar


class LiveParams:
    """A trigger's params or limits across revisions. `values` is replaced, never mutated.

    A changed value lasts as long as the cell's default is the one that it replaced.
    """

    def __init__(self, trigger: str, defaults: Mapping[str, Scalar]) -> None:
        self._trigger = trigger
        self.defaults = defaults
        self._changed: dict[str, tuple[Scalar, Scalar]] = {}  # the default that it replaced, the value
        self._superseded: list[tuple[str, Scalar, Scalar]] = []  # changes ended by a new default, still to be recorded
        self.history: deque[ParamChange] = deque(maxlen=KEPT_CHANGES)
        self.loaded = False
        self.unsaved = False
        self.values = Params(trigger, defaults)

    @property
    def loading(self) -> bool:
        """Whether the store must still be read; until then nothing may be decided."""
        return bool(self.defaults) and not self.loaded

    def use(self, defaults: Mapping[str, Scalar]) -> None:
        """Take over another revision's defaults."""
        self.defaults = defaults
        self._give_way()
        self._renew()

    def change(self, values: Mapping[str, Scalar], at: float) -> None:
        """Set values that have been checked."""
        for name, new in values.items():
            if not same(old := self.values[name], new):
                self._changed[name] = (self.defaults[name], new)
                self._note(at, name, old, new)
        self._renew()

    def _give_way(self) -> None:
        """Drop changes of a default that no longer exists."""
        defaults = self.defaults
        for name, (default, value) in list(self._changed.items()):
            if name not in defaults or not same(default, defaults[name]):
                del self._changed[name]
                self._superseded.append((name, value, defaults.get(name)))

    def withdraw(self, name: str) -> None:
        """Revert the param to the cell's default."""
        _, value = self._changed.pop(name)
        self._superseded.append((name, value, self.defaults[name]))
        self._renew()

    @property
    def changed(self) -> Mapping[str, Scalar]:
        """The values that differ from the cell's."""
        return {name: value for name, (_, value) in self._changed.items()}

    def note_superseded(self, at: float) -> None:
        """Record that a new default ended a change. The removal of a param is recorded as a change to `None`."""
        superseded, self._superseded = self._superseded, []
        for name, old, new in superseded:
            self._note(at, name, old, new)

    def _note(self, at: float, name: str, old: Scalar, new: Scalar) -> None:
        self.history.append(ParamChange(datetime.fromtimestamp(at, UTC), name, old, new))
        self.unsaved = True

    def _renew(self) -> None:
        values = dict(self.defaults)
        values.update((name, value) for name, (_, value) in self._changed.items())
        self.values = Params(self._trigger, values)

    def restore(self, text: str | None) -> None:
        """Restore the state from `text`."""
        if text is not None:
            kept = json.loads(text)
            changed = {name: (default, value) for name, (default, value) in kept["changed"].items()}
            changes = [ParamChange(datetime.fromisoformat(at), *change) for at, *change in kept["history"]]
            self._changed = changed
            self.history.extend(changes)
        self.loaded = True
        self._give_way()
        self._renew()

    def text(self) -> str:
        """The state, for `restore`."""
        history = [(change.at.isoformat(), change.name, change.old, change.new) for change in self.history]
        return json.dumps({"changed": self._changed, "history": history})
