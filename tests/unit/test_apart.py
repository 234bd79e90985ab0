"""Copies of containers."""

from __future__ import annotations

from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Mapping
from enum import Enum
from time import localtime
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sagaz_lab.model.apart import apart

Leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3)


class Pair(NamedTuple):
    left: Any
    right: Any = None


class OwnDict(dict[Any, Any]):
    """Its objects have an attribute."""

    def __init__(self, items: Mapping[Any, Any], *, tags: list[Any]) -> None:
        super().__init__(items)
        self.tags = tags


class OwnList(list[Any]): ...


class OwnTuple(tuple[Any, ...]):  # noqa: SLOT001  it has a dict
    def __new__(cls, first: Any, *others: Any) -> Self:
        return super().__new__(cls, (first, *others))


class OwnDeque(deque[Any]): ...


class OwnSet(set[Any]): ...


class OwnCounter(Counter[Any]): ...


class OwnDefault(defaultdict[Any, Any]): ...


def nests(items: SearchStrategy[Any]) -> SearchStrategy[Any]:
    named = st.dictionaries(st.text(max_size=2), items, max_size=3)
    return st.one_of(
        st.lists(items, max_size=3),
        st.lists(items, max_size=3).map(tuple),
        st.lists(items, max_size=3).map(deque),
        named,
        named.map(OrderedDict),
        named.map(lambda found: defaultdict(list, found)),
        st.sets(st.integers(), max_size=3),
        st.binary(max_size=3).map(bytearray),
        st.text(max_size=3).map(Counter),
        st.builds(Pair, items, items),
        st.builds(OwnDict, named, tags=st.lists(items, max_size=2)),
        st.lists(items, max_size=3).map(OwnList),
        st.lists(items, min_size=1, max_size=3).map(lambda found: OwnTuple(*found)),
        st.lists(items, max_size=3).map(OwnDeque),
        st.sets(st.integers(), max_size=3).map(OwnSet),
        st.text(max_size=3).map(OwnCounter),
        named.map(lambda found: OwnDefault(list, found)),
        named.map(MappingProxyType),
        named.map(UserDict),
        st.lists(items, max_size=3).map(UserList),
        st.builds(ChainMap, named, named),
    )


def containers(value: Any) -> list[Any]:
    if isinstance(value, ChainMap):
        inner: Any = value.maps
    elif isinstance(value, Mapping):
        inner = [*value.values(), *getattr(value, "tags", ())]
    else:
        inner = value if isinstance(value, list | tuple | deque | UserList) else ()
    own = [value] if isinstance(value, Mapping | list | deque | set | bytearray | UserList) else []
    return own + [found for item in inner for found in containers(item)]


@settings(deadline=None)
@given(st.recursive(Leaves, nests, max_leaves=12))
def test_a_copy_is_equal_and_shares_no_container(value: Any) -> None:
    copy = apart(value)
    assert copy == value
    assert type(copy) is type(value)
    assert {id(one) for one in containers(copy)}.isdisjoint({id(one) for one in containers(value)})


def test_what_contains_itself_is_copied_and_what_is_too_deep_handed_on() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    copy = apart(ring)
    assert copy is not ring
    assert copy[1] is copy
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert apart(deep) is deep


class Colour(list[int], Enum):
    RED = [1]


class Refuses(dict[Any, Any]):
    def __copy__(self) -> Self:
        raise TypeError("made by its factory only")


@pytest.mark.parametrize("made", [lambda: Colour.RED, lambda: Refuses(a=[1]), localtime, object])
def test_what_cannot_be_copied_is_handed_on(made: Callable[[], Any]) -> None:
    value = made()
    assert apart(value) is value
    assert apart([value])[0] is value
