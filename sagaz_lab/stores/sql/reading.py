"""Reads that need neither an open store nor its loop, through separate connections."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache, partial
from heapq import merge
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from sagaz_lab.abc import RevisionRow, StoredRun
from sagaz_lab.model.event import payload_as_sent
from sagaz_lab.model.masked_code import masked_code
from sagaz_lab.model.run import Record
from sagaz_lab.stores.frames import Rows, columns, steps
from sagaz_lab.stores.sql.damage import Parts, as_int, as_text, as_time, order
from sagaz_lab.stores.sql.driver import ALL, Connection, Driver
from sagaz_lab.stores.sql.leases import records_of
from sagaz_lab.stores.sql.translation import known_kind, started_records, stored_run, text
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.encoding import Damaged, decode_event, decode_names

_NUMBERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("revision", "attempt", "attempts", "trial", "redriven", "count"), as_int),
    **dict.fromkeys(("started_at", "ended_at", "at", "first_at", "last_at"), as_time),
}
"""The columns without text, with their readers."""

# Earlier versions stored the code unmasked.
_masked = lru_cache(maxsize=256)(masked_code)


def read_frame(
    driver: Driver,
    artifacts: Artifacts,
    frame: str,
    limit: int | None,
    before: str | None = None,
    status: str | None = None,
) -> Rows:
    """The rows of a frame, newest first; none without a store. `before` filters dead letters, `status` runs."""
    names, most = columns(frame), ALL if limit is None else limit
    with driver.reading() as connection:
        if connection is None:
            return names, []
        if frame == "events":
            return names, list(islice(_events(driver, connection, artifacts), limit))
        if frame == "outcomes":
            return names, _sound(names, islice(_outcomes(driver, connection, most), limit))
        if frame == "steps":
            return names, _sound(names, islice(_steps(driver, connection), limit))
        if frame == "dead_letters" and before is not None:
            return names, _sound(names, connection.execute(driver.sql["dead_letters_before"], (text(before), most)))
        if frame == "runs" and status is not None:
            return names, _sound(names, connection.execute(driver.sql["runs_of_status"], (status, most)))
        return names, _sound(names, connection.execute(driver.sql[f"{frame}_frame"], (most,)))


def _sound(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Clean the rows: a damaged value becomes text in a text column, else None."""
    reads = [_NUMBERS.get(name, as_text) for name in names]
    times = [place for place, read in enumerate(reads) if read is as_time]
    found, usual = [], set[tuple[type, ...]]()  # the few type signatures of undamaged rows
    for row in rows:
        types = tuple(map(type, row))
        if types in usual and not any(row[at] is not None and as_time(row[at]) is None for at in times):
            found.append(row)
            continue
        found.append(tuple([read(value) for read, value in zip(reads, row, strict=True)]))
        if found[-1] == row:
            usual.add(types)
    return found


def read_revisions(driver: Driver, saga: str, newest: int | None) -> Sequence[RevisionRow]:
    """The revisions of a saga, oldest first; all, or the `newest` N."""
    with driver.reading() as connection:
        return [] if connection is None else revisions_of(driver, connection, saga, newest)


def revisions_of(driver: Driver, connection: Connection, saga: str, newest: int | None) -> Sequence[RevisionRow]:
    rows = connection.execute(driver.sql["select_revisions"], (saga, ALL if newest is None else newest)).fetchall()
    text_rows = (map(as_text, row) for row in reversed(rows))
    return [row._replace(source_text=_masked(row.source_text)) for row in map(RevisionRow._make, text_rows)]


def read_run(driver: Driver, artifacts: Artifacts, run_id: str) -> StoredRun | None:
    """The run with its records."""
    with driver.reading() as connection:
        return None if connection is None else run_from(driver, connection, artifacts, run_id)


def run_from(driver: Driver, connection: Connection, artifacts: Artifacts, run_id: str) -> StoredRun | None:
    row = connection.execute(driver.sql["select_run"], (run_id,)).fetchone()
    return None if row is None else stored_run(row, records_of(connection, driver.sql, row[0]), artifacts)


def _outcomes(driver: Driver, connection: Connection, limit: int) -> Iterable[tuple[Any, ...]]:
    names = ("started_outcomes", "dead_outcomes", "kept_outcomes")
    parts = (connection.execute(driver.sql[name], (limit,)) for name in names)
    return merge(*parts, key=lambda row: order(as_time(row[-1])), reverse=True)


def _steps(driver: Driver, connection: Connection) -> Iterator[tuple[Any, ...]]:
    rows = driver.stream(connection, "records_newest_first")
    for (run_id, started_at, first), of_run in groupby(rows, key=itemgetter(0, 1, 2)):
        parts, nothing = Parts(), list[Record]()
        records = [*parts.read("first actions", partial(_first_records, run_id, first, started_at), nothing)]
        for _, _, _, *facts in of_run:
            if facts[1] is not None:  # otherwise it has only its first records
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
    record = Record(run_id, attempt, known_kind(kind), as_text(action), trial, at, error=as_text(error),
                    then=decode_names(starts))  # fmt: skip
    return list(record.in_full())


def _events(driver: Driver, connection: Connection, artifacts: Artifacts) -> Iterator[tuple[Any, ...]]:
    parts = (driver.stream(connection, name) for name in ("events_of_runs", "events_kept"))
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
