"""What was running when a process crashed or stopped, and how often.

The process that resumes a run journals the crash: it cuts off the running action, so that its trials count. Otherwise
an action that kills its process would be resumed for ever.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from sagaz_lab.abc import StoredRun
from sagaz_lab.model.run import History, Record, RecordKind

DIED = "its process died"
STOPPED = "the Lab was stopped"

_ACTION_KINDS = (
    RecordKind.ACTION_STARTED,
    RecordKind.ACTION_FINISHED,
    RecordKind.ACTION_FAILED,
    RecordKind.ACTION_CUT_OFF,
)
_COMPENSATION_ENDS = (RecordKind.COMPENSATION_FINISHED, RecordKind.COMPENSATION_FAILED)


def cut_off(stored: StoredRun, at: float, error: str) -> list[Record]:
    """The records that cut off what was running."""
    history = History.of(stored.records, stored.attempt)
    if history.compensating:
        last = _last_compensation(stored)
        return [] if last is None else [_ended(last, RecordKind.COMPENSATION_FAILED, at, error)]
    started = {r.action: r for r in _of_attempt(stored) if r.kind == RecordKind.ACTION_STARTED}
    return [
        _ended(record, RecordKind.ACTION_CUT_OFF, at, error)
        for name, record in started.items()
        if name not in history.finished and name not in history.failed
    ]


def crashes(stored: StoredRun, record: Record) -> int:
    """How many crashes have cut off this action or compensation since it was last given up."""
    count = 0
    for earlier in _of_attempt(stored):
        if earlier.action == record.action and earlier.kind == record.kind:
            count = 0 if earlier.value else count + (earlier.error == DIED)
    return count


def given_up(record: Record, count: int) -> Record:
    """The same record, given up after this many crashes; the `value` of a failure is True if it is permanent."""
    what = "action" if record.kind == RecordKind.ACTION_CUT_OFF else "compensation of"
    text = f"{what} {record.action!r} was under way each of the {count} times that its process died"
    return replace(record, value=True, error=text)


def is_given_up(stored: StoredRun, name: str) -> bool:
    """Whether the action's last record says that it was given up."""
    last = None
    for record in _of_attempt(stored):
        if record.action == name and record.kind in _ACTION_KINDS:
            last = record
    return last is not None and last.kind == RecordKind.ACTION_CUT_OFF and bool(last.value)


def _of_attempt(stored: StoredRun) -> Iterable[Record]:
    return (record for record in stored.records if record.attempt == stored.attempt)


def _last_compensation(stored: StoredRun) -> Record | None:
    """The start of the unfinished compensation; compensations run one at a time."""
    under_way = None
    for record in _of_attempt(stored):
        if record.kind == RecordKind.COMPENSATION_STARTED:
            under_way = record
        elif record.kind in _COMPENSATION_ENDS:
            under_way = None
    return under_way


def _ended(start: Record, kind: str, at: float, error: str) -> Record:
    return Record(start.run_id, start.attempt, kind, start.action, start.trial, at, error=error)
