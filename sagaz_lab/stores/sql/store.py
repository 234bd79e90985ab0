"""The store in a SQL database, with artifacts in a folder."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sagaz_lab.abc import (
    KEY_MARK,
    Acceptance,
    Choose,
    DeadLetter,
    Ending,
    Owner,
    Positions,
    Publication,
    Refusal,
    RevisionRow,
    StoredRun,
    StoreTraits,
    WaitingEvent,
)  # fmt: skip
from sagaz_lab.errors import StoreError, StoreUnavailable, UnstorableValue, describe
from sagaz_lab.model.run import Record
from sagaz_lab.stores.frames import Rows
from sagaz_lab.stores.sql import leases, parked
from sagaz_lab.stores.sql.about import About, read_about
from sagaz_lab.stores.sql.claims import holding
from sagaz_lab.stores.sql.clocks import put_clock_right
from sagaz_lab.stores.sql.driver import Connection, Driver, file_failed
from sagaz_lab.stores.sql.intake import Rest, has_rest
from sagaz_lab.stores.sql.log_files import LogFiles
from sagaz_lab.stores.sql.reading import read_frame, read_revisions, read_run, run_from
from sagaz_lab.stores.sql.retention import drop_expired
from sagaz_lab.stores.sql.session import Session
from sagaz_lab.stores.sql.transactions import NOTHING, Transactions, Write, cooldown_refusal
from sagaz_lab.stores.sql.translation import (
    letter_from,
    letter_row,
    publication_from,
    publication_rows,
    run_row,
    started_rows,
    stored_run,
    text,
    waiting_from,
    with_records,
)  # fmt: skip
from sagaz_lab.stores.sql.write_order import WriteOrder
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.encoding import NeedsFiles, encode

T = TypeVar("T")


class SqlStore:
    """Keeps everything in one database, which several processes can open.

    The writes of all runs share transactions. Values in files are written in a thread before the record that refers
    to them, without blocking other runs. `artifacts` is the folder of these files (default: the driver's).
    `retention_days` is how long ended runs, kept events and settled dead letters are kept.
    """

    traits: ClassVar[StoreTraits] = StoreTraits()

    def __init__(self, driver: Driver, *, artifacts: str | Path | None = None, retention_days: float = 30.0) -> None:
        self.driver = driver
        self.url = driver.url
        self.retention_days = retention_days
        root = Path(artifacts).absolute() if artifacts else driver.root
        self._artifacts = Artifacts(root, driver.key or root.with_name(f"{root.name}.key"))
        self.run_logs = LogFiles(self._artifacts)
        self._turns = WriteOrder()
        self._sql = driver.sql
        self._open: Session | None = None
        self._abandon: Callable[[], Any] = lambda: None

    def probe(self) -> None:
        """Create the store if missing and check it. Blocks. Raises as `Driver.connect` does."""
        self.driver.connect().close()

    def missing(self) -> str | None:
        """The store's place if it does not exist yet. Blocks. Raises `StoreTooNew`, `StoreUnavailable`."""
        with self.driver.reading() as connection:
            return self.driver.name if connection is None else None

    async def open(self, owner_name: str) -> Owner:
        if self._open is not None:
            raise StoreError(f"the store {self.driver.name} is open already")
        loop = asyncio.get_running_loop()
        session = await asyncio.to_thread(Session, self.driver, owner_name, loop)
        self._open = session
        # A store abandoned open, with its loop or at process exit, releases its lease too.
        self._abandon = weakref.finalize(self, session.close)
        return session.owner

    async def close(self) -> None:
        session, self._open = self._open, None
        if session is not None:
            session.writer.finish()
            await asyncio.shield(asyncio.to_thread(self._abandon))

    async def put_clock_right(self, now: float) -> tuple[float, Mapping[str, int]]:
        found: tuple[float, Mapping[str, int]] = await self._call(lambda it: put_clock_right(it, now))
        return found

    async def heartbeat(self) -> bool:
        await self._call(Transactions.beat)
        # A separate write: damaged rows that cannot be deleted must not end the lease.
        more: bool = await self._call(lambda it: drop_expired(it, self._artifacts, self.retention_days * 86400.0))
        return more

    def lease_held(self) -> bool:
        return self._open is not None and self._open.lease_held()

    def lease_lost(self) -> bool:
        return self._open is not None and self._open.lease_lost()

    # --- intake ---

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        def look(connection: Connection) -> dict[str, Refusal]:
            now = connection.execute(self._sql["now"]).fetchone()[0] if at is None else at
            taken = {}
            for claim in claims:
                row = connection.execute(self._sql["holder"], (trigger, text(claim))).fetchone()
                refusal = None if row is None else holding(row, now)
                if refusal is not None:
                    taken[claim] = refusal
            return taken

        return await self._read(look)

    async def cooling(self, trigger: str, *, at: float) -> Mapping[str, Refusal]:
        def look(connection: Connection) -> dict[str, Refusal]:
            rows = connection.execute(self._sql["all_cooling"], (trigger, at))
            return {key: cooldown_refusal(row) for key, *row in rows}

        return await self._read(look)

    async def waiting(self, triggers: Sequence[str]) -> Sequence[WaitingEvent]:
        def look(connection: Connection) -> list[WaitingEvent]:
            rows = connection.execute(self._sql["waiting_events"], (self.driver.texts(triggers),)).fetchall()
            return [waiting_from(row, self._artifacts) for row in rows]

        return await self._read(look)

    async def left_waiting(self) -> Mapping[str, int]:
        found: Mapping[str, int] = await self._call(leases.left_waiting)
        return found

    def accept(self, batch: Acceptance) -> Awaitable[Mapping[str, Refusal]]:
        if batch.runs and not has_rest(batch):
            epoch = self._session().owner.epoch
            try:
                return self._put(Write(runs=[run_row(new, epoch, None) for new in batch.runs], result=NOTHING))
            except (NeedsFiles, UnstorableValue):
                pass
        return self._accept(batch)

    async def _accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        refused: dict[str, Refusal] = {}
        rows = []
        epoch = self._session().owner.epoch
        for new in batch.runs:
            try:
                try:
                    rows.append(run_row(new, epoch, None))
                except NeedsFiles:
                    rows.append(await self._with_files(run_row, new, epoch, self._artifacts))
            except UnstorableValue as error:
                refused[new.run_id] = Refusal(error=error)
        write = Write(runs=rows, result=NOTHING if rows else None)
        rest = None
        if has_rest(batch):
            rest = Rest(batch, refused, self._artifacts, self._with_files)
            refused.update(await rest.join(write))
        if rows or rest is not None:
            refused.update(await self._put(write) or NOTHING)
        if rest is not None:
            await rest.clean_up(refused)
        return refused

    async def forget(self, trigger: str, key: str | None = None) -> int:
        found: dict[str, tuple[Any, ...]] = {"forget_claims": (trigger,), "forget_cooldowns": (trigger,)}
        if key is not None:
            name = text(key) or ""
            found = {"forget_claim": (trigger, name, KEY_MARK + name), "forget_cooldown": (trigger, name)}

        def free(it: Transactions) -> int:
            return sum(it.connection.execute(it.sql[name], values).rowcount for name, values in found.items())

        freed: int = await self._call(free)
        return freed

    # --- the journal ---

    # These return the future itself if possible, which is the cheapest to await.

    def append(self, records: Sequence[Record]) -> Awaitable[None]:
        return self._journal(records[0].run_id if records else "", lambda files: with_records(Write(), records, files))

    def begin(self, run_id: str, *, revision: int, attempt: int, started: Sequence[str], at: float,
                    context: Mapping[str, Any] | None = None, cooldown: tuple[str, float] | None = None
                    ) -> Awaitable[None]:  # fmt: skip
        def make(files: Artifacts | None) -> Write:
            encoded = None if context is None else encode(context, f"run {run_id}", "context", files, run_id)
            write = Write(run_id)
            write.records = started_rows(run_id, started, attempt, at)
            write.begin = (revision, attempt, encoded)
            if cooldown is not None:
                values = (text(cooldown[0]), cooldown[1], run_id)
                write.call = lambda it: it.connection.execute(it.sql["begin_cooldown"], values).rowcount
            return write

        return self._journal(run_id, make)

    def end(self, run_id: str, ending: Ending, *, attempt: int, at: float, retry_at: float | None = None,
                  dead: DeadLetter | None = None) -> Awaitable[None]:  # fmt: skip
        raised, publications = ending.error, ending.publications
        status = str.__str__(ending.status) if retry_at is None else "waiting"
        ended_at = None if status in ("waiting", "needs_code") else at
        error = None if raised is None else text(describe(raised))

        def make(files: Artifacts | None) -> Write:
            write = with_records(Write(run_id), ending.records, files)
            write.end = (status, attempt, ended_at, retry_at, error)
            if publications:
                write.publications = [*write.publications, *publication_rows(publications)]
            if dead is not None:
                letter = letter_row(dead, files)
                write.call = lambda it: it.connection.execute(it.sql["insert_letter"], letter).rowcount
            return write

        return self._journal(run_id, make)

    def _journal(self, run_id: str, make: Callable[[Artifacts | None], Write]) -> Awaitable[None]:
        if run_id not in self._turns:
            try:
                return self._put(make(None))
            except NeedsFiles:
                pass
        return self._journal_with_files(run_id, make)

    async def _journal_with_files(self, run_id: str, make: Callable[[Artifacts | None], Write]) -> None:
        async with self._turns.of(run_id):
            future = self._put(await self._with_files(make, self._artifacts))
        await future

    # --- resuming ---

    async def interrupted(self, choose: Choose | None = None) -> Sequence[StoredRun]:
        found = await self._call(lambda it: leases.take_over(it, choose))
        return await asyncio.to_thread(lambda: [stored_run(run, records, self._artifacts) for run, records in found])

    async def load(self, run_id: str) -> StoredRun | None:
        def look(connection: Connection) -> StoredRun | None:
            return run_from(self.driver, connection, self._artifacts, run_id)

        return await self._read(look)

    async def adopt(self, run_id: str) -> bool:
        adopted: bool = await self._call(lambda it: leases.adopt(it, run_id))
        return adopted

    async def letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        def look(connection: Connection) -> list[DeadLetter]:
            rows = (connection.execute(self._sql["open_letter"], (id,)).fetchone() for id in dict.fromkeys(ids))
            found = sorted((row for row in rows if row is not None), key=itemgetter(0))
            return [letter_from(row, self._artifacts)[1] for row in found]

        return await self._read(look)

    async def letters_after(self, number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
        def look(connection: Connection) -> list[tuple[int, DeadLetter]]:
            rows = connection.execute(self._sql["letters_after"], (number, limit)).fetchall()
            return [letter_from(row, self._artifacts) for row in rows]

        return await self._read(look)

    async def settle_letters(self, ids: Sequence[str], state: str, reason: str) -> int:
        values = [(state, text(reason), id) for id in ids]
        settled: int = await self._call(lambda it: it.connection.executemany(it.sql["settle_letter"], values).rowcount)
        return settled

    # --- the outbox ---

    async def publications(self, limit: int) -> Sequence[tuple[int, Publication]]:
        epoch = self._session().owner.epoch
        rows = await self._read(lambda it: it.execute(self._sql["publications"], (epoch, limit)).fetchall())
        return [publication_from(row) for row in rows]

    async def published(self, numbers: Sequence[int]) -> None:
        values = [(number,) for number in numbers]
        await self._call(lambda it: it.connection.executemany(it.sql["published"], values).rowcount)

    async def park_refused(self, refused: Sequence[tuple[int, DeadLetter]]) -> None:
        def rows() -> list[tuple[Any, ...]]:
            return [letter_row(letter, self._artifacts) for _, letter in refused]

        letters, numbers = await self._with_files(rows), [number for number, _ in refused]
        await self._call(lambda it: parked.park_refused(it, numbers, letters))

    async def park_behind(self, rows: Sequence[tuple[int, str]]) -> Collection[str]:
        runs: Collection[str] = await self._call(lambda it: parked.park_behind(it, rows))
        return runs

    async def parked_runs(self) -> Collection[str]:
        return await self._read(lambda it: {run_id for (run_id,) in it.execute(self._sql["parked_runs"])})

    async def settle_refused(
        self, ids: Sequence[str], state: str, reason: str, *, payloads: Mapping[str, bytes] | None = None
    ) -> Collection[str]:
        why, new = text(reason), payloads or {}
        settled: Collection[str] = await self._call(lambda it: parked.settle_refused(it, ids, state, why, new))
        return settled

    # --- names ---

    async def save_revision(self, row: RevisionRow) -> bool:
        values = (row.saga, row.number, row.digest, text(row.source_text), row.at, text(row.made_by))
        kept: int = await self._call(lambda it: it.connection.execute(it.sql["insert_revision"], values).rowcount)
        return kept > 0

    async def own_triggers(self, names: Sequence[str]) -> float | None:
        last_seen_s: float | None = await self._call(lambda it: leases.own_triggers(it, names))
        return last_seen_s

    def positions(self) -> Positions:
        return _Positions(self)

    def revisions(self, saga: str, newest: int | None = None) -> Sequence[RevisionRow]:
        return read_revisions(self.driver, saga, newest) if self._open is None else self._open.revisions(saga, newest)

    def run(self, run_id: str) -> StoredRun | None:
        return read_run(self.driver, self._artifacts, run_id)

    def rows(self, frame: str, limit: int | None, *, before: str | None = None, status: str | None = None) -> Rows:
        return read_frame(self.driver, self._artifacts, frame, limit, before, status)

    def about(
        self, event_id: str, claims: Collection[str], run_ids: Collection[str] = (), *, everywhere: bool = False
    ) -> About:
        return read_about(self.driver, event_id, claims, run_ids, everywhere)

    # --- threads ---

    def _session(self) -> Session:
        if self._open is None:
            raise StoreUnavailable(f"the store {self.driver.name} is closed")
        return self._open

    def _put(self, write: Write) -> asyncio.Future[Any]:
        return self._session().writer.put(write)

    def _call(self, change: Callable[[Transactions], Any]) -> asyncio.Future[Any]:
        return self._put(Write(call=change))

    async def _read(self, look: Callable[[Connection], T]) -> T:
        session = self._session()
        return await asyncio.get_running_loop().run_in_executor(session.reader, session.look, look)

    async def _with_files(self, make: Callable[..., T], *values: Any) -> T:
        try:
            return await asyncio.to_thread(make, *values)
        except OSError as error:
            raise file_failed(self._artifacts.root, error) from error


class _Positions:
    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def get(self, name: str) -> str | None:
        def look(connection: Connection) -> str | None:
            row = connection.execute(self._store._sql["position"], (name,)).fetchone()
            return None if row is None else str(row[0])

        return await self._store._read(look)

    async def put(self, name: str, value: str) -> None:
        await self._store._call(lambda it: it.connection.execute(it.sql["put_position"], (name, value)).rowcount)
