"""The columns of the frames that every store provides, and the steps derived from a run's records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sagaz_lab.errors import UnknownName
from sagaz_lab.model.run import STEP_ENDS, STEP_STARTS, Record

Rows = tuple[Sequence[str], Sequence[Sequence[Any]]]

COLUMNS: dict[str, tuple[str, ...]] = {
    frame: tuple(names.split())
    for frame, names in {
        "runs": "run_id saga revision trigger status event_id attempt started_at ended_at error",
        "steps": "run_id action kind status attempt trial started_at duration_s error",
        "outcomes": "event_id trigger outcome reason run_id revision at",
        "dead_letters": "id event_id trigger cause error attempts revision at run_id state redriven",
        "causes": "cause count first_at last_at error",
        "publications": "id topic trigger run_id",
        "events": "event_id source key timestamp payload",
        "counts": "trigger outcome reason count",
        "claims": "trigger count",
    }.items()
}


def columns(frame: str) -> tuple[str, ...]:
    """The columns of a frame. Raises `UnknownName`."""
    if frame not in COLUMNS:
        raise UnknownName("rows()", "frame", frame, COLUMNS)
    return COLUMNS[frame]


def steps(records: Iterable[Record]) -> Iterator[tuple[Any, ...]]:
    """One row for each trial of an action or a compensation, newest first, from the records of one run."""
    rows: dict[tuple[int, str, str, int], list[Any]] = {}
    for record in records:
        if record.kind in STEP_STARTS:
            kind = STEP_STARTS[record.kind]
            key = (record.attempt, kind, record.action, record.trial)
            rows[key] = [record.run_id, record.action, kind, "running", *key[::3], record.at, None, None]
        else:
            kind, status = STEP_ENDS[record.kind]
            row = rows.get((record.attempt, kind, record.action, record.trial))
            if row is not None:
                row[3], row[7], row[8] = status, record.at - row[6], record.error
    return (tuple(row) for row in reversed(rows.values()))
