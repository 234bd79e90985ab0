"""Detects that the files of an open SQLite store were removed or replaced."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress

Files = Mapping[str, int]
"""Inodes by path: the database, its write-ahead log, the log's index."""


def files_of(path: str) -> Files:
    """The current files; without WAL mode only the database."""
    return {file: inode for file in (path, f"{path}-wal", f"{path}-shm") if (inode := _inode(file)) is not None}


def lost_file(files: Files) -> str | None:
    """The first removed or replaced file, with the cure; None if all are unchanged."""
    for file, inode in files.items():
        if (found := _inode(file)) != inode:
            what = "is gone" if found is None else "was replaced"
            return f"{file} {what} while it was open; put it back, or stop all users of the store and reopen it"
    return None


def save_log(connection: sqlite3.Connection, files: Files) -> str:
    """If only the log was removed, write its content, which the connection still has, into the database; reports it.

    A replaced log belongs to another process, and so does the database by then.
    """
    database, *others = files
    if not others or _inode(database) != files[database] or _inode(others[0]) is not None:
        return ""
    with suppress(sqlite3.Error):
        row = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if row is not None and row[0] == 0 and row[1] == row[2]:
            return "; all stored data is safe"
    return ""


def _inode(file: str) -> int | None:
    try:
        return os.stat(file).st_ino
    except OSError:
        return None
