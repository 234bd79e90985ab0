"""The files of an open SQLite store: whether they are still those that were opened."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import suppress

Files = Mapping[str, int]
"""The inode by path: of the database first, then of its log and of the index of that."""


def files_of(path: str) -> Files:
    """Those that are there now; without the mode WAL there is only the database."""
    return {file: inode for file in (path, f"{path}-wal", f"{path}-shm") if (inode := _inode(file)) is not None}


def lost_file(files: Files) -> str | None:
    """What has become of the first that is not there any more, with the cure; None if all are."""
    for file, inode in files.items():
        if (found := _inode(file)) != inode:
            what = "is gone" if found is None else "was replaced"
            return f"{file} {what} while it was open; put it back, or stop all that use the store and open it anew"
    return None


def save_log(connection: sqlite3.Connection, files: Files) -> str:
    """If only the log is gone, the connection still has it: write what it holds into the database. Says so.

    One that was replaced belongs to another process, and so does the database by now.
    """
    database, *others = files
    if not others or _inode(database) != files[database] or _inode(others[0]) is not None:
        return ""
    with suppress(sqlite3.Error):
        row = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if row is not None and row[0] == 0 and row[1] == row[2]:
            return "; what had been stored is safe"
    return ""


def _inode(file: str) -> int | None:
    try:
        return os.stat(file).st_ino
    except OSError:
        return None
