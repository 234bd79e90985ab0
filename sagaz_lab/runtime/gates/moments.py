"""Moments: the time for gates, retries and windows. It never goes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sagaz_lab.abc import Clock

ROUNDING_S = 1e-6
"""Tolerance in seconds: a float of seconds since the epoch is exact to a quarter of it."""


class Moments:
    """A monotonic clock over another. `now` is the wall clock if that is ahead, as after a laptop's sleep: a wall clock
    that is set forward counts as time that has passed.

    Otherwise it is the last moment plus the time passed since: a wall clock that is set back changes no duration.
    """

    __slots__ = ("_ahead_s", "_monotonic", "_wall", "monotonic", "sleep", "wall")

    def __init__(self, clock: Clock) -> None:
        self.wall = clock
        self.monotonic: Callable[[], float] = clock.monotonic
        self.sleep = clock.sleep
        self._wall, self._monotonic = clock.now, clock.monotonic
        self._ahead_s = clock.now() - clock.monotonic()

    @classmethod
    def of(cls, clock: Clock) -> Moments:
        return clock if isinstance(clock, Moments) else cls(clock)

    def now(self) -> float:
        """Seconds since the epoch."""
        wall, passed = self._wall(), self._monotonic()
        if wall > passed + self._ahead_s:
            self._ahead_s = wall - passed
            return wall
        return passed + self._ahead_s

    def reach(self, at: float) -> None:
        """This moment has come, up to rounding: `now` is never before it again."""
        while (left_s := at - self.now()) > 0:
            self._ahead_s += max(left_s, ROUNDING_S / 10)

    def shown(self) -> datetime:
        """The wall-clock time."""
        return datetime.fromtimestamp(self._wall(), UTC)
