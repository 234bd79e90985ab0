"""Arrow tables as Parquet, with the Arrow schema inside, which preserves types."""

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
    """Arrow values are never inlined."""
    return None


def restore(packed: dict[str, Any]) -> Any:
    raise NotImplementedError
