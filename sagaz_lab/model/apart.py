"""Private copies: a change to a payload or context in place affects no other reader.

Containers are copied deeply: dict, list, tuple, set, bytearray, the classes of `collections`, mapping proxies, and
their subclasses. Everything else is shared: immutable values, and tables, arrays and models in memory, whose copies
would cost too much.
"""

from __future__ import annotations

from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from copy import copy as shallow
from copy import deepcopy
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeVar

T = TypeVar("T")
Copy = Callable[[Any], Any]

MOST_CLASSES = 1000
"""Size of the cache of copy functions; a notebook redefines the same classes again and again."""

UNCHANGING: frozenset[type] = frozenset({str, int, float, bool, type(None), bytes, complex})
"""The most common immutable types."""


def apart(value: T) -> T:
    """The value, or a copy of it if it is a container."""
    copy = _copy_of(type(value))
    if copy is None:
        return value
    try:
        copied: T = copy(value)
    except RecursionError:  # cyclic or nested too deeply
        return _apart_slowly(value)
    return copied


def register_container(kind: type[T], copy: Callable[[T], T]) -> None:
    """Register a further container type."""
    _KNOWN[kind] = _COPIES[kind] = copy


def _apart_slowly(value: T) -> T:
    try:
        return deepcopy(value)
    except Exception:  # noqa: BLE001  then it is shared
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
    for item in value:
        if _copy_of(type(item)) is not None:
            return tuple(map(_item, value))
    return value


def _is_plain(value: tuple[Any, ...]) -> bool:
    return all(_copy_of(type(item)) is None for item in value)


def _deque(value: deque[Any]) -> deque[Any]:
    return deque(map(_item, value), value.maxlen)


def _defaultdict(value: defaultdict[Any, Any]) -> defaultdict[Any, Any]:
    return defaultdict(value.default_factory, _dict(value))


# --- subclasses of containers ---


def _derived(fill: Callable[[Any, Any], None]) -> Copy:
    """Copy with `copy.copy`, then copy the items and attributes.

    If the class's own copy fails or returns another class, its objects are shared.
    """

    def copied(value: Any) -> Any:
        try:
            own = shallow(value)
            if own is value or type(own) is not type(value):
                return value
            fill(own, value)
            _copy_attributes(own, value)
        except RecursionError:
            raise
        except Exception:  # noqa: BLE001  then it is shared
            return value
        return own

    return copied


def _copy_attributes(own: Any, value: Any) -> None:
    if attributes := getattr(value, "__dict__", None):
        vars(own).update(_dict(attributes))


def _fill_dict(own: dict[Any, Any], value: dict[Any, Any]) -> None:
    for key, item in dict.items(value):
        if (copy := _copy_of(type(item))) is not None:
            dict.__setitem__(own, key, copy(item))


def _fill_list(own: list[Any], value: list[Any]) -> None:
    list.__setitem__(own, slice(None), map(_item, list.__iter__(value)))


def _fill_deque(own: deque[Any], value: deque[Any]) -> None:
    for index, item in enumerate(deque.__iter__(value)):
        deque.__setitem__(own, index, _item(item))


def _no_items(own: Any, value: Any) -> None:
    """Its items are immutable or attributes."""


def _derived_tuple(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """Bypasses the constructor, whose signature is unknown: a NamedTuple's differs from a tuple's."""
    if _is_plain(value) and not getattr(value, "__dict__", None):
        return value
    try:
        own = tuple.__new__(type(value), map(_item, tuple.__iter__(value)))
    except TypeError:  # a C class that is constructed differently
        return value
    _copy_attributes(own, value)
    return own


def _proxy(value: MappingProxyType[Any, Any]) -> MappingProxyType[Any, Any]:
    copy = getattr(value, "copy", None)  # copies the mapping behind it
    return value if copy is None else MappingProxyType(apart(copy()))


_DERIVED: dict[type, Copy] = {
    dict: _derived(_fill_dict),
    list: _derived(_fill_list),
    tuple: _derived_tuple,
    set: _derived(_no_items),
    bytearray: _derived(_no_items),
    deque: _derived(_fill_deque),
    UserDict: _derived(_no_items),
    UserList: _derived(_no_items),
    ChainMap: _derived(_no_items),
}


class _Copies(dict[type, Copy | None]):
    """The copy function of each class; None for shared values."""

    def __missing__(self, kind: type) -> Copy | None:
        if len(self) >= MOST_CLASSES:
            self.clear()
            self.update(_KNOWN)
        base = None if issubclass(kind, Enum) else next((base for base in kind.__mro__ if base in _DERIVED), None)
        copy = self[kind] = None if base is None else _DERIVED[base]
        return copy


_KNOWN: dict[type, Copy | None] = {
    **dict.fromkeys(UNCHANGING, None),
    dict: _dict,
    list: _list,
    tuple: _tuple,
    set: set,  # its items are hashable, so immutable
    bytearray: bytearray,
    deque: _deque,
    OrderedDict: lambda value: OrderedDict(_dict(value)),
    defaultdict: _defaultdict,
    Counter: lambda value: Counter(_dict(value)),
    MappingProxyType: _proxy,
}
_COPIES = _Copies(_KNOWN)
_copy_of = _COPIES.__getitem__
