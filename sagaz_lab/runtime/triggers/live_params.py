"""The params or the limits of one trigger as they are now: changed while events flow."""

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
    """What a trigger's params, or its limits, are, from one revision to the next. `values` is swapped, never changed.

    A changed value holds as long as the default, which the cell gives, is the one that it was changed from.
    """

    def __init__(self, trigger: str, defaults: Mapping[str, Scalar]) -> None:
        self._trigger = trigger
        self.defaults = defaults
        self._changed: dict[str, tuple[Scalar, Scalar]] = {}  # the default that it was changed from, the value
        self._superseded: list[tuple[str, Scalar, Scalar]] = []  # what another default has ended, to be noted
        self.history: deque[ParamChange] = deque(maxlen=KEPT_CHANGES)
        self.loaded = False
        self.unsaved = False
        self.values = Params(trigger, defaults)

    @property
    def loading(self) -> bool:
        """Whether the store is still to be asked: until then nothing may be decided."""
        return bool(self.defaults) and not self.loaded

    def use(self, defaults: Mapping[str, Scalar]) -> None:
        """Go on with another revision's."""
        self.defaults = defaults
        self._give_way()
        self._renew()

    def change(self, values: Mapping[str, Scalar], at: float) -> None:
        """The values have been checked."""
        for name, new in values.items():
            if not same(old := self.values[name], new):
                self._changed[name] = (self.defaults[name], new)
                self._note(at, name, old, new)
        self._renew()

    def _give_way(self) -> None:
        """Forget what was changed from a default that is no more."""
        defaults = self.defaults
        for name, (default, value) in list(self._changed.items()):
            if name not in defaults or not same(default, defaults[name]):
                del self._changed[name]
                self._superseded.append((name, value, defaults.get(name)))

    def withdraw(self, name: str) -> None:
        """What it was changed to gives way to what the cell says now."""
        _, value = self._changed.pop(name)
        self._superseded.append((name, value, self.defaults[name]))
        self._renew()

    @property
    def changed(self) -> Mapping[str, Scalar]:
        """The values that are not the cell's."""
        return {name: value for name, (_, value) in self._changed.items()}

    def note_superseded(self, at: float) -> None:
        """A new default that has ended a change is a change as well; so is the end of the param, to `None`."""
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
        """Take up what `text` has kept."""
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
        """What `restore` takes."""
        history = [(change.at.isoformat(), change.name, change.old, change.new) for change in self.history]
        return json.dumps({"changed": self._changed, "history": history})
