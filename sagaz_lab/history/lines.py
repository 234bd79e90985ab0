"""Reads files of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 18

_decode = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name)).decode


def read(path: Path) -> Iterator[Any]:
    """The value of each non-blank line; a line that is not JSON as bytes. Raises `OSError`."""
    offset = 0
    while True:
        # Reopened for each chunk, so that an abandoned reader holds no file open.
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.readlines(CHUNK_BYTES)
            offset = file.tell()
        if not chunk:
            return
        for line in chunk:
            if line.strip():
                yield _value(line)


def _value(line: bytes) -> Any:
    try:
        return _decode(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return line.rstrip(b"\r\n")
