"""Cron schedules: which wall-clock times a schedule means, in any time zone.

croniter walks expressions; what a changing clock does to them is decided here. A time that the clock
skips in spring fires once, right after the gap; one that it shows twice in autumn fires at the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

_SPAN_YEARS = 8  # a leap-day schedule that meets 2100 waits eight years


def check(expression: Any) -> str | None:
    """What is wrong with a schedule, or None."""
    if not isinstance(expression, str):
        return "must be a cron expression in a text"
    fields = expression.split()
    if any(field.upper().startswith("R") for field in fields) or "@reboot" in expression:
        return "must not be random or depend on a start: two processes would disagree"
    if not expression.startswith("@") and len(fields) not in (5, 6):
        return "must have 5 fields (minute hour day month weekday) or 6 (then seconds)"
    try:
        # `strict` refuses dates that never come, such as 31 February.
        croniter(expression, datetime(2024, 1, 1, tzinfo=UTC), strict=True, max_years_between_matches=_SPAN_YEARS)
    except (CroniterError, KeyError, ValueError) as error:
        return f"is no cron schedule: {error}"
    return None


def check_zone(name: Any) -> str | None:
    """What is wrong with a time zone's name, or None."""
    try:
        ZoneInfo(name)
    except Exception:
        return "must be an IANA time zone such as 'Europe/Berlin'"
    return None


def ticks(expression: str, zone: str, after: datetime) -> Iterator[datetime]:
    """The schedule's times after `after`, ascending, aware, in UTC."""
    place = ZoneInfo(zone)
    last = after.astimezone(UTC)
    # croniter walks naive wall-clock time, which knows no gaps; one day back finds a tick that a gap moved.
    start = last.astimezone(place).replace(tzinfo=None) - timedelta(days=1)
    walk = croniter(expression, start, ret_type=datetime, max_years_between_matches=_SPAN_YEARS)
    while True:
        tick = _in_utc(walk.get_next(datetime), place)
        if tick > last:
            last = tick
            yield tick


def _in_utc(wall: datetime, place: ZoneInfo) -> datetime:
    """The first moment at which the clock shows `wall`, or the end of the gap that swallows it."""
    moment = wall.replace(tzinfo=place, fold=0).astimezone(UTC)
    shown = moment.astimezone(place).replace(tzinfo=None)
    if shown == wall:
        return moment
    # In a gap fold=0 reads `wall` with the offset before it, which lands as far behind the gap as
    # `wall` is into it; the gap's end is found by halving.
    before, behind = moment - timedelta(days=1), moment
    offset = before.astimezone(place).utcoffset()
    while behind - before > timedelta(seconds=1):
        middle = before + (behind - before) / 2
        if middle.astimezone(place).utcoffset() == offset:
            before = middle
        else:
            behind = middle
    return behind.replace(microsecond=0)
