"""Rows to insert, as it costs least to hand them to SQLite.

`sqlite3` looks for an adapter for each None and each `bytes`, which costs more than the rest of the column: so a NULL
is written in the statement, and a `bytearray` stands for `bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

Row = tuple[str, Sequence[Any]]
"""The marks of a row, as in VALUES (?, NULL), and the values for its question marks."""

Rows = dict[str, list[Any]]
"""Of many rows, the values by marks, one row after the other."""


@cache
def marks(given: int, optional: int = 0, there: int = 0) -> str:
    """Of a row with so many values, and so many columns after them: of these the bits of `there` say which have one."""
    bits = f"{there:0{optional}b}" if optional else ""
    return f"({', '.join(['?'] * given + ['?' if bit == '1' else 'NULL' for bit in bits])})"


@cache
def width(marks: str) -> int:
    """How many values a row with these marks has."""
    return marks.count("?")


def row(given: Sequence[Any], *optional: Any) -> Row:
    """The row but for its key, which comes first. `given` has no None."""
    values, there = [*given], 0
    for value in optional:
        there <<= 1
        if value is not None:
            there += 1
            values.append(bytearray(value) if type(value) is bytes else value)
    return marks(1 + len(given), len(optional), there), values
