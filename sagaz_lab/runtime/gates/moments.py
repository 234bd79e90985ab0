"""Moments: the time by which gates, retries and windows go. It never goes back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sagaz_lab.abc import Clock

ROUNDING_S = 1e-6
"""A moment that is no further away has come: seconds since the epoch are exact to a quarter of it."""


class Moments:
    """A clock over another. `now` is the wall clock where that is ahead of all before, as after a laptop's sleep: a
    wall clock that is put forward counts as time that has passed.

    Else it is the last moment plus the time that has passed since: a wall clock that is put back changes no duration.
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
        """This moment has come, but for a rounding: `now` is not before it any more."""
        while (left_s := at - self.now()) > 0:
            self._ahead_s += max(left_s, ROUNDING_S / 10)

    def shown(self) -> datetime:
        """The time on the wall."""
        return datetime.fromtimestamp(self._wall(), UTC)
