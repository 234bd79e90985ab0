"""pandas: tables and series as Parquet, scalars in the journal."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


class Parquet:
    """Tables with their index, types and `attrs`."""

    name = "parquet"
    suffix = ".parquet"

    def accepts(self, value: Any) -> bool:
        return type(value) is pd.DataFrame

    def dump(self, value: Any, path: Path) -> None:
        value.to_parquet(path, engine="pyarrow")

    def load(self, path: Path) -> Any:
        return pd.read_parquet(path, engine="pyarrow")


class Series:
    """A one-column table, with the name stored separately, since it need not be a string: a row's is its label."""

    name = "series"
    suffix = ".parquet"

    def accepts(self, value: Any) -> bool:
        return type(value) is pd.Series and _label(value.name) is not None

    def dump(self, value: Any, path: Path) -> None:
        value.to_frame(_label(value.name)).to_parquet(path, engine="pyarrow")

    def load(self, path: Path) -> Any:
        column = pd.read_parquet(path, engine="pyarrow").iloc[:, 0]
        return column.rename(_name(str(column.name)))


_LABELLED = "labelled "


def _label(name: Any) -> str | None:
    """A string form of a series' name; None without a name."""
    if name is None:
        return "unnamed"
    if isinstance(name, str):
        return f"named {name}"
    packed = _packed(name)
    return None if packed is None else _LABELLED + json.dumps(packed)


def _packed(name: Any) -> Any:
    """A name as JSON: a list of its kind and its value."""
    if isinstance(name, np.generic):
        name = name.item() if not isinstance(name, np.datetime64 | np.timedelta64) else pd.Series([name])[0]
    if isinstance(name, tuple):
        parts = [_packed(part) for part in name]
        return None if None in parts else ["tuple", parts]
    if (scalar := inline(name)) is not None:
        return ["pandas", scalar]
    if isinstance(name, datetime) or type(name) is date:
        return [type(name).__name__, name.isoformat()]
    if name is None or type(name) in (str, int, bool, float):
        return ["float", repr(name)] if type(name) is float else ["plain", name]
    return None


def _name(label: str) -> Any:
    if label == "unnamed":
        return None
    if label.startswith(_LABELLED):
        return _unpacked(json.loads(label.removeprefix(_LABELLED)))
    return label.removeprefix("named ")


def _unpacked(packed: Any) -> Any:
    kind, value = packed
    match kind:
        case "tuple":
            return tuple(_unpacked(part) for part in value)
        case "pandas":
            return restore(value)
        case "float":
            return float(value)
        case "date":
            return date.fromisoformat(value)
        case "datetime":
            return datetime.fromisoformat(value)
    return value


codecs = (Parquet(), Series())


def inline(value: Any) -> dict[str, Any] | None:
    if value is pd.NaT:
        return {"kind": "NaT"}
    if value is pd.NA:
        return {"kind": "NA"}
    if type(value) is pd.Timestamp:
        moment = value if value.tz is None else value.tz_convert("UTC").tz_localize(None)
        packed: dict[str, Any] = {"kind": "Timestamp", "v": moment.isoformat(), "unit": value.unit, "zone": None}
        if value.tz is not None:
            offset = value.utcoffset() or timedelta(0)
            # With the offset: a zone may have no name, or one unknown to the reader.
            packed |= {"zone": str(value.tz), "offset_s": offset.total_seconds()}
        return packed
    if type(value) is pd.Timedelta:
        return {"kind": "Timedelta", "v": int(value.asm8.astype("int64")), "unit": value.unit}
    return None


def restore(packed: dict[str, Any]) -> Any:
    match packed["kind"]:
        case "NaT":
            return pd.NaT
        case "NA":
            return pd.NA
        case "Timedelta":
            return pd.Timedelta(packed["v"], unit=packed["unit"]).as_unit(packed["unit"])
    moment = pd.Timestamp(packed["v"]).as_unit(packed["unit"])
    if packed["zone"] is None:
        return moment
    try:
        return moment.tz_localize("UTC").tz_convert(packed["zone"])
    except Exception:  # noqa: BLE001  # three zone libraries with different errors
        return moment.tz_localize("UTC").tz_convert(timezone(timedelta(seconds=packed.get("offset_s", 0.0))))
