"""Parses the key that a string spells as a `repr`: "5" spells 5."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from sagaz_lab.errors import DecisionError, MissingKey
from sagaz_lab.model.keys import KEY_LENGTH, OPEN, indexable, key_text

_MAKERS: Mapping[str, Callable[..., Any]] = {
    "Decimal": Decimal, "UUID": UUID, "frozenset": frozenset, "set": set, "datetime.date": date,
    "datetime.datetime": datetime, "datetime.timedelta": timedelta, "datetime.timezone": timezone,
}  # fmt: skip
_NAMES: Mapping[str, Any] = {"datetime.timezone.utc": timezone.utc, "inf": float("inf")}  # noqa: UP017

_MAY_SPELL = re.compile(r"""\s*([-\d.(\[{]|[bB]['"]|(True|False|Decimal|UUID|datetime|frozenset|set|np|inf)\b)""")
"""How a spelling can begin: a cheap filter, since most strings spell nothing and parsing is slow."""


def possible_keys(value: Any) -> list[str]:
    """All keys this value may stand for. Raises `MissingKey` and `UnfitKey`."""
    if not isinstance(value, str) or isinstance(value, Enum):
        return [key_text(value)]
    names = [value]
    if (indexed := indexable(value)) != value:  # a key of this text
        names.append(indexed)
    if (spelled := spelled_key(value)) is not None:
        names.append(spelled)
    if value.startswith(OPEN):  # the canonical text of one key and, as a string, another key
        with suppress(MissingKey):
            names.append(key_text(value))
    return names


def spelled_key(text: str) -> str | None:
    """The canonical text of the spelled key; None if the string spells only itself."""
    if len(text) > KEY_LENGTH or _MAY_SPELL.match(text) is None:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            value = _value(ast.parse(text.strip(), mode="eval").body)
        return None if isinstance(value, str) else key_text(value)
    except (ValueError, TypeError, ArithmeticError, SyntaxError, MemoryError, RecursionError, DecisionError):
        return None


def _value(node: ast.expr) -> Any:
    """Evaluate a literal or a constructor call as `repr` writes it. Raises `ValueError` for anything else."""
    if isinstance(node, ast.Tuple | ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_hashable(key): _value(item) for key, item in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Set):
        return {_hashable(item) for item in node.elts}
    if isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in _NAMES:
        return _NAMES[ast.unparse(node)]
    if isinstance(node, ast.Call):
        name, values = ast.unparse(node.func), [_value(item) for item in node.args]
        named = {word.arg: _value(word.value) for word in node.keywords if word.arg is not None}
        if name.startswith("np.") and len(values) == 1 and isinstance(values[0], bool | int | float):
            return values[0]
        if name in _MAKERS:
            return _MAKERS[name](*values, **named)
    return ast.literal_eval(node)


def _hashable(node: ast.expr | None) -> Any:
    if node is None:
        raise ValueError("no literal")
    value = _value(node)
    return tuple(value) if isinstance(value, list) else value
