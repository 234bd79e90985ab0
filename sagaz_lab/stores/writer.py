"""The thread that writes: whatever arrives while one transaction is being written goes into the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import Any

from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.transactions import Transactions, Write

MOST_WRITES = 2000
"""Writes of one transaction, so that the first of them need not wait for all of a long queue."""


class Writer:
    """Settles writes in the order in which they were put."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions
        self._queue: SimpleQueue[Write | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sagaz-store-writer", daemon=True)
        self._closed = False
        self._thread.start()

    def put(self, **parts: Any) -> asyncio.Future[Any]:
        """Queue a `Write` of these parts; the future has its result. To be called on a loop."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._queue.put(Write(future, **parts))
        return future

    def stop(self) -> None:
        """Write what is queued and end the thread. Blocks."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        stopping = False
        while not stopping:
            group = self._next_group()
            stopping = group[-1] is None
            writes = [write for write in group if write is not None]
            if writes:
                self._transactions.commit(writes)
                _report(writes)

    def _next_group(self) -> list[Write | None]:
        group = [self._queue.get()]
        try:
            while group[-1] is not None and len(group) < MOST_WRITES:
                group.append(self._queue.get_nowait())
        except Empty:
            pass
        return group


def _report(writes: Sequence[Write]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Write]] = {}
    for write in writes:
        by_loop.setdefault(write.future.get_loop(), []).append(write)
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:  # the loop is closed, so nobody waits
            continue


def _settle(writes: Sequence[Write]) -> None:
    for write in writes:
        future = write.future
        if future.done():
            continue
        if write.error is None:
            future.set_result(write.result)
        else:
            future.set_exception(write.error)
