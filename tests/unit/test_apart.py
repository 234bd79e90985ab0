"""Copies of containers."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from sagaz_lab.model.apart import apart

Leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.binary(max_size=3)


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
    )


def containers(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | deque) else ()
    own = [value] if isinstance(value, dict | list | deque | set | bytearray) else []
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
