"""Cooldowns: after a run of a key has begun, no other run of that key starts for a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

KEYS = 1_000_000
"""Cooldowns kept; beyond this, expired ones are dropped."""


class Cooldown(NamedTuple):
    """Until when the key is taken, and by which run."""

    until: float
    run_id: str


class KeyCooldowns:
    """Cooldowns by key. `known`: those of the store are loaded."""

    __slots__ = ("_by_key", "_sweep_at", "known")

    def __init__(self) -> None:
        self._by_key: dict[str, Cooldown] = {}
        self._sweep_at = KEYS
        self.known = False

    def learn(self, found: Iterable[tuple[str, Cooldown]]) -> None:
        """Add the stored cooldowns; newer ones of this process win."""
        self._by_key = {**dict(found), **self._by_key}
        self.known = True

    def of(self, key: str, now: float) -> Cooldown | None:
        """The key's active cooldown, if any."""
        found = self._by_key.get(key)
        return found if found is not None and found.until > now else None

    def take(self, key: str, until: float, run_id: str, now: float) -> None:
        """The run begins. Any earlier cooldown of the key has expired or is the run's own."""
        self._by_key[key] = Cooldown(until, run_id)
        if len(self._by_key) > self._sweep_at:
            self._by_key = {key: it for key, it in self._by_key.items() if it.until > now}
            self._sweep_at = max(KEYS, 2 * len(self._by_key))

    def drop(self, key: str, run_id: str) -> None:
        """The run has not begun after all."""
        if (found := self._by_key.get(key)) is not None and found.run_id == run_id:
            del self._by_key[key]

    def forget(self, key: str | None) -> None:
        """Reset this key, or all."""
        if key is None:
            self._by_key.clear()
        else:
            self._by_key.pop(key, None)
