"""Comparison of two revisions on the same events."""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from sagaz_lab.abc import DecidedOutcomes
from sagaz_lab.model.run import OutcomeKind
from sagaz_lab.runtime.gates.core import COOLING, LIVE_ALREADY
from sagaz_lab.runtime.gates.window_policies import IN_PERIOD

DIFFERENCES = 1000
"""Differences kept: the newest."""

EARLY, EARLY_S = 10_000, 10.0
"""Final decisions of the current revision kept until their events are expected: how many, and for how long."""

Side = Literal["current", "shadow"]
Facts = Mapping[str, Any] | None

_OURS = {COOLING, IN_PERIOD, LIVE_ALREADY}
_PASSING = {"run", "opens_in_s", "closes_in_s"}
"""Facts of our own reasons that always differ: the run, and times relative to now."""

_RUN_ID = re.compile(r"\b[rhe]-[0-9a-f]{8}-\d+\b")
_PLACE = re.compile(r" at 0x[0-9a-fA-F]+")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


class Final(NamedTuple):
    """A revision's final decision on an event; `context` is that of its run."""

    kind: str
    reason: str = ""
    facts: Facts = None
    context: Facts = None


@dataclass(frozen=True, slots=True)
class Difference:
    """An event that the current revision and the shadow decided differently.

    `what` is outcome, reason, facts or context; `details` has the differing facts or context values, as text.
    """

    at: float
    event_id: str
    trigger: str
    current: str
    shadow: str
    what: str
    current_reason: str
    shadow_reason: str
    current_facts: Facts
    shadow_facts: Facts
    details: str


def finals_of(outcomes: DecidedOutcomes) -> Iterator[tuple[str, str, Final]]:
    """The final decisions, each with its trigger and the event's id. Waiting events have none yet."""
    for found in outcomes:
        if found.kind is not OutcomeKind.WAITING:
            context = outcomes.contexts.get(found.run_id or "") if found.kind is OutcomeKind.STARTED else None
            yield found.trigger, found.event_id, Final(found.kind.value, found.reason, found.facts, context)


class _Open:
    """One or more events of one id that both sides have not decided yet; decisions pair in order."""

    __slots__ = ("current", "left", "shadow")

    def __init__(self) -> None:
        self.left = 0
        self.current: list[Final] = []
        self.shadow: list[Final] = []


class Comparison:
    """Counts and keeps differences. `different` counts by (current kind, shadow kind)."""

    def __init__(self) -> None:
        self.seen = self.same = self.waiting = 0
        self.different: Counter[tuple[str, str]] = Counter()
        self.differences: deque[Difference] = deque(maxlen=DIFFERENCES)
        self._open: dict[tuple[str, str], _Open] = {}
        self._early: dict[tuple[str, str], list[tuple[float, Final]]] = {}

    def expect(self, trigger: str, event_id: str, at: float) -> None:
        """Both sides have this event, or will have decided it."""
        self.seen += 1
        self.waiting += 1
        key = (trigger, event_id)
        entry = self._open.get(key)
        if entry is None:
            entry = self._open[key] = _Open()
        entry.left += 1
        early = [one for one in self._early.pop(key, ()) if at - one[0] <= EARLY_S]
        if early:
            self.decided("current", trigger, event_id, early.pop(0)[1], at)
        if early:
            self._early[key] = early

    def decided(self, side: Side, trigger: str, event_id: str, final: Final, at: float) -> None:
        """One side has decided an event. Unexpected ones are from before, unless they are about to be expected."""
        key = (trigger, event_id)
        entry = self._open.get(key)
        if entry is None:
            if side == "current":
                early = self._early.setdefault(key, [])
                early.append((at, final))
                del early[:-DIFFERENCES]
                if len(self._early) > EARLY:
                    for old in list(islice(self._early, EARLY // 10)):
                        del self._early[old]
            return
        mine, others = (entry.current, entry.shadow) if side == "current" else (entry.shadow, entry.current)
        if not others:
            mine.append(final)
            return
        other = others.pop(0)
        current, shadow = (final, other) if side == "current" else (other, final)
        self._compare(trigger, event_id, current, shadow, at)
        self.waiting -= 1
        entry.left -= 1
        if not entry.left:
            del self._open[key]

    def _compare(self, trigger: str, event_id: str, current: Final, shadow: Final, at: float) -> None:
        found = differs(current, shadow)
        if found is None:
            self.same += 1
            return
        what, details = found
        self.different[current.kind, shadow.kind] += 1
        self.differences.append(
            Difference(at, event_id, trigger, current.kind, shadow.kind, what, current.reason, shadow.reason,
                       current.facts, shadow.facts, details)
        )  # fmt: skip


def differs(current: Final, shadow: Final) -> tuple[str, str] | None:
    """The kind of difference and the differing values; None if equal."""
    if current.kind != shadow.kind:
        return "outcome", ""
    if current.kind == OutcomeKind.DUPLICATE:
        return None  # its reason names a run
    if _RUN_ID.sub("", current.reason) != _RUN_ID.sub("", shadow.reason):
        return "reason", ""
    passing = _PASSING if current.reason in _OURS else ()
    if details := _differing(current.facts or {}, shadow.facts or {}, passing):
        return "facts", details
    if details := _differing(current.context or {}, shadow.context or {}):
        return "context", details
    return None


def _differing(current: Mapping[str, Any], shadow: Mapping[str, Any], but_not: Sequence[str] | set[str] = ()) -> str:
    told = []
    for name in dict.fromkeys([*current, *shadow]):
        if name in but_not:
            continue
        if name not in shadow:
            told.append(f"{name}: {_short.repr(current[name])} -> not there")
        elif name not in current:
            told.append(f"{name}: not there -> {_short.repr(shadow[name])}")
        elif not alike(current[name], shadow[name]):
            told.append(f"{name}: {_short.repr(current[name])} -> {_short.repr(shadow[name])}")
    return "; ".join(told)


def alike(one: Any, other: Any) -> bool:
    """Equal as values: tables and arrays by content, objects of a redefined class by attributes."""
    try:
        return _alike(one, other)
    except BaseException:  # noqa: BLE001  the user's `__eq__` may raise anything
        return False


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if type(one) is type(other) and isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if type(one) is type(other) and callable(equals := getattr(one, "equals", None)):
        return bool(equals(other))  # of pandas and Arrow
    equal = one == other
    if isinstance(equal, bool):
        return equal or _same_object(one, other)
    if hasattr(equal, "all"):  # of arrays
        return bool(getattr(one, "shape", ()) == getattr(other, "shape", ()) and equal.all())
    return bool(equal)


def _same_object(one: Any, other: Any) -> bool:
    """Objects without `==`, or of two versions of a class, with equal attributes."""
    if type(one).__qualname__ != type(other).__qualname__ or not hasattr(one, "__dict__"):
        return False
    return _PLACE.sub("", repr(one)) == _PLACE.sub("", repr(other)) and _alike(vars(one), vars(other))
