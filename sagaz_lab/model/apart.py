"""Values of their own: whoever changes a payload or a context in place changes no one else's.

Containers are copied: dict, list, tuple, set, bytearray, deque and those of `collections`, whatever is nested in them.
Anything else is handed on as it is: values that cannot change, and tables, arrays and models in memory, whose copies
would cost too much.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from sagaz_lab.model.event import Event
from sagaz_lab.model.given import WebhookRequest

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


def apart_event(event: Event) -> Event:
    """The event, or the same with a payload of its own."""
    payload = event.payload
    if type(payload) in UNCHANGING:
        return event
    own = apart(payload)
    return event if own is payload else event.with_payload(own)


def copier(values: Sequence[Any]) -> Callable[[Any], Any]:
    """What copies each of these: most are flat dicts, and one look at all of them costs less than one at each."""
    if set(map(type, values)) == {dict} and UNCHANGING.issuperset(
        map(type, chain.from_iterable(map(dict.values, values)))
    ):
        return dict.copy
    return apart


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


def _request(value: WebhookRequest) -> WebhookRequest:
    path_params, query_params, headers = dict(value.path_params), dict(value.query_params), dict(value.headers)
    return replace(value, path_params=path_params, query_params=query_params, headers=headers)


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
    Event: apart_event,
    WebhookRequest: _request,
}
_copy_of = _COPIES.get
