"""pandas: tables and series as Parquet, its scalars in the journal."""

from __future__ import annotations

from datetime import timedelta, timezone
from pathlib import Path
from typing import Any

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
    """One column, its name beside it, as a name need not be a text."""

    name = "series"
    suffix = ".parquet"

    def accepts(self, value: Any) -> bool:
        return type(value) is pd.Series and (value.name is None or isinstance(value.name, str))

    def dump(self, value: Any, path: Path) -> None:
        name = "unnamed" if value.name is None else f"named {value.name}"
        value.to_frame(name).to_parquet(path, engine="pyarrow")

    def load(self, path: Path) -> Any:
        column = pd.read_parquet(path, engine="pyarrow").iloc[:, 0]
        label = str(column.name)
        return column.rename(None if label == "unnamed" else label.removeprefix("named "))


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
            # The offset too: a zone may have no name, or one that is not known where it is read.
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
    except Exception:  # noqa: BLE001  # three libraries of zones, each with errors of its own
        return moment.tz_localize("UTC").tz_convert(timezone(timedelta(seconds=packed.get("offset_s", 0.0))))
