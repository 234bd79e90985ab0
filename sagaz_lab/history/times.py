"""Parses the times of recorded events in common formats."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from email.utils import parsedate_to_datetime
from typing import Any

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6))
"""Upper limits of seconds (year 5138), milliseconds and microseconds."""
_FINEST = 1e9


def read_time(value: Any) -> datetime | None:
    """The time, naive or aware; None if it cannot be parsed.

    A string is ISO 8601 (also 20240131 and 20240131235959), RFC 2822, or a number. A number is seconds, milliseconds,
    microseconds or nanoseconds since the epoch, by its magnitude.
    """
    try:
        if isinstance(value, datetime):
            return value
        if isinstance(value, date):
            return datetime.combine(value, time(), UTC)
        if isinstance(value, str):
            return _read_text(value.strip())
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _since_epoch(value)
    except (ValueError, OverflowError, OSError, TypeError, IndexError):
        pass
    return None


def _read_text(text: str) -> datetime:
    if text.isdecimal() and len(text) == 14:
        return datetime.strptime(text, "%Y%m%d%H%M%S")  # noqa: DTZ007  the caller sets the zone
    if _NUMBER.fullmatch(text) and len(text) != 8:
        return _since_epoch(int(text) if text.lstrip("+-").isdecimal() else float(text))
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _since_epoch(value: float) -> datetime:
    unit = next((unit for most, unit in _UNITS if abs(value) < most), _FINEST)
    whole, part = divmod(value, int(unit)) if isinstance(value, int) else (value / unit, 0)
    return (
        datetime.fromtimestamp(whole, UTC).replace(microsecond=part * 10**6 // int(unit))
        if part
        else (datetime.fromtimestamp(whole, UTC))
    )
