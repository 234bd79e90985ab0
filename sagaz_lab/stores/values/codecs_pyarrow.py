"""Arrow tables as Parquet; the Arrow schema is kept inside, so that the types come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class ArrowTable:
    name = "arrow"
    suffix = ".parquet"

    def accepts(self, value: Any) -> bool:
        return type(value) is pa.Table

    def dump(self, value: Any, path: Path) -> None:
        pq.write_table(value, path)

    def load(self, path: Path) -> Any:
        return pq.read_table(path, memory_map=False)


codecs = (ArrowTable(),)


def inline(value: Any) -> dict[str, Any] | None:
    """Nothing of Arrow's is small enough to have a word of its own."""
    return None


def restore(packed: dict[str, Any]) -> Any:
    raise NotImplementedError
