"""Events in windows of unregistered triggers: stored until their trigger is registered."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.triggers import Triggers


class WithoutCode:
    """The triggers with such events."""

    def __init__(self, triggers: Triggers, report: Report) -> None:
        self._triggers = triggers
        self._report = report
        self._names: set[str] = set()

    def look(self, waiting: Mapping[str, int]) -> Mapping[str, int]:
        """The waiting events, by trigger, whose trigger is not registered; each trigger is reported."""
        states = self._triggers.states
        found = {name: n for name, n in waiting.items() if name not in states or states[name].removed}
        self._names = set(found)
        for name, n in found.items():
            self.report(name, n, ", or repair its name in the table waiting_events if that is damaged")
        return found

    def report(self, name: str, events: int, more: str = "") -> None:
        """Report this many waiting events."""
        if events:
            text = f"{events} event{'s'[: events != 1]} in windows wait for the code of trigger {name}: define it{more}"
            self._report(f"needs_code:{name}", text)

    def take(self, names: Collection[str]) -> Collection[str]:
        """The given triggers, now registered, that have such events."""
        found = self._names.intersection(names)
        self._names -= found
        return found
