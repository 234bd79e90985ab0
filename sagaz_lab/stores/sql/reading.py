"""Reads of a store's file that need neither an open store nor its loop: through a connection of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import lru_cache, partial
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

from sagaz_lab.abc import RevisionRow, StoredRun
from sagaz_lab.model.event import payload_as_sent
from sagaz_lab.model.masked_code import masked_code
from sagaz_lab.model.run import Record
from sagaz_lab.stores.frames import Rows, columns, steps
from sagaz_lab.stores.sql.connection import NOW, connect_to_read, unavailable
from sagaz_lab.stores.sql.damage import Parts, as_int, as_time, order, shown
from sagaz_lab.stores.sql.leases import records_of
from sagaz_lab.stores.sql.statements import statements
from sagaz_lab.stores.sql.translation import known_kind, started_records, stored_run, text
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.encoding import Damaged, decode_event, decode_names

_NUMBERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("revision", "attempt", "attempts", "trial", "redriven", "count"), as_int),
    **dict.fromkeys(("started_at", "ended_at", "at", "first_at", "last_at"), as_time),
}
"""The columns that have no texts, and how a value of theirs is read."""

# Earlier versions stored the code as it was written.
_masked = lru_cache(maxsize=256)(masked_code)


def read_frame(
    path: Path,
    artifacts: Artifacts,
    frame: str,
    limit: int | None,
    before: str | None = None,
    status: str | None = None,
) -> Rows:
    """The rows of a frame, newest first; none if there is no file yet. `before` is for letters, `status` for runs."""
    names = columns(frame)
    if not path.exists():
        return names, []
    try:
        with closing(connect_to_read(path)) as connection:
            if frame == "events":
                return names, list(islice(_events(connection, artifacts), limit))
            if frame == "outcomes":
                return names, _sound(names, islice(_outcomes(connection, limit), limit))
            if frame == "steps":
                return names, _sound(names, islice(_steps(connection), limit))
            if frame == "dead_letters" and before is not None:
                values = (text(before), -1 if limit is None else limit)
                return names, _sound(
                    names, connection.execute(statements(NOW)["dead_letters_before"], values).fetchall()
                )
            if frame == "runs" and status is not None:
                values = (status, -1 if limit is None else limit)
                return names, _sound(names, connection.execute(statements(NOW)["runs_of_status"], values))
            return names, _sound(names, _select(connection, f"{frame}_frame", limit))
    except sqlite3.Error as error:
        raise unavailable(path, error) from error


def _sound(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The rows; a damaged value is a text where its column has texts, else None."""
    reads = [_NUMBERS.get(name, shown) for name in names]
    times = [place for place, read in enumerate(reads) if read is as_time]
    found, usual = [], set[tuple[type, ...]]()  # the types of rows without damage: there are but a few
    for row in rows:
        types = tuple(map(type, row))
        if types in usual and not any(row[at] is not None and as_time(row[at]) is None for at in times):
            found.append(row)
            continue
        found.append(tuple([read(value) for read, value in zip(reads, row, strict=True)]))
        if found[-1] == row:
            usual.add(types)
    return found


def read_revisions(path: Path, saga: str, newest: int | None) -> Sequence[RevisionRow]:
    """The revisions of a saga, oldest first, all or so many of the newest."""
    if not path.exists():
        return []
    try:
        with closing(connect_to_read(path)) as connection:
            return revisions_of(connection, saga, newest)
    except sqlite3.Error as error:
        raise unavailable(path, error) from error


def revisions_of(connection: sqlite3.Connection, saga: str, newest: int | None) -> Sequence[RevisionRow]:
    rows = connection.execute(statements(NOW)["select_revisions"], (saga, -1 if newest is None else newest)).fetchall()
    shown_rows = (map(shown, row) for row in reversed(rows))
    return [row._replace(source_text=_masked(row.source_text)) for row in map(RevisionRow._make, shown_rows)]


def read_run(path: Path, artifacts: Artifacts, run_id: str) -> StoredRun | None:
    """The run with its records."""
    if not path.exists():
        return None
    try:
        with closing(connect_to_read(path)) as connection:
            return run_from(connection, statements(NOW), artifacts, run_id)
    except sqlite3.Error as error:
        raise unavailable(path, error) from error


def run_from(connection: Any, sql: Mapping[str, str], artifacts: Artifacts, run_id: str) -> StoredRun | None:
    row = connection.execute(sql["select_run"], (run_id,)).fetchone()
    return None if row is None else stored_run(row, records_of(connection, sql, row[0]), artifacts)


def _select(connection: sqlite3.Connection, name: str, limit: int | None) -> sqlite3.Cursor:
    return connection.execute(statements(NOW)[name], (-1 if limit is None else limit,))


def _outcomes(connection: sqlite3.Connection, limit: int | None) -> Iterable[tuple[Any, ...]]:
    parts = (_select(connection, name, limit) for name in ("started_outcomes", "dead_outcomes", "kept_outcomes"))
    return merge(*parts, key=lambda row: order(as_time(row[-1])), reverse=True)


def _steps(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    rows = connection.execute(statements(NOW)["records_newest_first"])
    for (run_id, started_at, first), of_run in groupby(rows, key=itemgetter(0, 1, 2)):
        parts, nothing = Parts(), list[Record]()
        records = [*parts.read("first actions", partial(_first_records, run_id, first, started_at), nothing)]
        for _, _, _, *facts in of_run:
            if facts[1] is not None:  # else the run has none but its first ones
                records.extend(parts.read("record", partial(_record, run_id, *facts), nothing))
        if parts.damage is not None:
            yield run_id, "", "record", "unreadable", None, None, started_at, None, parts.damage
        yield from steps(records)


def _first_records(run_id: str, first: str, started_at: float) -> list[Record]:
    if as_time(started_at) is None:
        raise ValueError(f"the run started at {started_at!r}")
    return started_records(run_id, first, started_at)


def _record(
    run_id: str, attempt: int, kind: str, action: str, trial: int, at: float, error: str | None, starts: str
) -> list[Record]:
    if as_time(at) is None or as_int(attempt) is None or as_int(trial) is None:
        raise ValueError(f"it is attempt {attempt!r}, trial {trial!r}, at {at!r}")
    record = Record(run_id, attempt, known_kind(kind), shown(action), trial, at, error=shown(error),
                    then=decode_names(starts))  # fmt: skip
    return list(record.in_full())


def _events(connection: sqlite3.Connection, artifacts: Artifacts) -> Iterator[tuple[Any, ...]]:
    parts = (connection.execute(statements(NOW)[name]) for name in ("events_of_runs", "events_kept"))
    seen = set()
    for at, encoded in merge(*parts, key=lambda row: order(as_time(row[0])), reverse=True):
        event = decode_event(encoded, artifacts, load=False)
        if event is None or (event.source, event.id) in seen:
            continue
        payload = payload_as_sent(event)
        if isinstance(payload, Damaged):
            moment = None if as_time(at) is None else datetime.fromtimestamp(at, UTC)
            yield event.id, "unreadable", None, moment, repr(payload)
            continue
        seen.add((event.source, event.id))
        yield event.id, event.source, event.key, event.timestamp, payload
