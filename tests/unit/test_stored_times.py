"""A time comes back as the moment it was, whether its zone has a name that is known where it is read, or none."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from dateutil import tz
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab.stores.values.encoding import decode, encode

AT = datetime(2024, 7, 1, 12)  # noqa: DTZ001  each case gives it a zone
NAMED = timezone(timedelta(hours=2), "CEST")


def kept(value: Any, instead_of: str = "", zone: str = "") -> Any:
    """The value as it comes back, its zone's name replaced by another."""
    text = encode({"at": value}, "a test", "at")
    return decode(text.replace(instead_of.encode(), zone.encode()), None)["at"]


@pytest.mark.parametrize("zone", [NAMED, tz.gettz("Europe/Berlin"), tz.tzoffset("X", 7200), ZoneInfo("Europe/Berlin")])
def test_a_time_of_any_zone_comes_back_with_its_offset(zone: Any) -> None:
    for value in (AT.replace(tzinfo=zone), pd.Timestamp(AT.replace(tzinfo=zone))):
        back = kept(value)
        assert (type(back), back, back.utcoffset()) == (type(value), value, timedelta(hours=2))


@pytest.mark.parametrize("make", [datetime, pd.Timestamp])
def test_a_zone_that_is_not_known_here_leaves_the_moment_and_the_offset(make: Any) -> None:
    value = make(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    back = kept(value, "Europe/Berlin", "Europe/Atlantis")
    assert (back, back.utcoffset()) == (value, timedelta(hours=2))


def test_a_zone_whose_rules_were_changed_meanwhile_keeps_the_moment() -> None:
    value = datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    back = kept(value, "Europe/Berlin", "Asia/Tokyo")  # as if Berlin had taken Tokyo's time
    assert back == value
    assert back.tzinfo == ZoneInfo("Asia/Tokyo")


@given(st.datetimes(timezones=st.timezones()))
def test_a_time_in_a_zone_that_is_known_comes_back_as_it_was(value: datetime) -> None:
    back = kept(value)
    assert (back.replace(tzinfo=None), back.tzinfo, back.fold) == (value.replace(tzinfo=None), value.tzinfo, value.fold)
