"""Group commit: what many callers write, in one transaction.

A group is first written on the assumption that nothing in it is amiss, with few and large statements. If anything
is - a claim is taken, a value does not fit - it is rolled back and written again, write by write with a savepoint
each, so that one caller's mistake is not the others'. If the database itself refuses (a full disk), each write gets
a transaction of its own.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sagaz_lab.abc import Refusal
from sagaz_lab.errors import LeaseLost, SagazLabError, StoreError, StoreUnavailable, describe
from sagaz_lab.model.run import RESTARTABLE, RunStatus
from sagaz_lab.stores.connection import is_hopeless, unavailable
from sagaz_lab.stores.statements import with_rows

RECORDS_PER_RUN = 1 << 20
"""A record's key is its run's number times this, plus its own number."""

# Rows of one statement: few sizes, so that the compiled statements are used again.
_ROWS = (128, 64, 32, 16, 8, 4, 2, 1)

RecordRow = tuple[Any, ...]
RecordsOf = tuple[str, Sequence[RecordRow]]
"""A run's id and rows to add to its records."""


class RunRow(NamedTuple):
    """A run to insert: the values of its row but for the number, and the records that go with it."""

    run_id: str
    trigger: str
    claim: str | None
    until: float | None
    at: float
    values: tuple[Any, ...]
    records: Sequence[RecordRow]


class Write:
    """What one call changes: inserts `runs`, adds `records`, then begins or ends the run `run_id`, then `call`s.

    `begin` and `end` are the values of their statements but for the run's number. `future` and `loop` are the
    caller's; `result` or `error` is set when it has been settled.
    """

    __slots__ = ("begin", "call", "end", "error", "future", "loop", "records", "result", "run_id", "runs")

    def __init__(self, run_id: str = "", *, runs: Sequence[RunRow] = (), records: Sequence[RecordsOf] = (),
                 begin: tuple[Any, ...] | None = None, end: tuple[Any, ...] | None = None,
                 call: Callable[[Transactions], Any] | None = None) -> None:  # fmt: skip
        self.run_id = run_id
        self.runs = runs
        self.records = records
        self.begin = begin
        self.end = end
        self.call = call
        self.future: Any = None
        self.loop: Any = None
        self.result: Any = None
        self.error: BaseException | None = None


