"""The argument and result of `ctx.publish`."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from json import JSONEncoder
from pathlib import PurePath
from typing import Any
from uuid import UUID

from sagaz_lab.errors import UnstorableValue

CURE = "publish plain data: strings, numbers, lists and mappings; for a table or a model publish its location"


class Published:
    """The result of `ctx.publish`, which is complete whether or not it is awaited."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


PUBLISHED = Published()


def to_json(value: Any, owner: str, key: str) -> bytes:
    """The value as portable JSON. `owner` and `key` name it in errors.

    Dates, times, UUIDs, Decimals and paths become strings, a `timedelta` seconds, an Enum its value, dataclasses and
    pydantic models mappings. Raises `UnstorableValue`, also for NaN, which JSON cannot represent.
    """
    try:
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise UnstorableValue(owner, key, value, str(error), CURE) from None


def _plain(value: Any) -> Any:
    """One step towards JSON for a type without a JSON form."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return list(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    kind = type(value)
    if kind.__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    if callable(dump := getattr(kind, "model_dump", None)):
        return dump(value, mode="json")
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} is not JSON")


_encode = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain).encode
