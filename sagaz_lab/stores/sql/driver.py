"""The interface between the SQL store and a database: everything that differs between databases."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sagaz_lab.errors import StoreUnavailable

ALL = 1 << 62
"""The LIMIT of a statement that returns all rows."""

FULL = "the disk is full; free some space"
READ_ONLY = "the file or its folder is read-only; make it writable"
_CURES = {
    errno.EACCES: READ_ONLY, errno.EPERM: READ_ONLY, errno.EROFS: READ_ONLY,
    errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL,
}  # fmt: skip


def file_failed(path: Path, error: OSError) -> StoreUnavailable:
    """The error for a file or folder of the store that cannot be written or read, with its cure."""
    cure = _CURES.get(error.errno or 0, "")
    return StoreUnavailable(f"the store {path}: {cure} ({error})" if cure else f"the store {path}: {error}")


class Raced(Exception):
    """Another process changed what this transaction had read: it must be repeated."""


class Cursor(Protocol):
    """The result of a statement."""

    @property
    def rowcount(self) -> int:
        """Number of changed rows."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection in autocommit mode unless the store has begun a transaction."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Cursor: ...

    def close(self) -> None: ...


class HasRuns(Protocol):
    """A write with runs."""

    @property
    def runs(self) -> Sequence[Any]:
        """The runs to insert."""


class Driver(Protocol):
    """One database with a store's tables.

    `url` and `name` contain no credentials; messages call the store `name`. `root` is the folder for values too large
    for a row, `key` the file with their signing key (None: beside that folder). `sql` maps names to statements. `error`
    is the base class of the database's errors.
    """

    url: str
    name: str
    root: Path
    key: Path | None
    sql: Mapping[str, str]
    error: type[Exception]

    def connect(self) -> Connection:
        """A writing connection; creates or upgrades the tables. Raises `StoreTooNew`, `StoreUnavailable`."""

    def connect_to_read(self) -> Connection:
        """A read-only connection for any thread; upgrades the tables first. Raises as `connect` does."""

    def at_once(self, ask: Callable[[], bool]) -> bool:
        """The result of `ask`, for a caller that must not be blocked; False if it would take long."""

    def close(self) -> None:
        """The store is closed: release pooled connections."""

    def reading(self) -> AbstractContextManager[Connection | None]:
        """A read-only connection for one use; None if the store does not exist yet. Raises `StoreUnavailable`."""

    def ready_to_write(self, connection: Connection) -> Connection:
        """This connection if it still works, else a new one. Raises `StoreUnavailable`."""

    def ready_to_read(self, connection: Connection) -> Connection:
        """The same for a read-only connection."""

    def begin(self, connection: Connection, epoch: int, writes: Sequence[HasRuns], alone: bool) -> Iterator[int] | None:
        """Begin a transaction for this owner's writes; returns numbers for their runs. None: the owner is fenced off.

        The owner cannot be fenced off until the transaction ends. With `alone` no other process takes claims meanwhile.
        """

    def commit(self, connection: Connection) -> None:
        """Raises `StoreUnavailable` if it is unknown whether the transaction was committed."""

    def roll_back(self, connection: Connection) -> None:
        """End the transaction, if any. Does not raise if the connection is lost."""

    def time(self) -> float:
        """Seconds of a clock that keeps running while the host sleeps; measures leases."""

    def with_rows(self, statement: str, marks: str, count: int) -> str:
        """A VALUES statement for `count` rows with these marks."""

    def in_order(self, rows: list[Any], width: int) -> list[Any]:
        """The rows' values, ordered so that two transactions that insert the same rows cannot deadlock."""

    def texts(self, values: Iterable[Any]) -> Any:
        """One value with the strings among these, for `{texts}` in a statement."""

    def stream(self, connection: Connection, name: str) -> Iterator[Any]:
        """The rows of a large result, fetched on demand."""

    def repair(self, connection: Connection) -> None:
        """Repair damaged rows as far as possible."""

    def refuses(self, error: BaseException) -> bool:
        """Whether the error concerns more than the current write."""

    def is_fatal(self, error: BaseException) -> bool:
        """Whether every other write would fail too."""

    def passes(self, error: BaseException) -> bool:
        """Whether repeating the transaction at once may succeed."""

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """The error for the user, with its cure."""
