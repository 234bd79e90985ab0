"""Converts tables to and from plain Python values, a column at a time.

Rows become dicts of plain values: NumPy and pandas scalars become Python's; NaN, NaT and NA become None.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

END_S = 253_402_300_800
"""The latest representable time, in seconds since the epoch."""

CHUNK_ROWS = 4_000  # about 10 ms of the loop's time for a wide table

_UNNAMED = re.compile(r"__index_level_\d+__")

DTYPES = {
    "time": "datetime64[us, UTC]",
    "int": "Int64",
    "float": "float64",
    "text": "string",
    "category": "category",
    "flag": "boolean",
}


def to_frame(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], dtypes: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A DataFrame with real dtypes. `dtypes` maps columns to keys of `DTYPES`; other columns hold objects.

    A "time" is seconds since the epoch or an aware datetime; durations are floats in seconds.
    """
    dtypes = dtypes or {}
    values = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    series = {name: _series(column, dtypes.get(name)) for name, column in zip(columns, values, strict=True)}
    return pd.DataFrame(series, columns=list(columns))


def _series(values: Sequence[Any], kind: str | None) -> pd.Series[Any]:
    if kind is None:
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return pd.Series(column)
    if kind == "time":
        moments = [_microseconds(value) for value in values]
        gaps = np.fromiter((moment is None for moment in moments), bool, len(moments))
        filled = np.array([moment or 0 for moment in moments], dtype="datetime64[us]")
        filled[gaps] = np.datetime64("NaT")
        return pd.Series(filled).dt.tz_localize("UTC")
    if kind == "category":
        return pd.Series(pd.Categorical(values, categories=list(dict.fromkeys(v for v in values if v is not None))))
    try:
        return pd.Series(list(values), dtype=DTYPES[kind])
    except UnicodeEncodeError:  # escape lone surrogates, which no table can hold
        plain = [v.encode("utf-8", "backslashreplace").decode() if isinstance(v, str) else v for v in values]
        return pd.Series(plain, dtype=DTYPES[kind])
    except (ValueError, TypeError, OverflowError):  # a damaged value concerns its own row
        return pd.Series([_fitting(value, DTYPES[kind]) for value in values], dtype=DTYPES[kind])


def _fitting(value: Any, dtype: str) -> Any:
    """The value, or NA if the column cannot hold it."""
    try:
        return pd.Series([value], dtype=dtype).iloc[0]
    except (ValueError, TypeError, OverflowError):
        return None


def _microseconds(value: Any) -> int | None:
    try:
        return _moment(value)
    except (ValueError, TypeError, OverflowError):  # a damaged value concerns its own row
        return None


def _moment(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, int | float):
        return round(value * 1e6) if abs(value) < END_S else None
    moment = pd.Timestamp(value)
    utc = moment.tz_localize("UTC") if moment.tz is None else moment.tz_convert("UTC")
    return int(utc.as_unit("us").asm8.astype("int64"))  # `value` is always in nanoseconds


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a Parquet file with its original dtypes."""
    return pd.read_parquet(path)


def rows_of(table: pd.DataFrame | pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as dicts, converted in chunks. A named index is a field. Raises `TypeError` if it is not a table."""
    if isinstance(table, pa.Table):
        return _rows_of_batches(table.schema, table.to_batches(CHUNK_ROWS))
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"expected a DataFrame or an Arrow table, not {type(table).__qualname__}")
    levels = [place for place, name in enumerate(table.index.names) if name is not None]
    names = _names([*table.columns, *(table.index.names[place] for place in levels)])
    columns = [table.iloc[:, place] for place in range(len(table.columns))]
    columns += [table.index.get_level_values(place).to_series() for place in levels]
    return chain.from_iterable(
        _dicts(names, [_plain_column(column.iloc[start : start + CHUNK_ROWS]) for column in columns])
        for start in range(0, len(table), CHUNK_ROWS)
    )


