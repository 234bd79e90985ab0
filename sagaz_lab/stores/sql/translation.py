"""Translates between the model's values and the rows of the SQL store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sagaz_lab.abc import DeadLetter, KeptEvent, NewRun, Publication, StoredRun, WaitingEvent
from sagaz_lab.model.event import Event, payload_as_sent
from sagaz_lab.model.run import STEP_ENDS, STEP_STARTS, Record, RecordKind
from sagaz_lab.stores.sql.damage import Parts, as_status, as_text
from sagaz_lab.stores.sql.rows import RunRow, marks, row
from sagaz_lab.stores.sql.transactions import RecordRows, Write
from sagaz_lab.stores.sql.waiting import WaitingRow
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.encoding import (
    Damaged,
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

_KINDS = {kind: kind for kind in (*STEP_STARTS, *STEP_ENDS)}

# The marks of most runs and records.
_RUN_ALONE = marks(10, 5)
_BARE_RECORD = marks(7, 4)


def text(value: str | None) -> str | None:
    """A text that databases accept, with lone surrogates escaped."""
    if value is None or value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode()


def known_kind(kind: Any) -> str:
    """A known kind of record. Raises `ValueError`."""
    if kind in _KINDS:
        return _KINDS[kind]
    raise ValueError(f"unknown kind of record {kind!r}")


def started_rows(run_id: str, names: Iterable[str], attempt: int, at: float) -> RecordRows:
    """Rows of actions that start."""
    rows: list[Any] = []
    for name in names:
        rows += (run_id, _BARE_RECORD, attempt, "action_started", name, 1, at, "")
    return rows


def started_records(run_id: str, starts: str, at: float) -> list[Record]:
    """Records of the actions that started with their run."""
    return [Record(run_id, 1, RecordKind.ACTION_STARTED, name, 1, at) for name in decode_names(starts)]


def run_row(new: NewRun, epoch: int, artifacts: Artifacts | None) -> RunRow:
    """Raises `NeedsFiles`, `UnstorableValue`."""
    run_id, event, at, trigger = new.run_id, new.event, new.at, new.trigger
    context = encode_plain(new.context) or encode(new.context, f"run {run_id}", "context", artifacts, run_id)
    claim, declared = text(new.claim), text(new.declared)
    status = str.__str__(new.status)
    attempt = 0 if status == "waiting" else 1
    starts = encode_names(new.started)
    values: Sequence[Any]
    values = (run_id, new.saga, new.revision, status, attempt, epoch, at, starts, bytearray(context))
    shape = _RUN_ALONE
    if event is not None:
        event_text = encode_plain(event_facts(event)) or encode_event(event, f"run {run_id}", artifacts, run_id)
        shape, values = row(values, trigger, claim, text(event.id), event_text, declared)
    elif trigger is not None or claim is not None:
        shape, values = row(values, trigger, claim, None, None, declared)
    ids, keys = _members(new, claim, declared) if new.members else ((), ())
    claims = ids if claim is None else [claim, *ids]
    declared_keys = keys if declared is None else [declared, *keys]
    cooldown = None if new.cooldown is None else (text(new.cooldown[0]) or "", new.cooldown[1])
    kind = "live" if new.declared_ends else "key"
    return RunRow(
        run_id, trigger or "", claims, new.claim_until, declared_keys, new.declared_until, kind, [*ids, *keys],
        cooldown, attempt == 0, at, shape, values,
    )  # fmt: skip


def _members(new: NewRun, claim: str | None, declared: str | None) -> tuple[Sequence[str], Sequence[str]]:
    """The members' claims, of ids and of declared keys, without duplicates and without the run's own."""
    ids = dict.fromkeys(text(member.claim) for member in new.members if member.claim is not None)
    keys = dict.fromkeys(text(member.declared) for member in new.members if member.declared is not None)
    return (
        [it for it in ids if it is not None and it != claim],
        [it for it in keys if it is not None and it != declared],
    )


def with_records(write: Write, records: Sequence[Record], artifacts: Artifacts | None) -> Write:
    """Add the records and their publications to the write. Raises `NeedsFiles`, `UnstorableValue`."""
    rows: list[Any] = []
    for record in records:
        if record.publications:
            write.publications = [*write.publications, *publication_rows(record.publications)]
        starts = encode_names(record.then) if record.then else ""
        if record.value is None and record.changes is None and record.error is None and record.traceback is None:
            rows += (record.run_id, _BARE_RECORD, record.attempt, record.kind, record.action, record.trial, record.at,
                     starts)  # fmt: skip
        else:
            rows += _full_row(record, starts, artifacts)
    write.records = rows
    return write


def _full_row(record: Record, starts: str, artifacts: Artifacts | None) -> list[Any]:
    value, changes = record.value, record.changes
    encoded = None if value is None else encode_plain(value) or _encoded(value, record, artifacts)
    changed = None if changes is None else encode_plain(changes) or _encoded(changes, record, artifacts)
    given = (record.attempt, record.kind, record.action, record.trial, record.at, starts)
    shape, values = row(given, encoded, changed, text(record.error), text(record.traceback))
    return [record.run_id, shape, *values]


def _encoded(value: Any, record: Record, artifacts: Artifacts | None) -> bytes:
    owner = f"run {record.run_id}, action {record.action!r}"
    return encode(value, owner, record.action, artifacts, record.run_id, record.codec)


def letter_row(letter: DeadLetter, artifacts: Artifacts | None) -> tuple[Any, ...]:
    """Raises `NeedsFiles`."""
    event = encode_event_or_text(letter.event, artifacts, letter.id)
    return (letter.id, text(letter.event.id), event, letter.trigger, letter.saga, text(letter.cause),
            text(letter.error), text(letter.traceback), letter.attempts, letter.revision, letter.at, letter.run_id,
            letter.redriven)  # fmt: skip


def letter_from(found: Sequence[Any], artifacts: Artifacts) -> tuple[int, DeadLetter]:
    """The dead letter with its number."""
    number, id, event_id, encoded, *texts, attempts, revision, at, run_id, redriven = found
    event = decode_event(encoded, artifacts, id=as_text(event_id)) or Event(id=as_text(event_id))
    trigger, saga, cause, error, traceback = map(as_text, texts)
    letter = DeadLetter(id=id, event=event, trigger=trigger, saga=saga, cause=cause, error=error, traceback=traceback,
                        attempts=attempts, revision=revision, at=at, run_id=run_id, redriven=redriven)  # fmt: skip
    return number, letter


def kept_row(kept: KeptEvent, artifacts: Artifacts | None, folder: str) -> tuple[Any, ...]:
    """Raises `NeedsFiles`."""
    event, trigger, outcome, reason, run_id, until = kept
    encoded = encode_event_or_text(event, artifacts, folder)
    return (text(event.id), encoded, trigger, str(outcome), text(reason), run_id, until,
            folder if artifacts else None)  # fmt: skip


def waiting_row(waiting: WaitingEvent, artifacts: Artifacts | None, folder: str) -> WaitingRow:
    """Raises `NeedsFiles`, `UnstorableValue`."""
    id, trigger, key, part, event, claim, at, declared = waiting
    encoded = encode_event(event, f"event {event.id}", artifacts, folder)
    return WaitingRow(id, trigger, text(key), part, text(claim), encoded, at, folder if artifacts else None,
                   text(declared))  # fmt: skip


def waiting_from(found: Sequence[Any], artifacts: Artifacts) -> WaitingEvent:
    id, trigger, key, part, claim, encoded, at, declared = found
    event = decode_event(encoded, artifacts) or Event()
    return WaitingEvent(id, trigger, as_text(key), part, event, as_text(claim), at, as_text(declared))


def publication_rows(publications: Iterable[Publication]) -> list[tuple[Any, ...]]:
    """Rows of publications, without the owner."""
    return [(id, text(topic), payload, trigger, run_id) for id, topic, payload, trigger, run_id in publications]


def publication_from(found: Sequence[Any]) -> tuple[int, Publication]:
    """The publication with its number; a payload repaired by hand as text becomes bytes."""
    number, id, topic, payload, trigger, run_id = found
    body = payload.encode() if isinstance(payload, str) else payload
    return number, Publication(as_text(id), as_text(topic), body, as_text(trigger), as_text(run_id))


def stored_run(found: Sequence[Any], records: Iterable[Sequence[Any]], artifacts: Artifacts) -> StoredRun:
    _, starts, run_id, saga, revision, trigger, event, context, status, attempt, started_at, retry_at, *end = found
    ended_at, error = end or (None, None)
    parts, nothing = Parts(), list[Record]()
    if not isinstance(run_id, str):
        parts.note("id", f"it is {run_id!r}")
    history = list(parts.read("first actions", lambda: started_records(run_id, starts, started_at), nothing))
    for number, each in enumerate(records, 1):
        get = partial(_record, run_id, each, artifacts)
        history.extend(parts.read(f"record {number}", get, nothing))
    values: Mapping[str, Any] = parts.read("context", lambda: _mapping(decode(context, artifacts)), {})
    found_event = decode_event(event, artifacts)
    if found_event is not None and isinstance(payload_as_sent(found_event), Damaged):
        parts.note("event", payload_as_sent(found_event).why)
    readable = as_status(status)
    if readable != status:
        parts.note("status", f"it is {as_text(status)!r}")
    return StoredRun(
        run_id, as_text(saga), revision, as_text(trigger), found_event, values, readable, attempt, started_at, retry_at,
        history, ended_at, as_text(error), parts.damage,
    )  # fmt: skip


def _mapping(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise TypeError(f"it is a {type(value).__name__}, not a mapping")
    return value


def _record(run_id: str, found: Sequence[Any], artifacts: Artifacts) -> list[Record]:
    attempt, kind, action, trial, at, value, changes, error, traceback, starts = found
    changed = None if changes is None else _mapping(decode(changes, artifacts))
    record = Record(run_id, attempt, known_kind(kind), as_text(action), trial, at, decode_names(starts), (),
                    decode(value, artifacts), changed, None, as_text(error), as_text(traceback))  # fmt: skip
    return list(record.in_full())
