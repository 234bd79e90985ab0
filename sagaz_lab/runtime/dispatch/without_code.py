"""Events in windows of triggers that are not registered: they stay stored, and are decided when their trigger is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from sagaz_lab.runtime.triggers.compiled import TriggerState

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher


class WithoutCode:
    """Which triggers the store has such events of."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._names: set[str] = set()

    def look(self, waiting: Mapping[str, int]) -> Mapping[str, int]:
        """Those of the waiting events, by trigger, that wait for one that is not registered; each is reported."""
        states = self._dispatcher.states
        found = {name: n for name, n in waiting.items() if name not in states or states[name].removed}
        self._names = set(found)
        for name, n in found.items():
            self.tell(name, n, ", or repair its name in the table waiting_events if that is damaged")
        return found

    def tell(self, name: str, events: int, more: str = "") -> None:
        """So many events wait for this trigger."""
        if events:
            text = f"{events} event{'s'[: events != 1]} in windows wait for the code of trigger {name}: define it{more}"
            self._dispatcher.report(f"needs_code:{name}", text)

    async def restore(self, states: Iterable[TriggerState]) -> None:
        """Take up what waits for those of the triggers that are registered now."""
        if found := [state for state in states if state.name in self._names]:
            self._names.difference_update(state.name for state in found)
            await self._dispatcher.window_timers.restore(found)
