"""The resources of an open store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from threading import Lock
from typing import TypeVar

from sagaz_lab.abc import RevisionRow
from sagaz_lab.errors import StoreUnavailable, describe
from sagaz_lab.stores.sql import leases
from sagaz_lab.stores.sql.driver import Connection, Driver
from sagaz_lab.stores.sql.reading import revisions_of
from sagaz_lab.stores.sql.transactions import Transactions
from sagaz_lab.stores.sql.writer import Writer
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)

T = TypeVar("T")


class Session:
    """An owner, a writing and a reading connection, each with its thread."""

    def __init__(self, driver: Driver, owner_name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._driver, self._pid = driver, os.getpid()
        with ExitStack() as opened:
            writing = driver.connect()
            opened.callback(writing.close)
            self._reading = driver.connect_to_read()
            opened.callback(self._reading.close)
            self._glancing = driver.connect_to_read()
            opened.callback(self._glancing.close)
            try:
                entered_at = driver.time()
                self.owner = leases.enter(writing, driver.sql, owner_name)
                driver.repair(writing)
            except driver.error as error:
                raise driver.unavailable(error) from error
            opened.pop_all()
        self._transactions = Transactions(driver, writing, self.owner.epoch)
        self._transactions.renewed_at = entered_at
        self.writer = Writer(self._transactions, loop)
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="sagaz-store-reader")
        self._lock = Lock()
        self._time = driver.time

    def look(self, look: Callable[[Connection], T]) -> T:
        """Call it with the reading connection. Use it in the thread of `reader`."""
        try:
            self._reading = connection = self._driver.ready_to_read(self._reading)
            return look(connection)
        except self._driver.error as error:
            raise self._driver.unavailable(error) from error

    def revisions(self, saga: str, newest: int | None) -> Sequence[RevisionRow]:
        """Uses an open connection, since each run of a cell reads them and opening one would double the cost."""
        with self._lock:
            try:
                self._glancing = self._driver.ready_to_read(self._glancing)
                return revisions_of(self._driver, self._glancing, saga, newest)
            except self._driver.error as error:
                raise self._driver.unavailable(error) from error

    def lease_held(self) -> bool:
        return self._time() - self._transactions.renewed_at < leases.LEASE_S * leases.TRUSTED

    def lease_lost(self) -> bool:
        """Whether the rows show it; False if they are unreadable."""
        return self._driver.at_once(self._is_fenced)

    def _is_fenced(self) -> bool:
        with self._lock, suppress(self._driver.error, StoreUnavailable):
            self._glancing = self._driver.ready_to_read(self._glancing)
            row = self._glancing.execute(self._driver.sql["is_fenced"], (self.owner.epoch,)).fetchone()
            return row is None or bool(row[0])
        return False

    def close(self) -> None:
        """Write what is queued and release the lease. Blocks; raises nothing."""
        if os.getpid() != self._pid:
            return
        self.writer.stop()
        self.reader.shutdown()
        writing = self._transactions.connection
        try:
            writing.execute(self._driver.sql["close_owner"], (self.owner.epoch,))
        except self._driver.error as error:
            logger.warning("closing the store %s: %s", self._driver.name, describe(error))
        self._reading.close()
        with self._lock:
            self._glancing.close()
        writing.close()
        self._driver.close()
