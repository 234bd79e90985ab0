"""Rows to insert, as it costs least to hand them to SQLite.

`sqlite3` looks for an adapter for each None and each `bytes`, which costs more than the rest of the column: so a NULL
is written in the statement, and a `bytearray` stands for `bytes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from msgspec import Struct

Row = tuple[str, Sequence[Any]]
"""The marks of a row, as in VALUES (?, NULL), and the values for its question marks."""

Rows = dict[str, list[Any]]
"""Of many rows, the values by marks, one row after the other."""


ClaimRow = tuple[str, str, str, float | None, str]
"""Trigger, claim, who has it, until when, and its kind."""

FreeClaim = tuple[str, tuple[Any, ...]]
"""The statement that takes it, and its values."""


class RunRow(Struct, frozen=True, eq=False):
    """A run to insert: its row's marks, and its values but for the number.

    `claims` are of ids, its own and its members', all to be taken until `until`; `declared` are those of declared keys,
    of the `kind`, until `declared_until`. `members` are the claims that are not its own.
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
