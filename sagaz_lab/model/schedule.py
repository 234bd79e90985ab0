"""Cron schedules: the moments of a schedule in any time zone.

croniter evaluates expressions; this module handles clock changes. If the hour field is a wildcard (`*` or `*/n`),
ticks continue in real time: a repeated hour has its ticks twice, a skipped hour has none. Otherwise a time skipped in
spring fires once, right after the gap, and a repeated time in autumn fires at its first occurrence.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

_SPAN_YEARS = 50  # the fifth Monday of February comes once in 28 years, and in 40 around 2100

_SOME_DAY = datetime(2000, 1, 1)  # noqa: DTZ001  croniter walks naive times

_DAY, _WEEKDAY = 2, 4


def check(expression: Any) -> str | None:
    """The problem with a schedule, or None."""
    if not isinstance(expression, str):
        return "must be a cron expression as a string"
    fields = expression.split()
    if any(field.upper().startswith("R") for field in fields) or "@reboot" in expression:
        return "must not be random or depend on the start time: two processes would disagree"
    if not expression.startswith("@") and len(fields) not in (5, 6):
        return "must have 5 fields (minute hour day month weekday) or 6 (then seconds)"
    try:
        croniter.expand(expression, strict=True)  # strict: no dates that never come, such as 31 February
        walk = _walk(expression, _SOME_DAY)
    except Exception as error:  # noqa: BLE001  any error of croniter is due to the expression
        return f"is not a cron schedule: {(str(error) or type(error).__name__).splitlines()[0]}"
    if _names_both_days(walk):
        return (
            "must not combine days of the month with weekdays such as 'mon#2' or 'L5', nor weekdays with a day "
            "such as '15W': one of the two would be ignored; write '*' in its place"
        )
    try:
        walk.get_next(datetime)
    except CroniterError:
        return "never fires: no such day exists"
    return None


def _names_both_days(walk: croniter) -> bool:
    """Whether croniter would ignore one or both of the day fields."""
    one_of_a_kind = walk.nth_weekday_of_month or walk.nearest_weekday
    return bool(one_of_a_kind) and walk.expanded[_DAY][0] != "*" and walk.expanded[_WEEKDAY][0] != "*"


def check_zone(name: Any) -> str | None:
    """The problem with a time zone's name, or None."""
    try:
        ZoneInfo(name)
    except (KeyError, OSError, TypeError, ValueError):
        return "must be an IANA time zone such as 'Europe/Berlin'"
    return None


def ticks(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The schedule's ticks after `after`, ascending, aware, in UTC."""
    fields = expression.split()
    wild = fields == ["@hourly"] or (len(fields) > 1 and fields[1].startswith("*"))
    walk = _by_real_time if wild else _by_wall_clock
    return walk(expression, ZoneInfo(zone), after.astimezone(UTC))


def _by_wall_clock(expression: str, place: ZoneInfo, last: datetime) -> Iterator[datetime]:
    # croniter walks naive wall-clock times without gaps; starting a day earlier finds a tick that a gap moved.
    back = timedelta(days=1) if _change(place, last - timedelta(days=1), last) else timedelta(0)
    for wall in _wall_times(expression, _shown(last, place) - back):
        tick = _in_utc(wall, place)
        if tick > last:
            last = tick
            yield tick


def _by_real_time(expression: str, place: ZoneInfo, last: datetime) -> Iterator[datetime]:
    since = looked = last
    while True:
        offset = _offset(looked, place)
        for wall in _wall_times(expression, (since + offset).replace(tzinfo=None)):
            tick = (wall - offset).replace(tzinfo=UTC)
            if change := _change(place, looked, tick):
                # The offset changes here: a tick may fall on the very moment of the change. If the next one is years
                # away, only the offset around it counts.
                near = tick - timedelta(days=2)
                since, looked = (near, near) if near > change else (change - timedelta(seconds=1), change)
                break
            looked = tick
            yield tick


def _wall_times(expression: str, after: datetime) -> Iterator[datetime]:
    walk = _walk(expression, after)
    while True:
        yield walk.get_next(datetime)


def _walk(expression: str, after: datetime) -> croniter:
    walk = copy(_parsed(expression))
    walk.set_current(after)
    return walk


@lru_cache(maxsize=1000)
def _parsed(expression: str) -> croniter:
    """Cached: parsing costs as much as many ticks."""
    return croniter(expression, _SOME_DAY, max_years_between_matches=_SPAN_YEARS)


def _offset(moment: datetime, place: ZoneInfo) -> timedelta:
    return moment.astimezone(place).utcoffset() or timedelta(0)


def _shown(moment: datetime, place: ZoneInfo) -> datetime:
    return moment.astimezone(place).replace(tzinfo=None)


def _change(place: ZoneInfo, start: datetime, end: datetime) -> datetime | None:
    """The first moment after `start`, up to `end`, with a different UTC offset."""
    offset = _offset(start, place)
    low = start
    while low < end:
        high = min(low + timedelta(days=1), end)
        if _offset(high, place) != offset:
            while high - low > timedelta(seconds=1):
                middle = low + (high - low) / 2
                low, high = (middle, high) if _offset(middle, place) == offset else (low, middle)
            return high.replace(microsecond=0)
        low = high
    return None


def _in_utc(wall: datetime, place: ZoneInfo) -> datetime:
    """The first moment at which the clock shows `wall`, or the end of the gap that contains it."""
    moment = wall.replace(tzinfo=place, fold=0).astimezone(UTC)
    if _shown(moment, place) == wall:
        return moment
    # In a gap, fold=0 applies the offset before it, which lands as far after the gap as `wall` lies inside it.
    return _change(place, moment - timedelta(days=1), moment) or moment
