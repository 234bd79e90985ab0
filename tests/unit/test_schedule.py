"""Schedules against clocks that change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_lab.model.schedule import check, check_zone, ticks

MINUTE = timedelta(minutes=1)
CHANGES = [
    ("Europe/Berlin", datetime(2024, 3, 31, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2024, 10, 27, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2024, 3, 10, 7, tzinfo=UTC)),
    ("America/New_York", datetime(2024, 11, 3, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2024, 4, 6, 15, tzinfo=UTC)),  # by half an hour
    ("Australia/Lord_Howe", datetime(2024, 10, 5, 15, 30, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, tzinfo=UTC)),  # a whole day skipped
]


def fired(expression: str, zone: str, start: datetime, days: float = 1) -> list[str]:
    """The local times of the ticks."""
    end = start + timedelta(days=days)
    moments = takewhile(lambda tick: tick < end, ticks(expression, zone, start))
    return [f"{moment.astimezone(ZoneInfo(zone)):%d %H:%M %Z}" for moment in moments]


def test_a_time_shown_twice_fires_at_the_first() -> None:
    assert fired("30 2 * * *", "Europe/Berlin", datetime(2024, 10, 26, 22, tzinfo=UTC), days=2) == [
        "27 02:30 CEST", "28 02:30 CET",
    ]  # fmt: skip


def test_a_skipped_time_fires_once_after_the_gap() -> None:
    assert fired("0,30 2 * * *", "Europe/Berlin", datetime(2024, 3, 30, 23, tzinfo=UTC), days=2) == [
        "31 03:00 CEST", "01 02:00 CEST", "01 02:30 CEST",
    ]  # fmt: skip


def test_a_wildcard_goes_on_through_the_hour_that_is_shown_twice() -> None:
    around = datetime(2024, 10, 26, 23, 59, tzinfo=UTC)
    assert fired("*/30 * * * *", "Europe/Berlin", around, days=1 / 8) == [
        "27 02:00 CEST", "27 02:30 CEST", "27 02:00 CET", "27 02:30 CET", "27 03:00 CET", "27 03:30 CET",
    ]  # fmt: skip


@pytest.mark.parametrize(("zone", "change"), CHANGES[:4])
def test_an_hourly_schedule_never_pauses_and_never_doubles(zone: str, change: datetime) -> None:
    moments = list(islice(ticks("0 * * * *", zone, change - timedelta(hours=30)), 60))
    assert {later - earlier for earlier, later in pairwise(moments)} == {timedelta(hours=1)}


FIELDS = st.sampled_from(["0", "30", "15,45", "*/15", "*/20", "*", "59"])
HOURS = st.sampled_from(["0", "1", "2", "3", "1,2", "0-4", "23", "*", "*/2", "*/3"])


@settings(max_examples=150, deadline=None)
@given(minutes=FIELDS, hours=HOURS, change=st.sampled_from(CHANGES), start_min=st.integers(-1600, 200))
def test_ticks_are_what_a_walk_over_every_minute_finds(
    minutes: str, hours: str, change: tuple[str, datetime], start_min: int
) -> None:
    zone, moment = change
    start = moment + start_min * MINUTE
    end = start + timedelta(days=2)
    found = list(takewhile(lambda tick: tick <= end, ticks(f"{minutes} {hours} * * *", zone, start)))
    assert found == walked(values(minutes, 60), values(hours, 24), hours.startswith("*"), ZoneInfo(zone), start, end)


def walked(
    minutes: set[int], hours: set[int], wild: bool, zone: ZoneInfo, start: datetime, end: datetime
) -> list[datetime]:
    """The same by looking at the clock every minute."""

    def matches(wall: datetime) -> bool:
        return wall.minute in minutes and wall.hour in hours

    found = []
    moment = start
    while (moment := moment + MINUTE) <= end:
        shown = moment.astimezone(zone)
        wall, before = (
            shown.replace(tzinfo=None, fold=0),
            (moment - MINUTE).astimezone(zone).replace(tzinfo=None, fold=0),
        )
        skipped = [before + n * MINUTE for n in range(1, max(1, int((wall - before) / MINUTE)))]
        due = matches(wall) if wild else (matches(wall) and not shown.fold) or any(map(matches, skipped))
        if due:
            found.append(moment)
    return found


def values(field: str, count: int) -> set[int]:
    if field.startswith("*"):
        return set(range(0, count, int(field[2:] or 1)))
    if "-" in field:
        low, high = map(int, field.split("-"))
        return set(range(low, high + 1))
    return set(map(int, field.split(",")))


@pytest.mark.parametrize("good", ["@daily", "@hourly", "0 0 29 2 *", "*/5 * * * *", "0 12 * * mon-fri", "0 0 * * * 30"])
def test_good_schedules(good: str) -> None:
    assert check(good) is None
    assert next(ticks(good, "Europe/Berlin", datetime(2024, 5, 1, tzinfo=UTC))) > datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("0 0 31 2 *", "not a cron schedule"),
        ("R R * * *", "must not be random"),
        ("0 R(1-3) * * *", "must not be random"),
        ("@reboot", "must not be random"),
        ("@fortnightly", "not a cron schedule"),
        ("61 * * * *", "not a cron schedule"),
        ("* * *", "must have 5 fields"),
        ("", "must have 5 fields"),
        (5, "must be a cron expression"),
    ],
)
def test_bad_schedules_say_why(bad: object, why: str) -> None:
    assert why in (check(bad) or "")


def test_zones_are_checked() -> None:
    assert check_zone("Australia/Lord_Howe") is None
    for bad in ("Berlin", "../etc/passwd", "Europe", "", None, 3):
        assert "IANA" in (check_zone(bad) or ""), bad
