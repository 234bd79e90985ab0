"""Group commit: the writes of many callers in one transaction.

A group is first written optimistically, with few large statements. If anything fails (a claim is taken, a value does
not fit), it is rolled back and written again, one write per savepoint, so that one caller's error does not affect the
others. If the database itself refuses (a full disk), each write gets its own transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from sagaz_lab.abc import Refusal
from sagaz_lab.errors import LeaseLost, SagazLabError, StoreError, StoreUnavailable, describe
from sagaz_lab.stores.sql.claims import holding
from sagaz_lab.stores.sql.damage import as_status
from sagaz_lab.stores.sql.driver import Connection, Driver, Raced
from sagaz_lab.stores.sql.rows import ClaimRow, FreeClaim, Rows, RunRow, marks, width

RECORDS_PER_RUN = 1 << 20
"""A record's key is its run's number times this, plus the record's number."""

_CLAIM, _MEMBER, _PUBLICATION, _COMPLETED = marks(5), marks(2), marks(6), marks(3)

# Rows per statement: few sizes, so that compiled statements are reused.
_ROWS = (128, 64, 32, 16, 8, 4, 2, 1)

TRIES = 5
"""How often a transaction is repeated after a conflict with another process."""

RecordRows = list[Any] | tuple[()]
"""A flat sequence of run id, marks and values without the key for each record: few objects, since many are queued."""


NOTHING: Mapping[str, Any] = MappingProxyType({})


class Write(Struct, eq=False):
    """The changes of one call.

    In order: calls `first`, inserts `runs`, adds `records`, begins or ends the run `run_id`, adds `publications`, calls
    `call`. `begin` and `end` are the values of their statements without the run's number. `future` is the caller's, on
    `loop` (None: the store's). Settling sets `result` or `error`. The result is that of `call`; for a write with runs
    a mapping that includes the refused ones.
    """

    run_id: str = ""
    runs: Sequence[RunRow] = ()
    call: Callable[[Transactions], Any] | None = None
    records: RecordRows = ()
    publications: Sequence[tuple[Any, ...]] = ()
    begin: tuple[Any, ...] | None = None
    end: tuple[Any, ...] | None = None
    first: Callable[[Transactions], Any] | None = None
    future: Any = None
    loop: Any = None
    result: Any = None
    error: BaseException | None = None


