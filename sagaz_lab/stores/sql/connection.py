"""Opening a SQLite file, and what to say when that or a write fails."""

from __future__ import annotations

import errno
import os
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import quote

from sagaz_lab.errors import StoreError, StoreTooNew, StoreUnavailable
from sagaz_lab.model.spelled import spelled_key
from sagaz_lab.stores.sql.claims import id_claim
from sagaz_lab.stores.sql.statements import schema
from sagaz_lab.stores.values.signing import make_private

VERSION = 5
"""Of the tables; kept as `PRAGMA user_version`."""

APPLICATION = 0x5361676C
"""Marks the file as ours, so that another program's database is not mistaken for a store."""

BUSY_MS = 5000
"""How long to wait for another process that writes."""

# 3.42 has a clock of its own with fractions; Debian 12 has 3.40.
NOW = "unixepoch('subsec')" if sqlite3.sqlite_version_info >= (3, 42) else "((julianday('now') - 2440587.5) * 86400.0)"

_FULL = "the disk is full; make room and go on"
_READ_ONLY = "the file or its folder is read-only; make it writable"
_CURES = {
    "SQLITE_FULL": _FULL,
    "SQLITE_READONLY": _READ_ONLY,
    "SQLITE_BUSY": f"another process has been writing for {BUSY_MS // 1000} s; try again",
    "SQLITE_LOCKED": "it is locked by another process; try again",
    "SQLITE_NOTADB": "it is no SQLite database; move it away or name another file",
    "SQLITE_CORRUPT": "the file is damaged; stop all that uses it, then move it away or recover what is left with: "
    "sqlite3 FILE .recover | sqlite3 NEW",
    "SQLITE_CANTOPEN": "it cannot be opened or made; see that the folder exists and is writable",
    "SQLITE_IOERR": "it cannot be read or written; see the disk, its quota and its limits",
}
_CURES_BY_NUMBER = {
    errno.EACCES: _READ_ONLY, errno.EPERM: _READ_ONLY, errno.EROFS: _READ_ONLY,
    errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EFBIG: _FULL,
}  # fmt: skip
_WORTH_TRYING = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_TOOBIG")


# What is no UTF-8 in a damaged row is shown as escapes: it must not keep all other rows from being read.
_TOLERANT = partial(str, encoding="utf-8", errors="backslashreplace")


def file_of(address: str) -> Path:
    """The file that the address of a SQLite store names; `~` is the user's home. Raises `StoreError`."""
    path = address.removeprefix("sqlite:///")
    if path == address or not path:
        raise StoreError(
            f"store {address!r}: write 'sqlite:///lab.db', or 'sqlite:////data/lab.db' for an absolute path"
        )
    if ":memory:" in path:
        raise StoreError(f"store {address!r}: SQLite in memory keeps nothing; write 'memory', or name a file")
    file, mark, _ = path.rpartition("?")
    if mark and "/" not in path[len(file) :] and not Path(path).exists():  # its folders may have such names
        raise StoreError(f"store 'sqlite:///{file}': it takes no options after a '?'; write the path alone")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        home = path.partition("/")[0]
        raise StoreError(f"store {address!r}: no home of {home!r} is known; write the path in full") from error


def unavailable(path: str | Path, error: Exception) -> StoreUnavailable:
    """The error in the user's words, with its cure."""
    if isinstance(error, OSError):
        cure = _CURES_BY_NUMBER.get(error.errno or 0, "")
    else:
        name = getattr(error, "sqlite_errorname", "") or ""
        cure = next((text for code, text in _CURES.items() if name.startswith(code)), "")
    return StoreUnavailable(f"the store {path}: {cure} ({error})" if cure else f"the store {path}: {error}")


def is_hopeless(error: BaseException) -> bool:
    """Whether the same would happen to any other write."""
    if not isinstance(error, sqlite3.Error):
        return True
    return not (getattr(error, "sqlite_errorname", "") or "").startswith(_WORTH_TRYING)


def connect(path: Path) -> sqlite3.Connection:
    """A connection that writes, its tables made where missing. Raises `StoreTooNew`, `StoreUnavailable`."""
    try:
        _make_file(path)
        connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        connection.text_factory = _TOLERANT
    except (OSError, sqlite3.Error) as error:
        raise unavailable(path, error) from error
    try:
        _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _make_tables(connection)
    except sqlite3.Error as error:
        connection.close()
        raise unavailable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection that only reads, for any thread; the tables are upgraded first. Raises as `connect` does."""
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
            # Read again: another process may have been quicker.
            for statement in _steps_from(_version(connection)):
                cursor.execute(statement)
            cursor.execute("COMMIT")
        except BaseException:
            cursor.execute("ROLLBACK")
            raise


def _steps_from(version: int) -> list[str]:
    """What makes the tables, or upgrades them from this version."""
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
