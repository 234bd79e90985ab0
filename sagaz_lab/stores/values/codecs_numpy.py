"""NumPy scalars and arrays. Nothing is pickled: arrays of objects are refused."""

from __future__ import annotations

from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

INLINE_BYTES = 2048
"""Arrays up to this size are stored in the journal."""


class Npy:
    """Arrays as `.npy` files."""

    name = "npy"
    suffix = ".npy"

    def accepts(self, value: Any) -> bool:
        return type(value) is np.ndarray

    def dump(self, value: Any, path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, value, allow_pickle=False)

    def load(self, path: Path) -> Any:
        return np.load(path, allow_pickle=False)


codecs = (Npy(),)


def inline(value: Any) -> dict[str, Any] | None:
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return {"kind": "scalar", "v": _bytes(np.asarray(value))}
    if type(value) is np.ndarray and value.nbytes <= INLINE_BYTES and not value.dtype.hasobject:
        return {"kind": "array", "v": _bytes(value)}
    return None


def restore(packed: dict[str, Any]) -> Any:
    array = np.load(BytesIO(b64decode(packed["v"])), allow_pickle=False)
    return array if packed["kind"] == "array" else array[()]


def _bytes(array: Any) -> str:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return b64encode(file.getvalue()).decode()
