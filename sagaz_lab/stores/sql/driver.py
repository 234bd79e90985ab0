"""What the SQL store asks of its database: all that differs from one kind of database to another."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from sagaz_lab.errors import StoreUnavailable

ALL = 1 << 62
"""The limit of a statement that is to give all rows."""

FULL = "the disk is full; make room and go on"
READ_ONLY = "the file or its folder is read-only; make it writable"
_CURES = {
    errno.EACCES: READ_ONLY, errno.EPERM: READ_ONLY, errno.EROFS: READ_ONLY,
    errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL,
}  # fmt: skip


def file_failed(path: Path, error: OSError) -> StoreUnavailable:
    """A file or folder of the store could not be written or read: the error in the user's words, with its cure."""
    cure = _CURES.get(error.errno or 0, "")
    return StoreUnavailable(f"the store {path}: {cure} ({error})" if cure else f"the store {path}: {error}")


class Raced(Exception):
    """Another process has changed what this transaction had looked at: it is to be written again."""


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """How many rows it has changed."""

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection outside any transaction, unless the store has begun one."""

    def execute(self, sql: str, values: Sequence[Any] = ..., /) -> Cursor: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Cursor: ...

    def close(self) -> None: ...


class HasRuns(Protocol):
    """What is to be written."""

    @property
    def runs(self) -> Sequence[Any]:
        """The runs to insert."""


class Driver(Protocol):
    """One database, in which a store's rows are.

    `url` and `name` show no credentials; `name` is how messages call the store. `root` is the folder for values too
    large for a row, `key` the file of the key that signs them (None: beside that folder). `sql` has the statements by
    name. `error` is the class of all errors of the database.
    """

    url: str
    name: str
    root: Path
    key: Path | None
    sql: Mapping[str, str]
    error: type[Exception]

    def connect(self) -> Connection:
        """One that writes, its tables made where missing, or upgraded. Raises `StoreTooNew`, `StoreUnavailable`."""

    def connect_to_read(self) -> Connection:
        """One that only reads, for any thread; the tables are upgraded first. Raises as `connect` does."""

    def at_once(self, ask: Callable[[], bool]) -> bool:
        """What `ask` finds in the database, for a caller that must not be held up; False if that would take long."""

    def close(self) -> None:
        """The store is closed: give back connections that are kept for later reads."""

    def reading(self) -> AbstractContextManager[Connection | None]:
        """The same for one use; None where no store has been made yet. What fails is `StoreUnavailable`."""

    def ready_to_write(self, connection: Connection) -> Connection:
        """This connection if it is still good, or another. Raises `StoreUnavailable`."""

    def ready_to_read(self, connection: Connection) -> Connection:
        """The same for one that only reads."""

    def begin(self, connection: Connection, epoch: int, writes: Sequence[HasRuns], alone: bool) -> Iterator[int] | None:
        """Begin a transaction of this owner, for these writes: the numbers of their runs. None: it is fenced off.

        It stays the owner's until the transaction ends. With `alone` nobody else takes claims meanwhile.
        """

    def commit(self, connection: Connection) -> None:
        """Raises `StoreUnavailable` if it cannot be known whether the transaction was committed."""

    def roll_back(self, connection: Connection) -> None:
        """End the transaction, if there is one. Raises nothing if the connection is lost."""

    def time(self) -> float:
        """Seconds since some moment, by a clock that goes on while this host sleeps: leases are measured with it."""

    def with_rows(self, statement: str, marks: str, count: int) -> str:
        """A statement with VALUES, for the values of `count` rows with these marks."""

    def in_order(self, rows: list[Any], width: int) -> list[Any]:
        """The values of rows, in an order in which two that insert the same ones do not block each other."""

    def texts(self, values: Iterable[Any]) -> Any:
        """One value for the texts among these, for `{texts}` in a statement."""

    def stream(self, connection: Connection, name: str) -> Iterator[Any]:
        """The rows of a statement that may be many, as they are asked for."""

    def mend(self, connection: Connection) -> None:
        """What damage may have done to the rows, as far as it can be mended."""

    def refuses(self, error: BaseException) -> bool:
        """Whether the error concerns more than the one write that it has met."""

    def is_hopeless(self, error: BaseException) -> bool:
        """Whether the same would happen to any other write."""

    def passes(self, error: BaseException) -> bool:
        """Whether the same transaction may succeed at once if it is written again."""

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """The error in the user's words, with its cure."""