class Transactions:
    """Writes groups through one connection, fenced by one owner's lease. For one thread at a time."""

    def __init__(self, path: str, connection: sqlite3.Connection, sql: Mapping[str, str], epoch: int) -> None:
        self.connection = connection
        self.sql = sql
        self.epoch = epoch
        self._path = path
        self._inode = os.stat(path).st_ino
        self._newest_run = 0
        # The key of the next record of each live run.
        self._next_record: dict[str, int] = {}

    def commit(self, writes: Sequence[Write]) -> None:
        """Settle them all. Raises nothing."""
        try:
            try:
                self._transaction(writes, self._write_together)
            except (StoreUnavailable, LeaseLost):
                raise
            except Exception:
                self._transaction(writes, self._write_one_by_one)
        except LeaseLost as error:
            for write in writes:
                write.error = error
        except Exception as error:
            self._commit_alone(writes, error)

    def _commit_alone(self, writes: Sequence[Write], error: Exception) -> None:
        alone = len(writes) > 1 and not is_hopeless(error)
        for write in writes:
            write.result, write.error = None, None if alone else self._described(error)
            if alone:
                try:
                    self._transaction([write], self._write_one_by_one)
                except Exception as failure:
                    write.error = self._described(failure)
                    alone = not is_hopeless(failure)

    def _described(self, error: BaseException) -> BaseException:
        return unavailable(self._path, error) if isinstance(error, sqlite3.Error) else error

    def _transaction(self, writes: Sequence[Write], how: Callable[[Sequence[Write]], None]) -> None:
        connection = self.connection
        self._find_file()
        try:
            connection.execute("BEGIN IMMEDIATE")
            row = connection.execute(self.sql["fence"], (self.epoch,)).fetchone()
            if row is None or row[0]:
                raise LeaseLost(f"another process has taken over the runs of this one in {self._path}; "
                                "open the store anew")  # fmt: skip
            self._newest_run = row[1] or 0
            how(writes)
            connection.execute("COMMIT")
        except BaseException:
            self._next_record.clear()
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _find_file(self) -> None:
        try:
            found = os.stat(self._path).st_ino
        except OSError:
            found = None
        if found != self._inode:
            what = "is gone" if found is None else "was replaced"
            raise StoreUnavailable(f"the store {self._path} {what} while it was open; put it back, or open it anew")

    # --- all at once ---

    def _write_together(self, writes: Sequence[Write]) -> None:
        group = _Group()
        for write in writes:
            if write.call is not None or write.run_id in group.changed:
                self._flush(group)
                group = _Group()
            self._add(write, group)
            if write.call is not None:
                self._flush(group)
                group = _Group()
                write.result = write.call(self)
            if write.runs:
                write.result = {}
        self._flush(group)

    def _add(self, write: Write, group: _Group) -> None:
        for run in write.runs:
            self._add_run(run, group)
            if run.claim is not None:
                group.claims += (run.trigger, run.claim, run.run_id, run.until)
        self._add_changes(write, group)

    def _add_run(self, run: RunRow, group: _Group) -> None:
        self._newest_run += 1
        group.runs.append(self._newest_run)
        group.runs += run.values
        self._next_record[run.run_id] = self._newest_run * RECORDS_PER_RUN
        self._add_records(run.run_id, run.records, group.records)

    def _add_changes(self, write: Write, group: _Group) -> None:
        for run_id, rows in write.records:
            self._add_records(run_id, rows, group.records)
        if write.begin is not None:
            group.changed.add(write.run_id)
            group.begins.append((*write.begin, self.run_number(write.run_id)))
        if write.end is not None:
            group.changed.add(write.run_id)
            group.ends.append((*write.end, self.run_number(write.run_id)))

    def _add_records(self, run_id: str, rows: Sequence[RecordRow], values: list[Any]) -> None:
        key = first = self._next_record.get(run_id) or self._find_next_record(run_id)
        for row in rows:
            values.append(key)
            values += row
            key += 1
        if key // RECORDS_PER_RUN != first // RECORDS_PER_RUN:
            raise StoreError(f"run {run_id!r} has more than a million records")
        self._next_record[run_id] = key

    def _flush(self, group: _Group) -> None:
        self._insert("insert_claims", 4, group.claims)
        self._insert("insert_runs", 13, group.runs)
        self._insert("insert_records", 10, group.records)
        if group.begins:
            self.connection.executemany(self.sql["begin_run"], group.begins)
        if group.ends:
            self.connection.executemany(self.sql["end_run"], group.ends)

    def _insert(self, name: str, width: int, values: list[Any]) -> None:
        # Many rows a statement, because between statements another thread may take the interpreter.
        done, sql = 0, self.sql[name]
        for rows in _ROWS:
            while len(values) - done >= rows * width:
                upto = done + rows * width
                self.connection.execute(with_rows(sql, rows), values[done:upto])
                done = upto

    def run_number(self, run_id: str) -> int:
        """The number of the run's row. Raises `StoreError` if there is none."""
        return (self._next_record.get(run_id) or self._find_next_record(run_id)) // RECORDS_PER_RUN

    def forget_run(self, run_id: str) -> None:
        """Its row is deleted."""
        self._next_record.pop(run_id, None)

    def _find_next_record(self, run_id: str) -> int:
        found = self.connection.execute(self.sql["find_run"], (run_id,)).fetchone()
        if found is None:
            raise StoreError(f"no run {run_id!r} in {self._path}")
        first: int = found[0] * RECORDS_PER_RUN
        last: int | None = self.connection.execute(
            self.sql["last_record"], (first, first + RECORDS_PER_RUN)
        ).fetchone()[0]
        return first if last is None else last + 1

    # --- one by one ---

    def _write_one_by_one(self, writes: Sequence[Write]) -> None:
        for write in writes:
            write.result, write.error = None, None
            self.connection.execute("SAVEPOINT one")
            try:
                self._write_exactly(write)
            except sqlite3.OperationalError:
                raise
            except Exception as error:
                self.connection.execute("ROLLBACK TO one")
                self._next_record.clear()
                known = isinstance(error, SagazLabError)
                write.error = error if known else StoreError(f"it cannot be stored: {describe(error)}")
            self.connection.execute("RELEASE one")

    def _write_exactly(self, write: Write) -> None:
        refused = {}
        for run in write.runs:
            refusal = self._refusal(run)
            if refusal is not None:
                refused[run.run_id] = refusal
                continue
            group = _Group()
            self._add_run(run, group)
            self._flush(group)
            if run.claim is not None:
                self.connection.execute(self.sql["retake_claim"], (run.trigger, run.claim, run.run_id, run.until))
        write.result = refused if write.runs else None
        group = _Group()
        self._add_changes(write, group)
        self._flush(group)
        if write.call is not None:
            result = write.call(self)
            write.result = refused if write.runs else result

    def _refusal(self, run: RunRow) -> Refusal | None:
        known = self.connection.execute(self.sql["find_run"], (run.run_id,)).fetchone()
        if known is not None:
            return Refusal(run.run_id, RunStatus(known[1]))
        if run.claim is None:
            return None
        row = self.connection.execute(self.sql["holder"], (run.trigger, run.claim)).fetchone()
        return None if row is None else holding(row, run.at)


def holding(holder: tuple[Any, ...], at: float) -> Refusal | None:
    """What a claim's row says to another run: taken, or (None) free. A run that is no longer kept had completed."""
    run_id, status, until = holder
    if until is not None and until <= at:
        return None
    first = RunStatus(status or RunStatus.COMPLETED)
    return None if first in RESTARTABLE else Refusal(run_id, first)


class _Group:
    """What is to be written together; of inserts the rows' values, one row after the other."""

    __slots__ = ("begins", "changed", "claims", "ends", "records", "runs")

    def __init__(self) -> None:
        self.claims: list[Any] = []
        self.runs: list[Any] = []
        self.records: list[Any] = []
        self.begins: list[tuple[Any, ...]] = []
        self.ends: list[tuple[Any, ...]] = []
        # Runs whose row this group changes: a second change of one needs a new group.
        self.changed: set[str] = set()
