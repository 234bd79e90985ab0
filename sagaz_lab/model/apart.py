"""Values of their own: whoever changes a payload or a context in place changes no one else's.

Containers are copied: dict, list, tuple, set, bytearray, deque and those of `collections`, whatever is nested in them.
Anything else is handed on as it is: values that cannot change, and tables, arrays and models in memory, whose copies
would cost too much.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

T = TypeVar("T")

UNCHANGING = frozenset({str, int, float, bool, type(None), bytes, complex})
"""The commonest types of which a value cannot change."""


def apart(value: T) -> T:
    """The value, or a copy of it if it is a container."""
    copy = _copy_of(type(value))
    if copy is None:
        return value
    try:
        copied: T = copy(value)
    except RecursionError:  # it contains itself, or is nested too deeply
        return _apart_slowly(value)
    return copied


def copied_by(kind: type[T], copy: Callable[[T], T]) -> None:
    """Values of this type are containers too."""
    _COPIES[kind] = copy


def _apart_slowly(value: T) -> T:
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001  then it is handed on as it is
        return value


def _item(value: Any) -> Any:
    copy = _copy_of(type(value))
    return value if copy is None else copy(value)


def _dict(value: dict[Any, Any]) -> dict[Any, Any]:
    own = dict.copy(value)
    for key, item in value.items():
        if (copy := _copy_of(type(item))) is not None:
            own[key] = copy(item)
    return own


def _list(value: list[Any]) -> list[Any]:
    return [item if (copy := _copy_of(type(item))) is None else copy(item) for item in value]


def _tuple(value: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(map(_item, value)) if any(type(item) in _COPIES for item in value) else value


def _deque(value: deque[Any]) -> deque[Any]:
    return deque(map(_item, value), value.maxlen)


def _defaultdict(value: defaultdict[Any, Any]) -> defaultdict[Any, Any]:
    return defaultdict(value.default_factory, _dict(value))


_COPIES: dict[type, Callable[[Any], Any]] = {
    dict: _dict,
    list: _list,
    tuple: _tuple,
    set: set,  # what is in it cannot change
    bytearray: bytearray,
    deque: _deque,
    OrderedDict: lambda value: OrderedDict(_dict(value)),
    defaultdict: _defaultdict,
    Counter: lambda value: Counter(_dict(value)),
}
_copy_of = _COPIES.get
