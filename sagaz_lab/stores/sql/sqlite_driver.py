"""The SQLite driver: a store is one file with one writer at a time."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sagaz_lab.errors import StoreError, StoreTooNew, StoreUnavailable
from sagaz_lab.model.spelled import spelled_key
from sagaz_lab.stores.sql.claims import id_claim
from sagaz_lab.stores.sql.driver import FULL, READ_ONLY, HasRuns, file_failed
from sagaz_lab.stores.sql.sqlite_files import Files, files_of, lost_file, save_log
from sagaz_lab.stores.sql.statements import schema, statements, with_rows
from sagaz_lab.stores.sql.store import SqlStore
from sagaz_lab.stores.values.signing import make_private
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)

VERSION = 5
"""Version of the tables, stored as `PRAGMA user_version`."""

APPLICATION = 0x5361676C
"""Marks the file as a store, which tells it from other programs' databases."""

BUSY_MS = 5000
"""How long to wait for another process's write."""

# 3.42 has a clock with fractions; Debian 12 has 3.40.
NOW = "unixepoch('subsec')" if sqlite3.sqlite_version_info >= (3, 42) else "((julianday('now') - 2440587.5) * 86400.0)"

_TEXTS = "(SELECT value FROM json_each(?))"

_CURES = {
    "SQLITE_FULL": FULL,
    "SQLITE_READONLY": READ_ONLY,
    "SQLITE_BUSY": f"another process has been writing for {BUSY_MS // 1000} s; try again",
    "SQLITE_LOCKED": "it is locked by another process; try again",
    "SQLITE_NOTADB": "it is not a SQLite database; move it away or name another file",
    "SQLITE_CORRUPT": "the file is damaged; stop all processes that use it, then move it away or recover it with: "
    "sqlite3 FILE .recover | sqlite3 NEW",
    "SQLITE_CANTOPEN": "it cannot be opened or created; check that the folder exists and is writable",
    "SQLITE_IOERR": "it cannot be read or written; check the disk, its quota and its limits",
}
_WORTH_TRYING = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_TOOBIG")


# Invalid UTF-8 in a damaged row becomes escapes: it must not prevent reading the other rows.
_TOLERANT = partial(str, encoding="utf-8", errors="backslashreplace")


def file_of(address: str) -> Path:
    """The file of a SQLite address; `~` is the user's home. Raises `StoreError`."""
    path = address.removeprefix("sqlite:///")
    if path == address or not path:
        raise StoreError(
            f"store {address!r}: write 'sqlite:///lab.db', or 'sqlite:////data/lab.db' for an absolute path"
        )
    if ":memory:" in path:
        raise StoreError(f"store {address!r}: in-memory SQLite is not supported; write 'memory', or name a file")
    file, mark, _ = path.rpartition("?")
    if mark and "/" not in path[len(file) :] and not Path(path).exists():  # a folder's name may contain a '?'
        raise StoreError(f"store 'sqlite:///{file}': no options are allowed after a '?'; write the path alone")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        home = path.partition("/")[0]
        raise StoreError(f"store {address!r}: the home of {home!r} is unknown; write the full path") from error


class SqliteConnection(sqlite3.Connection):
    """A writing connection with its open files."""

    files: Files


