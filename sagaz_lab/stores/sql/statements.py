"""The SQL texts, read from `schema/` once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

_SCHEMA = files("sagaz_lab.stores.sql") / "schema"
_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_ONLY = re.compile(r"-- (sqlite|postgres|both):")
_ROW = re.compile(r"(?<=VALUES )\([?$\d, ]+\)")


@cache
def schema(name: str) -> str:
    """The script that creates or upgrades a dialect's tables."""
    return (_SCHEMA / f"{name}.sql").read_text(encoding="utf-8")


@cache
def statements(dialect: str, now: str, texts: str) -> Mapping[str, str]:
    """Statements by name. `now` is the dialect's clock in seconds since the epoch; `texts` unfolds strings."""
    _, *parts = _NAME.split((_SCHEMA / "statements.sql").read_text(encoding="utf-8"))
    found = {name: "\n".join(_lines(text, dialect)) for name, text in zip(parts[::2], parts[1::2], strict=True)}
    return {name: text.replace("{now}", now).replace("{texts}", texts) for name, text in found.items() if text}


def _lines(text: str, dialect: str) -> Iterator[str]:
    only = "both"
    for line in text.strip().splitlines():
        if mark := _ONLY.match(line):
            only = mark[1]
        elif only in ("both", dialect) and not line.startswith("--"):
            yield line


@cache
def with_rows(statement: str, marks: str, count: int) -> str:
    """The statement with VALUES for `count` rows with these marks."""
    whole, found = _ROW.subn(", ".join([marks] * count), statement)
    if not found:
        raise ValueError(f"no VALUES (?, ...) in: {statement}")
    return whole
