"""The cooldowns of the memory store."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from sagaz_lab.abc import Refusal
from sagaz_lab.stores.memory.runs import MemoryRun

COOLDOWNS = 1_000_000
"""Maximum live cooldowns per trigger; beyond it the oldest are dropped."""


class Cooldowns:
    """The end and the run of each cooldown, by trigger and key."""

    def __init__(self, runs: Mapping[str, MemoryRun]) -> None:
        self._runs = runs
        self._by_trigger: dict[str, dict[str, tuple[float, str]]] = {}

    def refusal(self, trigger: str, key: str, at: float) -> Refusal | None:
        """The refusal at this time; None if the key is free."""
        until, run_id = self._by_trigger.get(trigger, {}).get(key, (at, ""))
        if until <= at:
            return None
        run = self._runs.get(run_id)
        return Refusal(run_id, None if run is None else run.status, cooling_until=until)

    def refusals(self, trigger: str, at: float) -> dict[str, Refusal]:
        """The refusals of all keys taken at this time."""
        found = ((key, self.refusal(trigger, key, at)) for key in self._by_trigger.get(trigger, {}))
        return {key: refusal for key, refusal in found if refusal is not None}

    def take(self, trigger: str, run_id: str, cooldown: tuple[str, float], at: float) -> None:
        cooling = self._by_trigger.setdefault(trigger, {})
        key, until = cooldown
        cooling.pop(key, None)
        cooling[key] = (until, run_id)
        # A trigger's cooldowns end roughly in the order they began: dropping up to two per new one removes the ended.
        for oldest in list(islice(cooling, 2)):
            if cooling[oldest][0] <= at or len(cooling) > COOLDOWNS:
                del cooling[oldest]

    def leave(self, trigger: str, key: str, run_id: str) -> None:
        """Free the run's key."""
        cooling = self._by_trigger.get(trigger, {})
        if key in cooling and cooling[key][1] == run_id:
            del cooling[key]

    def cut(self, started_at: Mapping[str, float], now: float) -> int:
        """Make the cooldowns of these runs last their length from now. Returns how many."""
        count = 0
        for keys in self._by_trigger.values():
            for key, (until, run_id) in list(keys.items()):
                if run_id in started_at and until > now:
                    keys[key] = (now + until - started_at[run_id], run_id)
                    count += 1
        return count

    def forget(self, trigger: str, key: str | None) -> int:
        """Free one or all; returns how many."""
        if key is None:
            return len(self._by_trigger.pop(trigger, {}))
        return int(self._by_trigger.get(trigger, {}).pop(key, None) is not None)