class SqliteDriver:
    """A store in one file, readable by its user only, which several processes can open."""

    error: type[Exception] = sqlite3.Error

    def __init__(self, path: str | Path) -> None:
        # Absolute, since a notebook may change its working directory.
        self.path = Path(path).absolute()
        self.name = os.fspath(self.path)
        self.url = f"sqlite:///{self.path}"
        self.root = self.path.parent / "artifacts"
        self.key: Path | None = self.path.with_name(f"{self.path.name}.key")
        self.sql = statements("sqlite", NOW, _TEXTS)
        self.with_rows = with_rows
        self.time = time.time  # shared by all owners, which run on this host

    def connect(self) -> SqliteConnection:
        return connect(self.path)

    def connect_to_read(self) -> sqlite3.Connection:
        return connect_to_read(self.path)

    def at_once(self, ask: Callable[[], bool]) -> bool:
        return ask()

    def close(self) -> None:
        pass  # there is no pool

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        if not self.path.exists():
            yield None
            return
        try:
            with closing(connect_to_read(self.path)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise self.unavailable(error) from error

    def ready_to_write(self, connection: Any) -> SqliteConnection:
        files: Files = connection.files
        if (what := lost_file(files)) is not None:
            raise StoreUnavailable(f"the store {self.path}: {what}{save_log(connection, files)}")
        return connection  # type: ignore[no-any-return]

    def ready_to_read(self, connection: Any) -> sqlite3.Connection:
        return connection  # type: ignore[no-any-return]

    def begin(self, connection: Any, epoch: int, writes: Sequence[HasRuns], alone: bool) -> Iterator[int] | None:
        connection.execute("BEGIN IMMEDIATE")
        row = connection.execute(self.sql["fence"], (epoch,)).fetchone()
        return None if row is None or row[0] else count((row[1] or 0) + 1)

    def commit(self, connection: Any) -> None:
        connection.execute("COMMIT")

    def roll_back(self, connection: Any) -> None:
        if connection.in_transaction:
            connection.execute("ROLLBACK")

    def in_order(self, rows: list[Any], width: int) -> list[Any]:
        return rows  # there is only one writer

    def texts(self, values: Iterable[Any]) -> str:
        """As JSON, without bytes: a damaged value names nothing."""
        return json.dumps([value for value in values if isinstance(value, str)])

    def stream(self, connection: Any, name: str) -> Iterator[Any]:
        rows: Iterator[Any] = connection.execute(self.sql[name])
        return rows

    def repair(self, connection: Any) -> None:
        """Give dead letters with a damaged id a new one, by which they can be redriven or discarded."""
        for number, is_text, event_id, claimed in connection.execute(self.sql["misnamed_letters"]).fetchall():
            if claimed is not None or not is_text:
                (letter,) = connection.execute(self.sql["name_letter"], (claimed, number)).fetchone()
                logger.warning("the id of the dead letter of event %s was damaged; it is now %s", event_id, letter)

    def refuses(self, error: BaseException) -> bool:
        return isinstance(error, sqlite3.OperationalError)

    def is_fatal(self, error: BaseException) -> bool:
        if not isinstance(error, sqlite3.Error):
            return True
        return not (getattr(error, "sqlite_errorname", "") or "").startswith(_WORTH_TRYING)

    def passes(self, error: BaseException) -> bool:
        return False  # there is only one writer

    def unavailable(self, error: Exception) -> StoreUnavailable:
        return unavailable(self.path, error)


def unavailable(path: Path, error: Exception) -> StoreUnavailable:
    if isinstance(error, OSError):
        return file_failed(path, error)
    name = getattr(error, "sqlite_errorname", "") or ""
    cure = next((text for code, text in _CURES.items() if name.startswith(code)), "")
    return StoreUnavailable(f"the store {path}: {cure} ({error})" if cure else f"the store {path}: {error}")


def connect(path: Path) -> SqliteConnection:
    """See `Driver.connect`."""
    try:
        _make_file(path)
        connection = sqlite3.connect(
            path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False, factory=SqliteConnection
        )
        connection.text_factory = _TOLERANT
    except (OSError, sqlite3.Error) as error:
        raise unavailable(path, error) from error
    try:
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _make_tables(connection)
        connection.files = files_of(os.fspath(path))
    except sqlite3.Error as error:
        connection.close()
        raise unavailable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """See `Driver.connect_to_read`."""
    connection = _read(path)
    try:
        is_old = 0 < _version(connection) < VERSION
    except sqlite3.Error as error:
        connection.close()
        raise unavailable(path, error) from error
    if is_old:
        connection.close()
        connect(path).close()
        connection = _read(path)
    return connection


def _read(path: Path) -> sqlite3.Connection:
    try:
        uri = f"file:{quote(os.fspath(path), errors='surrogateescape')}?mode=ro"
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = _TOLERANT
        try:
            _check(connection, path)
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise unavailable(path, error) from error
    return connection


def _make_file(path: Path) -> None:
    make_private(path.parent)
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _check(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection)
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    is_empty = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if application != APPLICATION and not is_empty:
        raise StoreUnavailable(f"the store {path}: it is another program's SQLite database; name another file")
    if version > VERSION:
        raise StoreTooNew(
            f"the store {path} has version {version} and this sagaz_lab knows version {VERSION}: it was written by a "
            f"newer one; upgrade with pip install -U sagaz-lab, or name another file"
        )


def _make_tables(connection: sqlite3.Connection) -> None:
    if _version(connection) == VERSION:
        return
    connection.create_function("spelled_key", 1, spelled_key)
    connection.create_function("id_claim", 2, id_claim)
    with closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN IMMEDIATE")
        try:
            # Read again: another process may have upgraded it.
            for statement in _steps_from(_version(connection)):
                cursor.execute(statement)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise


def _steps_from(version: int) -> list[str]:
    """The statements that create the tables or upgrade them from this version."""
    scripts = [f"upgrade_{old}_to_{old + 1}" for old in range(version, VERSION)] if version else ["sqlite"]
    marks = [f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {VERSION}"]
    return [*(statement for script in scripts for statement in _statements(schema(script))), *marks]


def _statements(script: str) -> list[str]:
    # `executescript` would commit first.
    found, lines = [], []
    for line in script.splitlines():
        lines.append(line)
        if sqlite3.complete_statement(text := "\n".join(lines)):
            found.append(text)
            lines = []
    return found


def open_sqlite(address: str, artifacts: str | Path | None, retention_days: float) -> SqlStore:
    """For the table of stores. Three slashes and a path: `sqlite:///lab.db` is relative, `sqlite:////lab.db` is not."""
    return SqlStore(SqliteDriver(file_of(address)), artifacts=artifacts, retention_days=retention_days)