class Transactions:
    """Writes groups through one connection, fenced by one owner's lease. Not thread-safe."""

    def __init__(self, driver: Driver, connection: Connection, epoch: int) -> None:
        self.driver = driver
        self.connection = connection
        self.sql = driver.sql
        self.epoch = epoch
        self.renewed_at = 0.0
        """Time of the last certain renewal of the lease, by the driver's clock; readable from any thread."""
        self._renewing_at: float | None = None
        self._run_numbers: Iterator[int] = iter(())
        # The next record's key of each live run.
        self._next_record: dict[str, int] = {}

    def commit(self, writes: Sequence[Write]) -> None:
        """Settle all of them. Raises nothing."""
        try:
            try:
                self._transaction(writes)
            except (StoreUnavailable, LeaseLost):
                raise
            except Exception:
                self._insist(writes)
        except LeaseLost as error:
            for write in writes:
                write.error = error
        except Exception as error:
            self._commit_alone(writes, error)

    def _insist(self, writes: Sequence[Write]) -> None:
        """Write them one by one, repeating after conflicts with other processes."""
        for _ in range(TRIES - 1):
            try:
                self._transaction(writes, alone=True)
                return
            except Exception as error:
                if not self.driver.passes(error):
                    raise
        self._transaction(writes, alone=True)

    def renew_lease(self) -> None:
        """Renew the lease if possible now and not taken over."""
        at = self.driver.time()
        with suppress(self.driver.error, StoreUnavailable):
            self.connection = self.driver.ready_to_write(self.connection)
            if self.connection.execute(self.sql["heartbeat"], (self.epoch,)).rowcount:
                self.renewed_at = at

    def beat(self) -> None:
        """Renew the lease in this transaction."""
        at = self.driver.time()
        self.connection.execute(self.sql["heartbeat"], (self.epoch,))
        self._renewing_at = at

    def _commit_alone(self, writes: Sequence[Write], error: Exception) -> None:
        alone = len(writes) > 1 and not self.driver.is_fatal(error)
        for write in writes:
            write.result, write.error = None, None if alone else self._described(error)
            if alone:
                try:
                    self._transaction([write], alone=True)
                except Exception as failure:
                    write.error = self._described(failure)
                    alone = not self.driver.is_fatal(failure)

    def _described(self, error: BaseException) -> BaseException:
        if isinstance(error, Raced):
            return StoreUnavailable(f"the store {self.driver.name}: other processes keep changing the same rows")
        return self.driver.unavailable(error) if isinstance(error, self.driver.error) else error

    def _transaction(self, writes: Sequence[Write], *, alone: bool = False) -> None:
        driver = self.driver
        self.connection = connection = driver.ready_to_write(self.connection)
        self._renewing_at = None
        try:
            numbers = driver.begin(connection, self.epoch, writes, alone)
            if numbers is None:
                raise LeaseLost(f"another process has taken over this process's triggers and runs in {driver.name}, "
                                "because its lease had ended; stop this Lab and start it again")  # fmt: skip
            self._run_numbers = numbers
            if alone:
                self._write_one_by_one(writes)
            else:
                self._write_together(writes)
            driver.commit(connection)
            if self._renewing_at is not None:
                self.renewed_at = self._renewing_at
        except BaseException:
            self._next_record.clear()
            driver.roll_back(connection)
            raise

    # --- all at once ---

    def _write_together(self, writes: Sequence[Write]) -> None:
        group = _Group()
        for write in writes:
            apart = write.call is not None or write.first is not None
            if apart or write.run_id in group.changed:
                self._flush(group)
                group = _Group()
            if write.first is not None:
                write.first(self)
            self._add(write, group)
            if apart:
                self._flush(group)
                group = _Group()
            if write.call is not None:
                write.result = write.call(self)
        self._flush(group)

    def _add(self, write: Write, group: _Group) -> None:
        for run in write.runs:
            self._add_run(run, group)
            for row in run.claim_rows() if run.claims or run.declared else ():
                group.claims[_CLAIM] += row
        self._add_changes(write, group)

    def _add_run(self, run: RunRow, group: _Group) -> None:
        number = next(self._run_numbers)
        rows = group.runs[run.marks]
        rows.append(number)
        rows += run.values
        if run.kind == "live":
            group.freed += [(run.trigger, claim) for claim in run.declared]
        for claim in run.members:
            group.members[_MEMBER] += (number, claim)
        if run.cooldown is not None:
            group.cooldowns.append(run)
        if not run.waits:  # a waiting one may be one of a million; its number is looked up when it begins
            self._next_record[run.run_id] = number * RECORDS_PER_RUN

    def _add_changes(self, write: Write, group: _Group) -> None:
        records, done = write.records, 0
        while done < len(records):
            run_id, shape = records[done : done + 2]
            end = done + 1 + width(shape)
            key = self._next_record.get(run_id) or self._find_next_record(run_id)
            rows = group.records[shape]
            rows.append(key)
            rows += records[done + 2 : end]
            self._next_record[run_id] = key + 1
            if not (key + 1) % RECORDS_PER_RUN:
                raise StoreError(f"run {run_id!r} has more than a million records")
            done = end
        if write.begin is not None:
            group.changed.add(write.run_id)
            group.begins.append((*write.begin, self.run_number(write.run_id)))
        if write.end is not None:
            group.changed.add(write.run_id)
            self._add_end(write.end, self.run_number(write.run_id), group)
            self.forget_run(write.run_id)
        for publication in write.publications:
            group.publications[_PUBLICATION] += (*publication, self.epoch)

    def _add_end(self, end: tuple[Any, ...], number: int, group: _Group) -> None:
        status, attempt, ended_at, retry_at, error = end
        if status == "completed" and error is None and retry_at is None:
            group.completed[_COMPLETED] += (attempt, ended_at, number)
        else:
            group.ends.append((*end, number))

    def _flush(self, group: _Group) -> None:
        if group.freed:
            self.connection.executemany(self.sql["free_ended_claim"], group.freed)
        if group.claims:
            group.claims[_CLAIM] = self.driver.in_order(group.claims[_CLAIM], width(_CLAIM))
        self._write_rows("insert_claims", group.claims)
        self._write_rows("insert_runs", group.runs)
        self._write_rows("insert_members", group.members)
        self._write_rows("insert_records", group.records)
        if group.begins:
            self.connection.executemany(self.sql["begin_run"], group.begins)
        self._write_rows("complete_runs", group.completed)
        if group.ends:
            self.connection.executemany(self.sql["end_run"], group.ends)
        self._write_rows("insert_publications", group.publications)
        for run in group.cooldowns:
            self._cool(run)

    def _cool(self, run: RunRow) -> None:
        """Take the run's cooldown if it starts at once. Raises `Raced` if it is taken."""
        if run.waits:
            if self._cooling(run) is not None:
                raise Raced
        elif run.cooldown is not None:
            values = (run.trigger, run.cooldown[0], run.run_id, run.cooldown[1], run.at)
            if not self.connection.execute(self.sql["take_cooldown"], values).rowcount:
                raise Raced

    def _write_rows(self, name: str, rows: Rows) -> None:
        sql, with_rows = self.sql[name], self.driver.with_rows
        for shape, values in rows.items():
            # Many rows per statement, because another thread may take the GIL between statements.
            done, each = 0, width(shape)
            for count in _ROWS:
                while len(values) - done >= count * each:
                    upto = done + count * each
                    self.connection.execute(with_rows(sql, shape, count), values[done:upto])
                    done = upto

    def run_number(self, run_id: str) -> int:
        """The number of the run's row. Raises `StoreError` if there is none."""
        return (self._next_record.get(run_id) or self._find_next_record(run_id)) // RECORDS_PER_RUN

    def forget_run(self, run_id: str) -> None:
        """The run has ended or its row was deleted."""
        self._next_record.pop(run_id, None)

    def _find_next_record(self, run_id: str) -> int:
        found = self.connection.execute(self.sql["find_run"], (run_id,)).fetchone()
        if found is None:
            raise StoreError(f"no run {run_id!r} in {self.driver.name}")
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
            except Exception as error:
                if isinstance(error, Raced) or self.driver.refuses(error):
                    raise
                self.connection.execute("ROLLBACK TO one")
                self._next_record.clear()
                known = isinstance(error, SagazLabError)
                write.error = error if known else StoreError(f"it cannot be stored: {describe(error)}")
            self.connection.execute("RELEASE one")

    def _write_exactly(self, write: Write) -> None:
        refused = {}
        if write.first is not None:
            write.first(self)
        for run in write.runs:
            refusal, claims = self._refusal(run)
            if refusal is not None:
                refused[run.run_id] = refusal
                continue
            self.take_claims(claims)
            group = _Group()
            self._add_run(run, group)
            self._flush(group)
        group = _Group()
        self._add_changes(write, group)
        self._flush(group)
        result = None if write.call is None else write.call(self)
        write.result = {**refused, **(result or {})} if write.runs else result

    def _refusal(self, run: RunRow) -> tuple[Refusal | None, Sequence[FreeClaim]]:
        known = self.connection.execute(self.sql["find_run"], (run.run_id,)).fetchone()
        if known is not None:
            return Refusal(run.run_id, as_status(known[1])), ()
        taken, free = self.look_at_claims(run.claim_rows(), run.at)
        return self._cooling(run) if taken is None else taken, free

    def look_at_claims(
        self, rows: Iterable[ClaimRow], at: float, letter: str | None = None
    ) -> tuple[Refusal | None, Sequence[FreeClaim]]:
        """The refusal of anyone but this dead letter, or None with the statements that take the claims."""
        free = []
        for trigger, claim, run_id, until, kind in rows:
            holder = self.connection.execute(self.sql["lock_holder"], (trigger, claim)).fetchone()
            taken = None if holder is None else holding(holder, at)
            if taken is not None and (letter is None or taken.letter != letter):
                return taken, ()
            how = "take_claim" if holder is None else "retake_claim"
            free.append((how, (run_id, until, kind, int(kind == "letter"), trigger, claim)))
        return None, free

    def take_claims(self, free: Sequence[FreeClaim]) -> None:
        """Take claims returned by `look_at_claims`. Raises `Raced`."""
        for how, values in free:
            if not self.connection.execute(self.sql[how], values).rowcount:
                raise Raced

    def _cooling(self, run: RunRow) -> Refusal | None:
        if run.cooldown is None:
            return None
        row = self.connection.execute(self.sql["cooling"], (run.trigger, run.cooldown[0], run.at)).fetchone()
        return None if row is None or row[0] == run.run_id else cooldown_refusal(row)


def cooldown_refusal(row: Sequence[Any]) -> Refusal:
    """The refusal of a cooldown's row."""
    run_id, status, until = row
    return Refusal(run_id, None if status is None else as_status(status), cooling_until=until)


class _Group:
    """Writes that share statements."""

    __slots__ = (
        "begins", "changed", "claims", "completed", "cooldowns", "ends", "freed", "members", "publications",
        "records", "runs",
    )  # fmt: skip

    def __init__(self) -> None:
        # Claims that are free if their run has ended.
        self.freed: list[tuple[str, str]] = []
        self.claims: Rows = defaultdict(list)
        self.runs: Rows = defaultdict(list)
        self.members: Rows = defaultdict(list)
        self.records: Rows = defaultdict(list)
        self.publications: Rows = defaultdict(list)
        self.cooldowns: list[RunRow] = []
        self.begins: list[tuple[Any, ...]] = []
        self.completed: Rows = defaultdict(list)
        self.ends: list[tuple[Any, ...]] = []
        # Runs whose row this group changes: a second change needs a new group.
        self.changed: set[str] = set()
