"""Canonical key texts: equal values share one text in every process, unequal values never do.

A string is its own key. Any other value is spelled between `⟦` and `⟧`; a string that begins with `⟦` is spelled too,
quoted. So 5 and "5" differ. A text that is too long for an index is spelled as its beginning and its hash. Python's
equality decides, with these exceptions: a bool is not a number, a list equals a tuple, a naive time equals no aware
time, and an Enum is its class and name.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Set
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from numbers import Rational, Real
from typing import Any
from uuid import UUID

from sagaz_lab.errors import DefinitionError, MissingKey, UnfitKey, describe

OPEN, CLOSE = "⟦", "⟧"

KEY_LENGTH = 1024
"""Maximum length of a key's text, in characters."""

INDEXED_BYTES = 1600
"""Maximum size of a text that a store indexes, in UTF-8."""

UNCUT = INDEXED_BYTES // 4
"""A text of so many characters is never larger than that."""

NAME_BYTES = 1000
"""Maximum size of the name of a saga, a trigger or a run, in UTF-8: a store indexes a trigger's name with a key."""

_SHOWN = 40
_DEPTH = 50
_PLAIN = 10**18
"""Integers below this are spelled in decimal; larger ones in hexadecimal, which takes linear time."""


_ATTOSECONDS = {"W": 604800 * 10**18, "D": 86400 * 10**18, "h": 3600 * 10**18, "m": 60 * 10**18, "s": 10**18,
                "ms": 10**15, "us": 10**12, "ns": 10**9, "ps": 10**6, "fs": 1000, "as": 1}  # fmt: skip
"""NumPy's timedelta units of fixed length."""


def key_text(value: Any) -> str:
    """The canonical text of a key.

    Raises `MissingKey` for a missing or too long value, `UnfitKey` for a type without a canonical text.
    """
    kind = type(value)
    if kind is str and value and value[0] != OPEN:
        text: str = value
    elif kind is int and -_PLAIN < value < _PLAIN:
        return f"{OPEN}{value}{CLOSE}"
    else:
        text = _checked(value)
    if len(text) > KEY_LENGTH:
        raise MissingKey(f"is {len(text)} characters long; {KEY_LENGTH} are allowed")
    return text if len(text) <= UNCUT else indexable(text)


def indexable(text: str) -> str:
    """The text, or if it exceeds `INDEXED_BYTES` its beginning and its hash, which stand for it."""
    encoded = text.encode("utf-8", "surrogatepass")
    if len(encoded) <= INDEXED_BYTES:
        return text
    return f"{OPEN}cut {_quoted(text[:_SHOWN])} {hashlib.sha256(encoded).hexdigest()}{CLOSE}"


def refuse_long_name(what: str, name: str) -> None:
    """Raises `DefinitionError` for a name that exceeds `NAME_BYTES`."""
    if (size := len(name.encode("utf-8", "surrogatepass"))) > NAME_BYTES:
        raise DefinitionError(f"{what} is {size} bytes long; {NAME_BYTES} are allowed: {name[:_SHOWN]!r}...")


def _checked(value: Any) -> str:
    try:
        if isinstance(value, str) and not isinstance(value, Enum):
            text = str.__str__(value)
            if not text:
                raise MissingKey("is an empty string")
            return text if text[0] != OPEN else f"{OPEN}{_quoted(text)}{CLOSE}"
        if isinstance(value, bytes | bytearray | memoryview) and not bytes(value):
            raise MissingKey("is empty bytes")
        return f"{OPEN}{_spell(value, 0)}{CLOSE}"
    except (MissingKey, UnfitKey, KeyboardInterrupt):
        raise
    except RecursionError:
        raise UnfitKey("is nested too deeply") from None
    except BaseException as error:
        raise UnfitKey(f"is an unreadable {_name(value)}: {describe(error)}") from error