def parquet_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, read in batches. A named index is a field, an unnamed one is dropped.

    Raises `OSError` or `ValueError` if it is not a Parquet file.
    """
    reader = pq.ParquetFile(path)
    return _rows_of_batches(reader.schema_arrow, reader.iter_batches(CHUNK_ROWS))


def _rows_of_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    unnamed, ranges = _index_of(schema)
    names = _names([*(name for name in schema.names if name not in unnamed), *ranges])
    return chain.from_iterable(_converted(batches, names, unnamed, ranges))


def _converted(
    batches: Iterable[pa.RecordBatch], names: Sequence[str], unnamed: Collection[str], ranges: Mapping[str, range]
) -> Iterator[list[dict[str, Any]]]:
    start = 0
    for batch in batches:
        columns = zip(batch.schema.names, batch.columns, strict=True)
        values = [_plain_array(column) for name, column in columns if name not in unnamed]
        values += [list(numbers[start : start + batch.num_rows]) for numbers in ranges.values()]
        start += batch.num_rows
        yield _dicts(names, values)


def _index_of(schema: pa.Schema) -> tuple[Collection[str], Mapping[str, range]]:
    """The columns with pandas' unnamed indexes, and the named indexes stored as ranges."""
    unnamed: set[str] = set()
    ranges: dict[str, range] = {}
    for kept in (schema.pandas_metadata or {}).get("index_columns", ()):
        if isinstance(kept, str):
            if _UNNAMED.fullmatch(kept):
                unnamed.add(kept)
        elif kept.get("kind") == "range" and kept.get("name") is not None:
            ranges[str(kept["name"])] = range(kept["start"], kept["stop"], kept["step"])
    return unnamed, ranges


def _names(columns: Any) -> list[str]:
    names = [str(name) for name in columns]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two columns have the name {min(twice)!r}")
    return names


def _dicts(names: Sequence[str], columns: Sequence[Sequence[Any]]) -> list[dict[str, Any]]:
    # A third faster than dict(zip(...)) per row: the copies are already sized for all names.
    blank: dict[str, Any] = dict.fromkeys(names)
    rows = [blank.copy() for _ in columns[0]] if columns else []
    for name, column in zip(names, columns, strict=True):
        for row, value in zip(rows, column, strict=True):
            row[name] = value
    return rows


def _plain_column(series: pd.Series[Any]) -> list[Any]:
    kind = series.dtype.kind if isinstance(series.dtype, np.dtype) else "O"
    if kind in "iub":
        return series.tolist()
    gaps = series.isna().to_numpy()
    if kind == "f" or isinstance(series.dtype, pd.StringDtype):
        values = series.tolist()
    elif kind == "M" or isinstance(series.dtype, pd.DatetimeTZDtype):
        values = pd.DatetimeIndex(series).as_unit("us").to_pydatetime().tolist()
    elif kind == "m":
        values = pd.TimedeltaIndex(series).as_unit("us").to_pytimedelta().tolist()
    elif isinstance(series.dtype, pd.CategoricalDtype):
        return _plain_categories(series)
    else:
        values = [value if type(value) in _PLAIN else plain(value) for value in series.tolist()]
    if gaps.any():
        for place in gaps.nonzero()[0].tolist():
            values[place] = None
    return values


def _plain_categories(series: pd.Series[Any]) -> list[Any]:
    categories = [*_plain_column(pd.Series(series.cat.categories)), None]  # code -1 is the missing value
    return [categories[code] for code in series.cat.codes.tolist()]


def _plain_array(array: pa.Array) -> list[Any]:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_timestamp(kind):  # nanoseconds would become pandas' own type
        return list(array.cast(pa.timestamp("us", kind.tz), safe=False).to_pylist())
    if pa.types.is_duration(kind):
        return list(array.cast(pa.duration("us"), safe=False).to_pylist())
    if (pa.types.is_integer(kind) or pa.types.is_floating(kind)) and not array.null_count:
        values = array.to_numpy(zero_copy_only=False).tolist()
    else:
        values = array.to_pylist()
    if pa.types.is_floating(kind):
        return [None if value != value else value for value in values]
    if pa.types.is_nested(kind):
        return [plain(value) for value in values]
    return list(values)


_PLAIN = frozenset({str, int, bool, bytes, type(None)})


def plain(value: Any) -> Any:
    """The value without NumPy and pandas types; NaN, NaT and NA become None."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if value is pd.NaT or value is pd.NA or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.as_unit("us").to_pydatetime()
    if isinstance(value, pd.Timedelta):
        return value.as_unit("us").to_pytimedelta()
    if isinstance(value, np.datetime64 | np.timedelta64):
        return plain(pd.Timestamp(value) if isinstance(value, np.datetime64) else pd.Timedelta(value))
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, pd.Period | pd.Interval):
        return str(value)
    return value
