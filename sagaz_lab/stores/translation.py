"""Between the model's values and the rows of the SQL store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sagaz_lab.abc import DeadLetter, NewRun, StoredRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Record, RecordKind, RunStatus
from sagaz_lab.stores.artifacts import Artifacts
from sagaz_lab.stores.encoding import decode, decode_event, encode, encode_event, encode_event_or_text
from sagaz_lab.stores.transactions import RecordRow, RunRow

_KINDS = {str(kind): kind for kind in RecordKind}


def text(value: str | None) -> str | None:
    """The text as SQLite can hold it: a lone surrogate becomes its escape."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode()


def started_rows(names: Iterable[str], attempt: int, at: float) -> list[RecordRow]:
    """The records of actions that start."""
    return [(attempt, "action_started", name, 1, at, None, None, None, None) for name in names]


def run_row(new: NewRun, epoch: int, artifacts: Artifacts | None) -> RunRow:
    """Raises `NeedsFiles`, `UnstorableValue`."""
    run_id, event, at = new.run_id, new.event, new.at
    owner = f"run {run_id} of {new.saga}"
    event_id, event_text = None, None
    if event is not None:
        event_id, event_text = text(event.id), encode_event(event, owner, artifacts, run_id)
    context = encode(new.context, owner, "context", artifacts, run_id) if new.context else b"{}"
    claim = text(new.claim)
    # Exact types: SQLite would ask for an adapter for the enum each time.
    status = str.__str__(new.status)
    attempt = 0 if status == "waiting" else 1
    values = (
        run_id,
        new.saga,
        new.revision,
        new.trigger,
        status,
        attempt,
        epoch,
        claim,
        event_id,
        event_text,
        context,
        at,
    )
    return RunRow(run_id, new.trigger or "", claim, new.claim_until, at, values, started_rows(new.started, 1, at))


def record_row(record: Record, artifacts: Artifacts | None) -> tuple[str, RecordRow]:
    """The run's id and the record's row. Raises `NeedsFiles`, `UnstorableValue`."""
    run_id, attempt, kind, action, trial, at, value, changes, error, trace, codec = record
    value_text = changes_text = None
    if value is not None:
        value_text = encode(value, f"run {run_id}, action {action!r}", action, artifacts, run_id, codec)
    if changes:
        changes_text = encode(changes, f"run {run_id}, action {action!r}", action, artifacts, run_id, codec)
    kind_text = str.__str__(kind)
    return run_id, (attempt, kind_text, action, trial, at, value_text, changes_text, text(error), text(trace))


def letter_row(letter: DeadLetter, artifacts: Artifacts | None) -> tuple[Any, ...]:
    """Raises `NeedsFiles`."""
    event = encode_event_or_text(letter.event, artifacts, letter.id)
    return (letter.id, text(letter.event.id), event, letter.trigger, letter.saga, text(letter.cause),
            text(letter.error), text(letter.traceback), letter.attempts, letter.revision, letter.at,
            letter.run_id)  # fmt: skip


def letter_from(id: str, row: Sequence[Any], artifacts: Artifacts) -> DeadLetter:
    encoded, trigger, saga, cause, error, traceback, attempts, revision, at, run_id = row
    event = decode_event(encoded, artifacts) or Event()
    return DeadLetter(id=id, event=event, trigger=trigger, saga=saga, cause=cause, error=error, traceback=traceback,
                      attempts=attempts, revision=revision, at=at, run_id=run_id)  # fmt: skip


def kept_row(kept: tuple[Event, str, str, str], artifacts: Artifacts | None, folder: str) -> tuple[Any, ...]:
    """Raises `NeedsFiles`."""
    event, trigger, outcome, reason = kept
    encoded = encode_event_or_text(event, artifacts, folder)
    return text(event.id), encoded, trigger, str(outcome), text(reason), folder if artifacts else None


def stored_run(row: Sequence[Any], records: Iterable[Sequence[Any]], artifacts: Artifacts) -> StoredRun:
    _, run_id, saga, revision, trigger, event, context, status, attempt, started_at, retry_at = row
    return StoredRun(
        run_id, saga, revision, trigger, decode_event(event, artifacts), decode(context, artifacts), RunStatus(status),
        attempt, started_at, retry_at, [_record(run_id, record, artifacts) for record in records],
    )  # fmt: skip


def _record(run_id: str, row: Sequence[Any], artifacts: Artifacts) -> Record:
    attempt, kind, action, trial, at, value, changes, error, traceback = row
    return Record(run_id, attempt, _KINDS[kind], action, trial, at, decode(value, artifacts),
                  decode(changes, artifacts), error, traceback)  # fmt: skip
