"""The params of triggers as they are now: changed while events flow, and kept in the store."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sagaz_lab.abc import Clock, Store
from sagaz_lab.errors import StoreError, describe
from sagaz_lab.model.params import Params, Scalar, checked_change, same
from sagaz_lab.model.trigger import Trigger
from sagaz_lab.runtime.tasks import Report

if TYPE_CHECKING:
    from sagaz_lab.runtime.compiled import TriggerState

KEPT_CHANGES = 100


@dataclass(frozen=True, slots=True)
class ParamChange:
    """One change of a param."""

    at: datetime
    name: str
    old: Scalar
    new: Scalar


class LiveParams:
    """What a trigger's params are, from one revision to the next. `values` is swapped and never changed.

    A changed value holds as long as the param's default is the one that it was changed from.
    """

    def __init__(self, trigger: Trigger) -> None:
        self._trigger = trigger
        self._changed: dict[str, tuple[Scalar, Scalar]] = {}  # the default that it was changed from, the value
        self._outdone: list[tuple[str, Scalar, Scalar]] = []  # what another default has ended, to be noted
        self.history: deque[ParamChange] = deque(maxlen=KEPT_CHANGES)
        self.loaded = False
        self.unsaved = False
        self.values = Params(trigger.name, trigger.params)

    @property
    def loading(self) -> bool:
        """Whether the store is still to be asked: until then nothing may be decided."""
        return bool(self._trigger.params) and not self.loaded

    def use(self, trigger: Trigger) -> None:
        """Go on with another revision."""
        self._trigger = trigger
        self._give_way()
        self._renew()

    def change(self, values: Mapping[str, Any], at: float) -> None:
        """Raises `UnknownParam` and `DefinitionError`, and then nothing has changed."""
        defaults = self._trigger.params
        for name, new in checked_change(self._trigger.name, defaults, values).items():
            if not same(old := self.values[name], new):
                self._changed[name] = (defaults[name], new)
                self._note(at, name, old, new)
        self._renew()

    def _give_way(self) -> None:
        """Forget what was changed from a default that is no more."""
        defaults = self._trigger.params
        for name, (default, value) in list(self._changed.items()):
            if name not in defaults or not same(default, defaults[name]):
                del self._changed[name]
                self._outdone.append((name, value, defaults.get(name)))

    def note_outdone(self, at: float) -> None:
        """A new default that has ended a change is a change as well; so is the end of the param, to `None`."""
        outdone, self._outdone = self._outdone, []
        for name, old, new in outdone:
            self._note(at, name, old, new)

    def _note(self, at: float, name: str, old: Scalar, new: Scalar) -> None:
        self.history.append(ParamChange(datetime.fromtimestamp(at, UTC), name, old, new))
        self.unsaved = True

    def _renew(self) -> None:
        values = dict(self._trigger.params)
        values.update((name, value) for name, (_, value) in self._changed.items())
        self.values = Params(self._trigger.name, values)

    def restore(self, text: str | None) -> None:
        """Take up what `text` has kept."""
        if text is not None:
            kept = json.loads(text)
            self._changed = {name: (default, value) for name, (default, value) in kept["changed"].items()}
            changes = [ParamChange(datetime.fromisoformat(at), *change) for at, *change in kept["history"]]
            self.history.extend(changes)
        self.loaded = True
        self._give_way()
        self._renew()

    def text(self) -> str:
        """What `restore` takes."""
        history = [(change.at.isoformat(), change.name, change.old, change.new) for change in self.history]
        return json.dumps({"changed": self._changed, "history": history})


class ParamsInStore:
    """Reads and keeps the params of all triggers."""

    def __init__(self, store: Store, clock: Clock, report: Report) -> None:
        self._store = store
        self._clock = clock
        self._report = report
        self._lock = asyncio.Lock()

    async def load(self, state: TriggerState) -> None:
        """Ask the store, unless it has been asked; only then does the trigger take events."""
        async with self._lock:
            if state.params.loading:
                state.params.restore(await self._store.positions().get(_place(state)))
                state.show_params()
                state.wake()

    async def follow(self, states: Iterable[TriggerState]) -> None:
        """Load what is new and keep what another default has changed. A store that fails is asked again later."""
        try:
            for state in states:
                await self.load(state)
                state.params.note_outdone(self._clock.now())
                await self._save(state)
        except StoreError as error:
            self._report("store", f"params: {describe(error)}")

    async def of(self, state: TriggerState, history: bool) -> Params | list[ParamChange]:
        """As they are now, or how they came to be so, newest first."""
        await self.load(state)
        return list(reversed(state.params.history)) if history else state.params.values

    async def change(self, state: TriggerState, values: Mapping[str, Any]) -> None:
        """At once in this process; returns when it is in the store too."""
        await self.load(state)
        state.params.note_outdone(self._clock.now())
        state.params.change(values, self._clock.now())
        state.show_params()
        await self._save(state)

    async def _save(self, state: TriggerState) -> None:
        async with self._lock:
            if state.params.unsaved:
                state.params.unsaved = False
                try:
                    await self._store.positions().put(_place(state), state.params.text())
                except BaseException:
                    state.params.unsaved = True
                    raise


def _place(state: TriggerState) -> str:
    return f"params {state.name}"
