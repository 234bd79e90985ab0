"""How fast runs may start: GCRA, the leaky bucket as a meter, per key.

A key's only state is its due time: when the next start would be exactly on time. A start that is early by more than
the burst allows waits. Source: ITU-T I.371, "virtual scheduling"; the same in real and in virtual time.
"""

from __future__ import annotations

from sagaz_lab.model.policy import seconds
from sagaz_lab.model.trigger import Gates

KEYS = 1_000_000
"""Due times kept, about 200 bytes each. Beyond this, past ones are dropped, then the oldest."""


class Pace:
    """On average at most one start per `interval_s` and key, with `burst` starts ahead of time.

    Without `keyed` all runs share one pace, whatever key a run may still carry. State from before the pace was keyed
    has the key None.
    """

    __slots__ = ("_due", "_slack_s", "gate", "interval_s", "keyed", "limit", "per_s")

    def __init__(self, gate: str, limit: float, per_s: float, burst: int = 0, *, keyed: bool = False) -> None:
        self._due: dict[str | None, float] = {}
        self.interval_s = per_s / limit
        self.take_over(gate, limit, per_s, burst, keyed=keyed)

    def take_over(self, gate: str, limit: float, per_s: float, burst: int = 0, *, keyed: bool = False) -> None:
        """Apply other numbers. With a faster pace, due times come sooner; they never move later."""
        self.gate = gate
        self.keyed = keyed
        self.limit = limit
        self.per_s = per_s
        faster_s = self.interval_s - per_s / limit
        self.interval_s = per_s / limit
        if faster_s > 0:
            self._due = {key: due - faster_s for key, due in self._due.items()}
        self._slack_s = burst * self.interval_s

    def opens_at(self, key: str | None) -> float:
        """When the next run of this key may start, in the clock's monotonic seconds."""
        return self._due.get(key if self.keyed else None, float("-inf")) - self._slack_s

    def start(self, key: str | None, now: float) -> None:
        """A run of this key starts."""
        key = key if self.keyed else None
        due = self._due.get(key, now)
        self._due[key] = (due if due > now else now) + self.interval_s
        if len(self._due) > KEYS:
            self._forget(now)

    def refund(self, key: str | None) -> None:
        """Undo the last start of this key."""
        key = key if self.keyed else None
        if key in self._due:
            self._due[key] -= self.interval_s

    def forget(self, key: str | None) -> None:
        """Reset this key, or all."""
        if key is None:
            self._due.clear()
        else:
            self._due.pop(key, None)

    def _forget(self, now: float) -> None:
        self._due = {key: due for key, due in self._due.items() if due > now}
        while len(self._due) > KEYS:
            del self._due[next(iter(self._due))]


def pace_of(gates: Gates, before: Pace | None) -> Pace | None:
    """The pace of a trigger's rate or throttle; None without either. An earlier pace is changed in place."""
    if gates.rate_limit_per_second is not None:
        numbers, keyed = ("rate", gates.rate_limit_per_second, 1.0, 0), False
    elif (throttle := gates.throttle) is not None:
        per_s = seconds(throttle.per, "Throttle per")
        numbers, keyed = ("throttle", throttle.limit, per_s, throttle.burst), throttle.key is not None
    else:
        return None
    if before is None:
        return Pace(*numbers, keyed=keyed)
    before.take_over(*numbers, keyed=keyed)
    return before
