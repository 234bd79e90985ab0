"""KeyCooldowns: after a run of a key has begun, no other of that key starts for a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

KEYS = 1_000_000
"""KeyCooldowns that are kept; beyond it those that are over go."""


class Cooldown(NamedTuple):
    """Until when the key is taken, and by which run."""

    until: float
    run_id: str


class KeyCooldowns:
    """By key. `known` says that those of the store are here."""

    __slots__ = ("_by_key", "_sweep_at", "known")

    def __init__(self) -> None:
        self._by_key: dict[str, Cooldown] = {}
        self._sweep_at = KEYS
        self.known = False

    def learn(self, found: Iterable[tuple[str, Cooldown]]) -> None:
        """What the store has; what began here since is newer."""
        self._by_key = {**dict(found), **self._by_key}
        self.known = True

    def of(self, key: str, now: float) -> Cooldown | None:
        """The cooldown of this key, unless it is over."""
        found = self._by_key.get(key)
        return found if found is not None and found.until > now else None

    def take(self, key: str, until: float, run_id: str, now: float) -> None:
        """The run begins. Whatever this key had is over, or the run's own."""
        self._by_key[key] = Cooldown(until, run_id)
        if len(self._by_key) > self._sweep_at:
            self._by_key = {key: it for key, it in self._by_key.items() if it.until > now}
            self._sweep_at = max(KEYS, 2 * len(self._by_key))

    def drop(self, key: str, run_id: str) -> None:
        """The run has not begun after all."""
        if (found := self._by_key.get(key)) is not None and found.run_id == run_id:
            del self._by_key[key]

    def forget(self, key: str | None) -> None:
        """Let this key, or all, begin anew."""
        if key is None:
            self._by_key.clear()
        else:
            self._by_key.pop(key, None)