def _spell(value: Any, depth: int) -> str:
    """Propagates errors from reading the value."""
    if depth > _DEPTH:
        raise UnfitKey("is nested too deeply")
    if value is None:
        raise MissingKey("is None" if not depth else "contains None")
    if isinstance(value, Enum):
        return _enum(value, depth)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _quoted(str.__str__(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return f"bytes {bytes(value).hex()}"
    if (found := _of_library(value, depth)) is not None:
        return found
    if isinstance(value, Real | Decimal):
        return _number(value)
    if isinstance(value, UUID):
        return f"uuid {value.hex}"
    if isinstance(value, date):
        return _time(value) if isinstance(value, datetime) else f"date {date.isoformat(value)}"
    if isinstance(value, timedelta):
        return f"span {_nanoseconds(value)}"
    return _container(value, depth + 1)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _enum(value: Enum, depth: int) -> str:
    kind = type(value)
    # A combination of flags may be unnamed.
    name = value._name_ if value._name_ is not None else _spell(value._value_, depth + 1)
    return "enum " + _quoted(f"{kind.__module__}.{kind.__qualname__}.{name}")


def _container(value: Any, depth: int) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join([_spell(item, depth) for item in value]) + "]"
    if isinstance(value, Set):
        return "set{" + ",".join(sorted({_spell(item, depth) for item in value})) + "}"
    if isinstance(value, Mapping):
        items = {_spell(key, depth): _spell(item, depth) for key, item in value.items()}
        return "map{" + ",".join(sorted(f"{key}:{item}" for key, item in items.items())) + "}"
    raise UnfitKey(
        f"{'is' if depth == 1 else 'contains'} a {_name(value)}, which has no canonical text; "
        "use a string, a number, a time, a UUID, or a tuple of these"
    )


# --- numbers ---


def _number(value: Any) -> str:
    if isinstance(value, Decimal):
        return _decimal(value)
    if isinstance(value, Rational):
        return _ratio(int(value.numerator), int(value.denominator))
    if value != value:
        raise MissingKey("is NaN")
    if value in (float("inf"), float("-inf")):
        return "inf" if value > 0 else "-inf"
    numerator, denominator = value.as_integer_ratio()
    return _ratio(int(numerator), int(denominator))


def _decimal(value: Decimal) -> str:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        if value.is_nan():
            raise MissingKey("is NaN")
        return "inf" if value > 0 else "-inf"
    if not any(digits):
        return "0"
    # Written out, it would exceed the limit of a key; a large exponent could fill the memory.
    if max(len(digits), abs(exponent), abs(value.adjusted())) > 2 * KEY_LENGTH:
        raise MissingKey(f"is a number of more than {KEY_LENGTH} digits")
    return _ratio(*value.as_integer_ratio())


def _ratio(numerator: int, denominator: int) -> str:
    if denominator == 1:
        return _whole(numerator)
    try:
        near = numerator / denominator
    except OverflowError:
        near = 0.0
    if near.as_integer_ratio() == (numerator, denominator):
        return repr(near)
    return f"{_whole(numerator)}/{_whole(denominator)}"


def _whole(value: int) -> str:
    return str(value) if -_PLAIN < value < _PLAIN else hex(value)


# --- times ---


def _time(value: datetime) -> str:
    day, clock = (value.year, value.month, value.day), (value.hour, value.minute, value.second, value.microsecond)
    plain = datetime(*day, *clock, tzinfo=UTC)  # treated as UTC: only differences are computed
    finer = f"{getattr(value, 'nanosecond', 0):03}"
    offset = value.utcoffset()
    if offset is None:
        return _moment(plain, finer)
    try:
        return _moment(plain - offset, finer) + "Z"
    except OverflowError:  # before the year 1 or after 9999 in UTC
        return f"time {_nanoseconds(plain - datetime.fromtimestamp(0, UTC)) - _nanoseconds(offset)}{finer}Z"


def _moment(value: datetime, finer: str = "") -> str:
    """`finer` holds the digits after the microseconds."""
    return _with_fraction(value.replace(microsecond=0, tzinfo=None).isoformat(), f"{value.microsecond:06}{finer}")


def _with_fraction(seconds: str, fraction: str) -> str:
    digits = fraction.rstrip("0")
    return f"time {seconds}.{digits}" if digits else f"time {seconds}"


def _nanoseconds(value: timedelta) -> int:
    microseconds = (value.days * 86400 + value.seconds) * 10**6 + value.microseconds
    return microseconds * 1000 + int(getattr(value, "nanoseconds", 0))


# --- NumPy and pandas, without importing them ---


def _of_library(value: Any, depth: int) -> str | None:
    """Spell NumPy and pandas scalars that Python's types do not cover; None for other values."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "pandas":
        if kind.__name__ in ("NAType", "NaTType"):
            raise MissingKey(f"{'contains' if depth else 'is'} {kind.__name__.removesuffix('Type')}")
        if kind.__name__ == "Period":
            return f"period {_quoted(value.freqstr)} {value.ordinal}"
        if kind.__name__ == "Interval":
            return f"interval {value.closed} [{_spell(value.left, depth + 1)},{_spell(value.right, depth + 1)}]"
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.generic):
        return None
    if isinstance(value, numpy.bool_):
        return "true" if value else "false"
    if isinstance(value, numpy.datetime64 | numpy.timedelta64):
        if numpy.isnat(value):
            raise MissingKey("is NaT")
        return _numpy_time(numpy, value) if isinstance(value, numpy.datetime64) else _numpy_span(numpy, value)
    return None


def _numpy_time(numpy: Any, value: Any) -> str:
    """The text has the unit's precision, from years down to attoseconds."""
    day, _, clock = str(numpy.datetime_as_string(value)).partition("T")
    seconds, _, fraction = (clock or "00").partition(".")
    whole = day + "-01" * (2 - day[1:].count("-")) + "T" + seconds + ":00" * (2 - seconds.count(":"))
    return _with_fraction(whole, fraction)


def _numpy_span(numpy: Any, value: Any) -> str:
    """Computed with Python integers: NumPy's would truncate finer units and overflow on coarser ones."""
    unit, count = numpy.datetime_data(value.dtype)
    if unit not in _ATTOSECONDS:
        raise UnfitKey(f"is a NumPy timedelta in units of {unit}, which have no fixed length; use days or finer")
    whole, finer = divmod(int(value.astype("int64")) * count * _ATTOSECONDS[unit], 10**9)
    return f"span {whole}.{finer:09}".rstrip("0") if finer else f"span {whole}"


def _name(value: Any) -> str:
    kind = type(value)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"
