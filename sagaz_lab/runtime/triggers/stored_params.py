"""The params and limits of all triggers, as stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from sagaz_lab.abc import Clock, Store
from sagaz_lab.errors import StoreError, describe
from sagaz_lab.model.limits import checked_limits
from sagaz_lab.model.params import Params, Scalar
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.live_params import LiveParams, ParamChange
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers


class ParamsInStore:
    """Reads and stores the params and limits of all triggers."""

    def __init__(self, store: Store, triggers: Triggers, clock: Clock, report: Report) -> None:
        self._store = store
        self._triggers = triggers
        self._clock = clock
        self._report = report
        self._lock = asyncio.Lock()

    async def load(self, state: TriggerState) -> None:
        """Read the store once; until then the trigger takes no events."""
        async with self._lock:
            for place, live in _kept(state):
                if live.loading:
                    text = await self._store.positions().get(place)
                    try:
                        live.restore(text)
                    except (AttributeError, LookupError, TypeError, ValueError) as error:
                        self._report(place, f"{place}: the stored values cannot be read, so the cell's apply; "
                                     f"change one to replace it ({describe(error)}): {text}")  # fmt: skip
                        live.restore(None)
                    state.show_params()
                    state.wake()

    async def follow(self) -> None:
        """Load new params and store those that another default has ended. Retried later if the store fails."""
        try:
            for state in list(self._triggers.states.values()):
                await self.load(state)
                await self._save(state)
        except StoreError as error:
            self._report("store", f"params: {describe(error)}")

    async def of(self, state: TriggerState, history: bool) -> Params | list[ParamChange]:
        """The current values, or their history, newest first."""
        await self.load(state)
        return list(reversed(state.params.history)) if history else state.params.values

    async def change(self, state: TriggerState, values: Mapping[str, Any]) -> None:
        """Effective at once in this process; returns when stored. Raises `UnknownParam`, `DefinitionError`."""
        await self._change(state, state.params, state.checked_params(values))

    async def limit(self, state: TriggerState, values: Mapping[str, Any]) -> None:
        """`change` for limits. Raises `UnknownName` and `DefinitionError`."""
        await self._change(state, state.limits, checked_limits(state.compiled.trigger, values))

    async def _change(self, state: TriggerState, live: LiveParams, values: Mapping[str, Scalar]) -> None:
        await self.load(state)
        live.note_superseded(self._clock.now())
        live.change(values, self._clock.now())
        state.show_params()
        state.wake()
        await self._save(state)

    async def _save(self, state: TriggerState) -> None:
        async with self._lock:
            for place, live in _kept(state):
                live.note_superseded(self._clock.now())
                if live.unsaved:
                    live.unsaved = False
                    try:
                        await self._store.positions().put(place, live.text())
                    except BaseException:
                        live.unsaved = True
                        raise


def _kept(state: TriggerState) -> Iterator[tuple[str, LiveParams]]:
    yield f"params {state.name}", state.params
    yield f"limits {state.name}", state.limits
