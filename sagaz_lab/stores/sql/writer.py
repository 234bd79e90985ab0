"""The writer thread: writes that arrive during a transaction share the next one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.stores.sql.transactions import Transactions, Write

BEAT_S = 6.0
"""After this idle time the writer renews the lease; two renewals may fail before it ends. The loop's heartbeat is more
frequent unless a cell blocks the loop."""

MOST_WRITES = 2000
"""Maximum writes per transaction, so that the first does not wait for a long queue."""


class Writer:
    """Settles writes in order of `put`."""

    def __init__(self, transactions: Transactions, loop: asyncio.AbstractEventLoop) -> None:
        self._transactions = transactions
        self._loop = loop
        # What was put in this round of the loop; it is handed over at the round's end, all at once, so that the
        # runs that one commit has woken share the next one, and the thread is woken once.
        self._round: list[Write] = []
        self._queue: SimpleQueue[list[Write] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="sagaz-store-writer", daemon=True)
        self._closed = False
        self._thread.start()

    def put(self, write: Write) -> asyncio.Future[Any]:
        """Queue it; returns the future of its result. Call it on a loop."""
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any]
        write.future = future = asyncio.Future(loop=loop)
        if loop is not self._loop:
            write.loop = loop
            self._queue.put([write])
            return future
        if not self._round:
            loop.call_soon(self._end_round)
        self._round.append(write)
        return future

    def finish(self) -> None:
        """Accept no more and hand over the queue. Call it on the loop, or once that is gone."""
        self._closed = True
        self._end_round()

    def stop(self) -> None:
        """Write what is queued and end the thread. Blocks."""
        self.finish()
        self._queue.put(None)
        self._thread.join()

    def _end_round(self) -> None:
        if self._round:
            writes, self._round = self._round, []
            self._queue.put(writes)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            try:
                writes, stopping = self._next_group()
            except Empty:
                if self._loop.is_running():  # even if blocked; a loop that is gone must not keep its runs from others
                    self._transactions.renew_lease()
                continue
            if writes:
                self._transactions.commit(writes)
                self._report(writes)

    def _next_group(self) -> tuple[list[Write], bool]:
        """Raises `Empty` when it is time to renew the lease."""
        group: list[Write] = []
        try:
            while len(group) < MOST_WRITES:
                writes = self._queue.get(block=not group, timeout=BEAT_S)
                if writes is None:
                    return group, True
                group += writes
        except Empty:
            if not group:
                raise
        return group, False

    def _report(self, writes: Sequence[Write]) -> None:
        elsewhere = [write for write in writes if write.loop is not None]
        for write in elsewhere:
            _deliver(write.loop, [write])
        _deliver(self._loop, [write for write in writes if write.loop is None] if elsewhere else writes)


def _deliver(loop: asyncio.AbstractEventLoop, writes: Sequence[Write]) -> None:
    with suppress(RuntimeError):  # the loop is closed: no waiter is left
        loop.call_soon_threadsafe(_settle, writes)


def _settle(writes: Sequence[Write]) -> None:
    for write in writes:
        future = write.future
        if future.done():
            continue
        if write.error is None:
            future.set_result(write.result)
        else:
            future.set_exception(write.error)
