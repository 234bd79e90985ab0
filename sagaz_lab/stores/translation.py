"""Between the model's values and the rows of the SQL store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sagaz_lab.abc import DeadLetter, HeldEvent, KeptEvent, NewRun, Publication, StoredRun
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import PUBLICATIONS, Record, RecordKind, RecordRow, RunStatus
from sagaz_lab.stores.artifacts import Artifacts
from sagaz_lab.stores.encoding import (
    decode,
    decode_event,
    decode_names,
    encode,
    encode_event,
    encode_event_or_text,
    encode_names,
    encode_plain,
    event_facts,
)
from sagaz_lab.stores.held import HeldRow
from sagaz_lab.stores.transactions import RecordsOf, RecordValues, RunRow

_KINDS = {str(kind): kind for kind in RecordKind}


def text(value: str | None) -> str | None:
    """The text as SQLite can hold it: a lone surrogate becomes its escape."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode()


def started_rows(names: Iterable[str], attempt: int, at: float) -> RecordValues:
    """The records of actions that start."""
    rows: list[Any] = []
    for name in names:
        rows += (attempt, "action_started", name, 1, at, None, None, None, None, None)
    return rows


def run_row(new: NewRun, epoch: int, artifacts: Artifacts | None) -> RunRow:
    """Raises `NeedsFiles`, `UnstorableValue`."""
    run_id, event, at = new.run_id, new.event, new.at
    event_id = event_text = None
    if event is not None:
        event_id = text(event.id)
        event_text = encode_plain(event_facts(event)) or encode_event(event, f"run {run_id}", artifacts, run_id)
    context = encode_plain(new.context) or encode(new.context, f"run {run_id}", "context", artifacts, run_id)
    claim = text(new.claim)
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
    members = _members(new, claim) if new.members else ()
    claims = members if claim is None else [claim, *members]
    cooldown = None if new.cooldown is None else (text(new.cooldown[0]) or "", new.cooldown[1])
    return RunRow(run_id, new.trigger or "", claims, members, new.claim_until, "live" if new.claim_ends else "key",
                  cooldown, attempt == 0, at, values, started_rows(new.started, 1, at))  # fmt: skip


def _members(new: NewRun, own: str | None) -> Sequence[str]:
    """The claims of a run's members, each once and but for its own."""
    claims = dict.fromkeys(text(member.claim) for member in new.members)
    return [claim for claim in claims if claim is not None and claim != own]


def record_rows(records: Sequence[RecordRow], artifacts: Artifacts | None) -> list[RecordsOf]:
    """The rows of records, by run. Raises `NeedsFiles`, `UnstorableValue`."""
    found: list[RecordsOf] = []
    rows: list[Any] = []
    for record in records:
        run_id, attempt, kind, action, trial, at, value, changes, error, trace, _, _, then = record
        encoded = None if value is None else encode_plain(value) or _encoded(value, record, artifacts)
        changed = None if changes is None else encode_plain(changes) or _encoded(changes, record, artifacts)
        if not found or found[-1][0] != run_id:
            rows = []
            found.append((run_id, rows))
        # Exact types: for an enum SQLite would look for an adapter each time.
        rows += (attempt, str.__str__(kind), action, trial, at, encoded, changed,
                 error and text(error), trace and text(trace), encode_names(then) if then else None)  # fmt: skip
    return found


def _encoded(value: Any, row: RecordRow, artifacts: Artifacts | None) -> bytes:
    record = Record._make(row)
    owner = f"run {record.run_id}, action {record.action!r}"
    return encode(value, owner, record.action, artifacts, record.run_id, record.codec)


def letter_row(letter: DeadLetter, artifacts: Artifacts | None) -> tuple[Any, ...]:
    """Raises `NeedsFiles`."""
    event = encode_event_or_text(letter.event, artifacts, letter.id)
    return (letter.id, text(letter.event.id), event, letter.trigger, letter.saga, text(letter.cause),
            text(letter.error), text(letter.traceback), letter.attempts, letter.revision, letter.at, letter.run_id,
            letter.redriven)  # fmt: skip


def letter_from(row: Sequence[Any], artifacts: Artifacts) -> tuple[int, DeadLetter]:
    """The letter with its number."""
    number, id, encoded, trigger, saga, cause, error, traceback, attempts, revision, at, run_id, redriven = row
    event = decode_event(encoded, artifacts) or Event()
    letter = DeadLetter(id=id, event=event, trigger=trigger, saga=saga, cause=cause, error=error, traceback=traceback,
                        attempts=attempts, revision=revision, at=at, run_id=run_id, redriven=redriven)  # fmt: skip
    return number, letter


def kept_row(kept: KeptEvent, artifacts: Artifacts | None, folder: str) -> tuple[Any, ...]:
    """Raises `NeedsFiles`."""
    event, trigger, outcome, reason, run_id, until = kept
    encoded = encode_event_or_text(event, artifacts, folder)
    return (text(event.id), encoded, trigger, str(outcome), text(reason), run_id, until,
            folder if artifacts else None)  # fmt: skip


def held_row(held: HeldEvent, artifacts: Artifacts | None, folder: str) -> HeldRow:
    """Raises `NeedsFiles`, `UnstorableValue`."""
    id, trigger, key, part, event, claim, at = held
    encoded = encode_event(event, f"event {event.id}", artifacts, folder)
    return HeldRow(id, trigger, text(key), part, text(claim), encoded, at, folder if artifacts else None)


def held_from(row: Sequence[Any], artifacts: Artifacts) -> HeldEvent:
    id, trigger, key, part, claim, encoded, at = row
    return HeldEvent(id, trigger, key, part, decode_event(encoded, artifacts) or Event(), claim, at)


def publication_rows(publications: Iterable[Publication]) -> list[tuple[Any, ...]]:
    """The rows of what is to be published, but for the owner."""
    return [(id, text(topic), payload, trigger, run_id) for id, topic, payload, trigger, run_id in publications]


def publications_of(records: Iterable[RecordRow]) -> Sequence[tuple[Any, ...]]:
    """The rows of what the records have to publish."""
    found: list[Publication] = []
    for record in records:
        found += record[PUBLICATIONS]
    return publication_rows(found) if found else ()


def stored_run(row: Sequence[Any], records: Iterable[Sequence[Any]], artifacts: Artifacts) -> StoredRun:
    _, run_id, saga, revision, trigger, event, context, status, attempt, started_at, retry_at, *end = row
    history = [record for row in records for record in _record(run_id, row, artifacts).in_full()]
    return StoredRun(
        run_id, saga, revision, trigger, decode_event(event, artifacts), decode(context, artifacts), RunStatus(status),
        attempt, started_at, retry_at, history, *end,
    )  # fmt: skip


def _record(run_id: str, row: Sequence[Any], artifacts: Artifacts) -> Record:
    attempt, kind, action, trial, at, value, changes, error, traceback, starts = row
    return Record(run_id, attempt, _KINDS[kind], action, trial, at, decode(value, artifacts),
                  decode(changes, artifacts), error, traceback, then=decode_names(starts))  # fmt: skip
