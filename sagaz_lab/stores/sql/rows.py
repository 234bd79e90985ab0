"""Rows to insert, in the cheapest form for SQLite.

`sqlite3` looks up an adapter for each None and each `bytes`, which costs more than the rest of the column. So NULLs are
part of the statement, and `bytearray` replaces `bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from msgspec import Struct

Row = tuple[str, Sequence[Any]]
"""The marks of a row, as in VALUES (?, NULL), and their values."""

Rows = dict[str, list[Any]]
"""The concatenated values of many rows, by marks."""


ClaimRow = tuple[str, str, str, float | None, str]
"""Trigger, claim, holder, end and kind."""

FreeClaim = tuple[str, tuple[Any, ...]]
"""The statement that takes a free claim, and its values."""


class RunRow(Struct, frozen=True, eq=False):
    """A run to insert: the marks of its row, and its values without the number.

    `claims` are those of ids, its own and its members', until `until`; `declared` those of declared keys, of `kind`,
    until `declared_until`. `members` are the claims of its members only.
    """

    run_id: str
    trigger: str
    claims: Sequence[str]
    until: float | None
    declared: Sequence[str]
    declared_until: float | None
    kind: str
    members: Sequence[str]
    cooldown: tuple[str, float] | None
    waits: bool
    at: float
    marks: str
    values: Sequence[Any]

    def claim_rows(self) -> list[ClaimRow]:
        rows: list[ClaimRow] = [(self.trigger, claim, self.run_id, self.until, "id") for claim in self.claims]
        if self.declared:
            rows += [(self.trigger, claim, self.run_id, self.declared_until, self.kind) for claim in self.declared]
        return rows


@cache
def marks(given: int, optional: int = 0, there: int = 0) -> str:
    """Marks of a row with `given` values and `optional` more columns; the bits of `there` tell which have a value."""
    bits = f"{there:0{optional}b}" if optional else ""
    return f"({', '.join(['?'] * given + ['?' if bit == '1' else 'NULL' for bit in bits])})"


@cache
def width(marks: str) -> int:
    """The number of values of these marks."""
    return marks.count("?")


def row(given: Sequence[Any], *optional: Any) -> Row:
    """The row without its key, which comes first. `given` contains no None."""
    values, there = [*given], 0
    for value in optional:
        there <<= 1
        if value is not None:
            there += 1
            values.append(bytearray(value) if type(value) is bytes else value)
    return marks(1 + len(given), len(optional), there), values
