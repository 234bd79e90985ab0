"""Leading debounce: the first event passes, and no other until a period has passed without any."""

from __future__ import annotations

from sagaz_lab.model.policy import Debounce, seconds

KEYS = 100_000
"""Periods kept; beyond this, expired ones are dropped, then the oldest."""


Period = tuple[float, float]
"""When it was opened, and when its last event came."""


class Leading:
    """Open periods by key. They end with the process."""

    __slots__ = ("_max_wait_s", "_open", "_period_s", "active")

    def __init__(self) -> None:
        self._open: dict[str | None, Period] = {}
        self.configure(None)

    def configure(self, policy: Debounce | None) -> None:
        """Apply other numbers; open periods stay open."""
        self.active = policy is not None and policy.mode == "leading"
        self._period_s = seconds(policy.period, "period") if policy else 0.0
        self._max_wait_s = seconds(policy.max_wait, "max_wait") if policy else 0.0
        if not self.active:
            self._open.clear()

    def forget(self, key: str | None) -> None:
        """Close the period of this key, or all."""
        if key is None:
            self._open.clear()
        else:
            self._open.pop(key, None)

    def closes_in(self, key: str | None, now: float) -> float:
        """Seconds until the key's period ends; 0 or less if it has."""
        if key not in self._open:
            return 0.0
        opened, last = self._open[key]
        return min(opened + self._max_wait_s, last + self._period_s) - now

    def opens(self, key: str | None, now: float) -> Period | None:
        """An event opens a period or prolongs the current one. Returns the earlier state, for `restore`."""
        before = self._open.get(key)
        self._open[key] = (now, now) if before is None or self.closes_in(key, now) <= 0 else (before[0], now)
        if len(self._open) > KEYS:
            self._open = {key: times for key, times in self._open.items() if self.closes_in(key, now) > 0}
            while len(self._open) > KEYS:
                del self._open[next(iter(self._open))]
        return before

    def restore(self, key: str | None, before: Period | None) -> None:
        """Undo `opens`."""
        if before is None:
            self._open.pop(key, None)
        else:
            self._open[key] = before
