"""The SQL texts, read from `schema/` once."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

_SCHEMA = files("sagaz_lab.stores.sql") / "schema"
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_ROW = re.compile(r"(?<=VALUES )\([?, ]+\)")


@cache
def schema(name: str) -> str:
    """The tables of a dialect, or their upgrade, as one script."""
    return (_SCHEMA / f"{name}.sql").read_text(encoding="utf-8")


@cache
def statements(now: str) -> dict[str, str]:
    """The statements by name. `now` is the SQL for the database's clock, in seconds since the epoch."""
    _, *parts = _NAME.split((_SCHEMA / "statements.sql").read_text(encoding="utf-8"))
    texts = (re.sub(r"^--.*\n", "", text, flags=re.MULTILINE) for text in parts[1::2])
    return {name: text.strip().replace("{now}", now) for name, text in zip(parts[::2], texts, strict=True)}


@cache
def with_rows(statement: str, marks: str, count: int) -> str:
    """The same statement with the values of `count` rows, with these marks."""
    whole, found = _ROW.subn(", ".join([marks] * count), statement)
    if not found:
        raise ValueError(f"no VALUES (?, ...) in: {statement}")
    return whole
