"""`{expression}` and `$name` in a line of `%triggers`; JSON is neither."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.error import UsageError

from sagaz_lab.notebook.expansion import expand

NAMES = {"x": 3, "ids": ["a", "b"], "name": "orders", "pi": 3.14159}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("why {ids[0]}", "why a"),
        ("$name.on_event", "orders.on_event"),
        ("{name}.on_event limit={x + 1}", "orders.on_event limit=4"),
        ("{pi:.2f}", "3.14"),
        ("$nosuch costs 5$", "$nosuch costs 5$"),
        ("$$name {{name}}", "$name {name}"),
        ('{"a":{"b":{"x":1}}} {just text}', '{"a":{"b":{"x":1}}} {just text}'),
    ],
)
def test_names_stand_for_their_values(text: str, expected: str) -> None:
    assert expand("why", text, NAMES) == expected


def test_what_cannot_be_expanded_says_why() -> None:
    with pytest.raises(UsageError, match=r"%triggers why: \{nosuch\} cannot be expanded: NameError"):
        expand("why", "{nosuch}", NAMES)


VALUES = st.recursive(
    st.integers() | st.text("ab", max_size=3),
    lambda v: st.lists(v) | st.dictionaries(st.text("x", max_size=3), v),
    max_leaves=8,
)


@given(st.dictionaries(st.text("xy", max_size=3), VALUES, min_size=1))
def test_json_stays_as_it_is(value: object) -> None:
    text = json.dumps(value)
    assert expand("forget", text, NAMES) == text
