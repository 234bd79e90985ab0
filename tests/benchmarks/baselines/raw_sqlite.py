"""Group commit on `sqlite3` by hand: one writer thread, WAL and FULL, what arrives while it commits goes next."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from queue import SimpleQueue

Row = tuple[str, str, str]
Append = tuple[list[Row], asyncio.Future[None]]

# What our journal awaits for a saga of two actions: run and first action started; first finished and
# second started; second finished and run ended.
GROUPS = (2, 2, 2)


async def measure(n: int, *, path: str, groups: tuple[int, ...] = GROUPS, at_a_time: int = 100) -> float:
    """Sagas per second, each saga a row of awaited appends of so many records."""
    loop = asyncio.get_running_loop()
    waiting: SimpleQueue[Append | None] = SimpleQueue()
    connection = open_journal(Path(path))
    writer = threading.Thread(target=write, args=(connection, waiting, loop))
    writer.start()
    numbers = iter(range(n))

    async def sagas() -> None:
        for number in numbers:
            run = f"run-{number:08d}"
            for size in groups:
                written = loop.create_future()
                waiting.put(([(run, "action_finished", "{}")] * size, written))
                await written

    start = time.perf_counter()
    await asyncio.gather(*(sagas() for _ in range(at_a_time)))
    elapsed_s = time.perf_counter() - start
    waiting.put(None)
    writer.join()
    connection.close()
    return n / elapsed_s


def open_journal(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE record (run TEXT, kind TEXT, body TEXT)")
    return connection


def write(connection: sqlite3.Connection, waiting: SimpleQueue[Append | None], loop: asyncio.AbstractEventLoop) -> None:
    while (item := waiting.get()) is not None:
        rows: list[Row] = []
        written: list[asyncio.Future[None]] = []
        while item is not None:
            rows += item[0]
            written.append(item[1])
            item = None if waiting.empty() else waiting.get()
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO record VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
        loop.call_soon_threadsafe(settle, written)


def settle(written: list[asyncio.Future[None]]) -> None:
    for future in written:
        future.set_result(None)
