"""Events in windows of triggers that are not registered: they stay stored, and are decided when their trigger is."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.triggers import Triggers


class WithoutCode:
    """Which triggers the store has such events of."""

    def __init__(self, triggers: Triggers, report: Report) -> None:
        self._triggers = triggers
        self._report = report
        self._names: set[str] = set()

    def look(self, waiting: Mapping[str, int]) -> Mapping[str, int]:
        """Those of the waiting events, by trigger, that wait for one that is not registered; each is reported."""
        states = self._triggers.states
        found = {name: n for name, n in waiting.items() if name not in states or states[name].removed}
        self._names = set(found)
        for name, n in found.items():
            self.tell(name, n, ", or repair its name in the table waiting_events if that is damaged")
        return found

    def tell(self, name: str, events: int, more: str = "") -> None:
        """So many events wait for this trigger."""
        if events:
            text = f"{events} event{'s'[: events != 1]} in windows wait for the code of trigger {name}: define it{more}"
            self._report(f"needs_code:{name}", text)

    def take(self, names: Collection[str]) -> Collection[str]:
        """Those of these triggers that such events wait for; they are registered now."""
        found = self._names.intersection(names)
        self._names -= found
        return found
