"""A digest of a value's content, equal in every process for equal content."""

from __future__ import annotations

import copyreg
from collections.abc import Iterator
from hashlib import sha256
from types import BuiltinFunctionType, FunctionType
from typing import Any

PARTS, SIZE = 100_000, 16 * 2**20
"""Limits in values and bytes; larger content would slow down each run of its cell."""

_CONSTANTS = (bool, int, float, complex, str, bytes, bytearray, type(None), type(Ellipsis))


class _Unreadable(Exception):
    """The content is too large or cannot be read."""


def content_digest(value: Any) -> str | None:
    """Digest plain data, tables and other picklable values. None if the content is too large or unreadable."""
    found, size = sha256(), 0
    try:
        for number, part in enumerate(_parts(value)):
            size += len(part)
            if number > PARTS or size > SIZE:
                return None
            found.update(b"%d:%b" % (len(part), part))
    except Exception:  # from the object's own code
        return None
    return found.hexdigest()[:16]


def _parts(value: Any) -> Iterator[bytes]:
    kind = type(value)
    yield f"{kind.__module__}.{kind.__qualname__}".encode()
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        yield _name(value)
    elif kind in (bytes, bytearray):
        yield value
    elif kind in _CONSTANTS:
        yield (hex(value) if kind is int else str(value)).encode("utf-8", "surrogatepass")
    elif kind in (list, tuple):
        yield from _several(value)
    elif kind is dict:
        yield from _several([part for item in value.items() for part in item])
    elif kind in (set, frozenset):
        yield from sorted(_whole(item) for item in value)
    else:
        yield from _reduced(value)


def _several(values: list[Any] | tuple[Any, ...]) -> Iterator[bytes]:
    yield b"%d" % len(values)
    for value in values:
        yield from _parts(value)


def _whole(value: Any) -> bytes:
    return b"".join(b"%d:%b" % (len(part), part) for part in _parts(value))


def _reduced(value: Any) -> Iterator[bytes]:
    """The value's state as pickle would store it."""
    kind = type(value)
    if kind.__module__ == "itertools":  # reading would exhaust it
        raise _Unreadable
    reduced = copyreg.dispatch_table.get(kind)
    found: Any = reduced(value) if reduced else value.__reduce_ex__(4)
    if isinstance(found, str):
        yield found.encode()
        return
    yield from _several([*found[:3], *(None if part is None or callable(part) else list(part) for part in found[3:])])


def _name(value: Any) -> bytes:
    if "<" in value.__qualname__:  # a local name is not unique
        raise _Unreadable
    return f"{value.__module__}.{value.__qualname__}".encode()
