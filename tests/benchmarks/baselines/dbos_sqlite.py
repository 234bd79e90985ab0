"""DBOS on SQLite: a workflow of two async steps. WAL and FULL as ours; all else as DBOS has it by default."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from typing import Any

from dbos import DBOS, DBOSConfig

from tests.benchmarks.workload import first, second


@DBOS.step()
async def do_first(number: int) -> None:
    await first(number)


@DBOS.step()
async def do_second(number: int) -> None:
    await second(number)


@DBOS.workflow()
async def saga(number: int) -> None:
    await do_first(number)
    await do_second(number)


async def measure(n: int, *, path: str, at_a_time: int = 100, threads: int | None = None) -> float:
    """Workflows per second. `threads` bounds DBOS's own executor threads."""
    # WAL is kept in the file, and FULL is SQLite's default; DBOS alone would use the slower rollback journal.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    config: DBOSConfig = {"name": "bench", "system_database_url": f"sqlite:///{path}", "log_level": "ERROR"}
    more: dict[str, Any] = {} if threads is None else {"max_executor_threads": threads}
    DBOS(config={**config, **more})  # type: ignore[typeddict-item]
    DBOS.launch()
    try:
        await saga(-1)
        numbers = iter(range(n))

        async def sagas() -> None:
            for number in numbers:
                await saga(number)

        start = time.perf_counter()
        await asyncio.gather(*(sagas() for _ in range(at_a_time)))
        return n / (time.perf_counter() - start)
    finally:
        DBOS.destroy()
