"""What an open SQLite store holds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from sqlite3 import Error
from threading import Lock
from time import time

from sagaz_lab.abc import RevisionRow
from sagaz_lab.errors import describe
from sagaz_lab.stores.sql import leases
from sagaz_lab.stores.sql.connection import connect, connect_to_read, unavailable
from sagaz_lab.stores.sql.reading import revisions_of
from sagaz_lab.stores.sql.transactions import Transactions
from sagaz_lab.stores.sql.writer import Writer
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)


class Session:
    """An owner, a connection that writes with its thread, one that reads with its own."""

    def __init__(self, path: Path, sql: dict[str, str], owner_name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path, self._sql, self._pid = path, sql, os.getpid()
        self._writing = connect(path)
        try:
            self.reading, self._glancing = connect_to_read(path), connect_to_read(path)
            entered_at = time()
            self.owner = leases.enter(self._writing, sql, owner_name)
            leases.name_letters(self._writing, sql)
        except Error as error:
            self._writing.close()
            raise unavailable(path, error) from error
        self._transactions = Transactions(os.fspath(path), self._writing, sql, self.owner.epoch)
        self._transactions.renewed_at = entered_at
        self.writer = Writer(self._transactions, loop)
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="sagaz-store-reader")
        self._lock = Lock()

    def revisions(self, saga: str, newest: int | None) -> Sequence[RevisionRow]:
        """Each run of a cell asks for them, on whichever thread: opening a connection would be half of its cost."""
        with self._lock:
            try:
                return revisions_of(self._glancing, saga, newest)
            except Error as error:
                raise unavailable(self._path, error) from error

    def lease_held(self) -> bool:
        """By the clock alone, which is that of all owners, since they share this host."""
        return time() - self._transactions.renewed_at < leases.LEASE_S * leases.TRUSTED

    def lease_lost(self) -> bool:
        """By what the file says; False if it says nothing."""
        with self._lock, suppress(Error):
            row = self._glancing.execute(self._sql["is_fenced"], (self.owner.epoch,)).fetchone()
            return row is None or bool(row[0])
        return False

    def close(self) -> None:
        """Write what is queued, give the lease back. Blocks; raises nothing."""
        if os.getpid() != self._pid:
            return
        self.writer.stop()
        self.reader.shutdown()
        try:
            self._writing.execute(self._sql["close_owner"], (self.owner.epoch,))
        except Error as error:
            logger.warning("closing the store %s: %s", self._path, describe(error))
        self.reading.close()
        with self._lock:
            self._glancing.close()
        self._writing.close()
