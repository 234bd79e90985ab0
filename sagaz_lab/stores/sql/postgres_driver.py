"""The PostgreSQL driver: a store is a schema of a database, with concurrent writers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from itertools import count
from operator import itemgetter
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit
from weakref import finalize

import psycopg
from psycopg import errors, sql
from psycopg.adapt import Dumper, Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import Int8Dumper

from sagaz_lab.errors import StoreError, StoreTooNew, StoreUnavailable
from sagaz_lab.stores.sql.driver import FULL, HasRuns, Raced
from sagaz_lab.stores.sql.statements import schema, statements, with_rows
from sagaz_lab.stores.sql.store import SqlStore
from sagaz_lab.texts import masked_address

VERSION = 1
"""Version of the tables, stored in the table `sagaz_store`."""

OLDEST_SERVER = 130000
"""The first server version that reports a transaction's status."""

BUSY_S = 5
"""How long to wait for locks of another process."""

STUCK_S = 10
"""After this long the server ends a stuck process's transaction, which unblocks others."""

IN_DOUBT_S = 30.0
"""How long to query the status of a transaction whose connection was lost during the commit."""

AT_ONCE_S = 0.2
"""Time-out of a query that blocks the loop."""

IDLE = 4
"""Pooled read connections."""

ROWS = 1000
"""Rows per fetch of a large result."""

_NOW = "extract(epoch FROM clock_timestamp())::float8"
_TEXTS = "(SELECT unnest(?::text[]))"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)

# libpq options, unless the address sets them, by which a dead network is noticed soon.
_DEFAULTS = {
    "application_name": "sagaz_lab", "connect_timeout": "5", "tcp_user_timeout": "15000",
    "keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "3",
}  # fmt: skip

_WRITES = (
    "SET synchronous_commit = on; SET default_transaction_isolation = 'read committed'; "
    f"SET lock_timeout = '{BUSY_S}s'; SET idle_in_transaction_session_timeout = '{STUCK_S}s'"
)

_CURES = {
    "28": "the server refuses this user or password; see the address",
    "3D": "the server has no such database; create it with createdb, or name another",
    "42P07": "it has a table of another program; name a separate schema with ?schema=NAME",
    "42501": "this user lacks a privilege; grant it, or name a separate schema with ?schema=NAME",
    "53100": FULL,
    "53300": "the server has no connection left; close others, or raise its max_connections",
    "55P03": f"another process has been writing the same rows for {BUSY_S} s; try again",
    "25006": "the server is read-only now; check whether another has become the primary",
}


class PostgresConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection with the store's interface."""

    def executemany(self, statement: str, rows: Iterable[Any], /) -> psycopg.Cursor[tuple[Any, ...]]:
        cursor = self.cursor()
        cursor.executemany(statement, rows)
        return cursor


# PostgreSQL text cannot contain NUL: a noncharacter plus a digit encodes it and the noncharacter itself.
_MARK = "\uffff"


class _TextDumper(Dumper):
    oid = psycopg.adapters.types["text"].oid

    def dump(self, obj: str) -> bytes:
        if "\0" in obj or _MARK in obj:
            obj = obj.replace(_MARK, f"{_MARK}1").replace("\0", f"{_MARK}0")
        return obj.encode()


class _TextLoader(Loader):
    def load(self, data: Any) -> str:
        text = bytes(data).decode()
        return text.replace(f"{_MARK}0", "\0").replace(f"{_MARK}1", _MARK) if _MARK in text else text


class PostgresDriver:
    """A store in one schema, as in `postgresql://user:password@host/db?schema=name`.

    The default is the first existing schema of the user's search path, as usual.
    """

    error: type[Exception] = psycopg.Error

    def __init__(self, address: str) -> None:
        self._dsn, self._schema = _parts(address)
        self.url = self.name = _shown(self._dsn, self._schema)
        database = self._dsn.get("dbname") or self._dsn.get("user") or "postgres"
        folder = "-".join(quote(part, safe="") for part in ("artifacts", database, self._schema) if part)
        # Absolute, since a notebook may change its working directory.
        self.root = Path(".sagaz_lab", folder).absolute()
        self.key: Path | None = None
        texts = statements("postgres", _NOW, _TEXTS)
        self.sql: Mapping[str, str] = {name: numbered(text) for name, text in texts.items()}
        self.with_rows = _with_rows
        self.time = time.monotonic if _CLOCK is None else partial(time.clock_gettime, _CLOCK)
        self._streams = count(1)
        self._transaction = ""
        # Pooled read connections, while the store is open.
        self._idle: list[PostgresConnection] = []
        self._keeps = False
        self._lock = Lock()
        self._asked: Future[bool] | None = None
        finalize(self, _close_all, self._idle)

    def connect(self) -> PostgresConnection:
        connection = self._connect(_WRITES)
        try:
            self._make_tables(connection)
        except psycopg.Error as error:
            connection.close()
            raise self.unavailable(error) from error
        except BaseException:
            connection.close()
            raise
        self._keeps = True
        return connection

    def connect_to_read(self) -> PostgresConnection:
        return self._connect("SET default_transaction_read_only = on")

    def at_once(self, ask: Callable[[], bool]) -> bool:
        if self._asked is None or self._asked.done():
            self._asked = Future[bool]()
            # A daemon thread: a dead network must not delay the process's exit.
            Thread(target=_answer, args=(self._asked, ask), name="sagaz-store-glance", daemon=True).start()
        try:
            return self._asked.result(AT_ONCE_S)
        except TimeoutError:
            return False

    def close(self) -> None:
        self._keeps = False
        _close_all(self._idle)

    @contextmanager
    def reading(self) -> Iterator[PostgresConnection | None]:
        connection = None
        try:
            connection = self._begin_to_read()
            yield connection if self._version(connection) else None
            connection.execute("ROLLBACK")
        except psycopg.Error as error:
            raise self.unavailable(error) from error
        finally:
            if connection is not None:
                self._give_back(connection)

    def _begin_to_read(self) -> PostgresConnection:
        """All reads see one snapshot."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with suppress(IndexError, psycopg.OperationalError):  # it may have been lost
            connection = self._idle.pop()
            try:
                connection.execute(begin)
                return connection
            except BaseException:
                connection.close()
                raise
        connection = self.connect_to_read()
        connection.execute(begin)
        return connection

    def _give_back(self, connection: PostgresConnection) -> None:
        with self._lock:
            is_good = connection.info.transaction_status == TransactionStatus.IDLE
            if self._keeps and is_good and len(self._idle) < IDLE:
                self._idle.append(connection)
                return
        connection.close()

    def ready_to_write(self, connection: Any) -> PostgresConnection:
        return self.connect() if connection.closed else connection

    def ready_to_read(self, connection: Any) -> PostgresConnection:
        return self.connect_to_read() if connection.closed else connection

    def begin(self, connection: Any, epoch: int, writes: Sequence[HasRuns], alone: bool) -> Iterator[int] | None:
        runs = sum(len(write.runs) for write in writes)
        with connection.pipeline():
            connection.execute("BEGIN")
            cursor = connection.execute(self.sql["fence"], (epoch, runs))
            if alone:
                connection.execute("LOCK TABLE claims IN SHARE ROW EXCLUSIVE MODE")
        row = cursor.fetchone()
        if row is None or row[0]:
            return None
        numbers: list[int] = row[1]
        self._transaction = row[2]
        return iter(numbers)

    def commit(self, connection: Any) -> None:
        try:
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if not (connection.closed and self._was_committed(error)):
                raise

    def _was_committed(self, lost: psycopg.Error) -> bool:
        """Whether a transaction was committed whose connection was lost during the commit."""
        until = time.monotonic() + IN_DOUBT_S
        while time.monotonic() < until:
            with suppress(psycopg.OperationalError, StoreUnavailable), closing(self._connect()) as connection:
                row = connection.execute("SELECT pg_xact_status($1::xid8)", (self._transaction,)).fetchone()
                if row != ("in progress",):
                    return row == ("committed",)
            time.sleep(0.2)
        raise StoreUnavailable(f"the store {self.name}: its connection was lost, and it is unknown whether the "
                               f"last transaction was committed ({_text(lost)})") from lost  # fmt: skip

    def roll_back(self, connection: Any) -> None:
        with suppress(psycopg.Error):
            if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
                connection.execute("ROLLBACK")

    def in_order(self, rows: list[Any], width: int) -> list[Any]:
        ordered = sorted(zip(*[iter(rows)] * width, strict=True), key=itemgetter(0, 1))
        return [value for row in ordered for value in row]

    def texts(self, values: Iterable[Any]) -> list[str]:
        return [value for value in values if isinstance(value, str)]

    def stream(self, connection: Any, name: str) -> Iterator[Any]:
        cursor = f"stream_{next(self._streams)}"
        connection.execute(f"DECLARE {cursor} NO SCROLL CURSOR FOR {self.sql[name]}")
        while rows := connection.execute(f"FETCH {ROWS} FROM {cursor}").fetchall():
            yield from rows

    def repair(self, connection: Any) -> None:
        pass  # columns are strictly typed

    def is_fatal(self, error: BaseException) -> bool:
        return not isinstance(error, psycopg.Error) or self.refuses(error)

    def refuses(self, error: BaseException) -> bool:
        spoilt = (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded)
        return isinstance(error, psycopg.Error) and not isinstance(error, spoilt)

    def passes(self, error: BaseException) -> bool:
        return isinstance(error, Raced | errors.SerializationFailure | errors.DeadlockDetected)

    def unavailable(self, error: Exception) -> StoreUnavailable:
        state = getattr(error, "sqlstate", None) or ""
        cure = next((text for code, text in _CURES.items() if state.startswith(code)), "")
        what = f"{cure} ({_text(error)})" if cure else _text(error)
        if password := self._dsn.get("password"):
            what = what.replace(password, "***")
        return StoreUnavailable(f"the store {self.name}: {what}")

    def _connect(self, settings: str = "") -> PostgresConnection:
        try:
            connection = PostgresConnection.connect(**self._dsn, autocommit=True, cursor_factory=psycopg.RawCursor)
        except psycopg.Error as error:
            raise self.unavailable(error) from None  # its traceback contains the password
        try:
            connection.adapters.register_dumper(str, _TextDumper)
            connection.adapters.register_dumper(int, Int8Dumper)
            connection.adapters.register_loader("text", _TextLoader)
            connection.prepared_max = 500
            self._check(connection)
            if self._schema:
                path = sql.SQL("SET search_path = {}").format(sql.Identifier(self._schema))
                connection.execute(path)
            if settings:
                connection.execute(settings)
        except psycopg.Error as error:
            connection.close()
            raise self.unavailable(error) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: PostgresConnection) -> None:
        if connection.info.server_version < OLDEST_SERVER:
            raise StoreUnavailable(f"the store {self.name}: the server is older than PostgreSQL 13; upgrade it")
        encoding = connection.info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise StoreUnavailable(f"the store {self.name}: its encoding is {encoding}; create a database with UTF8")

    def _version(self, connection: PostgresConnection) -> int:
        """Version of the tables, 0 without tables. Raises `StoreTooNew`."""
        found = connection.execute("SELECT to_regclass('sagaz_store') IS NOT NULL").fetchone()
        if found != (True,):
            return 0
        version: int
        ((version,),) = connection.execute("SELECT version FROM sagaz_store").fetchall()
        if version > VERSION:
            raise StoreTooNew(
                f"the store {self.name} has version {version} and this sagaz_lab knows version {VERSION}: it was "
                "created by a newer one; upgrade with pip install -U sagaz-lab, or name another with ?schema=NAME"
            )
        return version

    def _make_tables(self, connection: PostgresConnection) -> None:
        if self._version(connection):
            return
        with connection.transaction():
            # Processes may race: one creates the tables, the others find them.
            name = f"sagaz_lab {self._schema}"
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", (name,))
            if self._schema:
                connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self._schema)))
            if not self._version(connection):
                connection.execute(schema("postgres"))
                connection.execute("INSERT INTO sagaz_store (version) VALUES ($1)", (VERSION,))


def numbered(statement: str) -> str:
    """Rewrite ?1 to $1, and each plain ? to $1, $2 and so on."""
    numbers = count(1)
    return re.sub(r"\?(\d*)", lambda mark: f"${mark[1] or next(numbers)}", statement)


@cache
def _with_rows(statement: str, marks: str, count: int) -> str:
    return numbered(with_rows(statement, marks, count))


def _parts(address: str) -> tuple[dict[str, Any], str]:
    """The parameters for libpq, and the schema. Raises `StoreError`."""
    parts = urlsplit(address)
    options = parse_qsl(parts.query, keep_blank_values=True)
    name = next((value for option, value in options if option == "schema"), "")
    query = urlencode([(option, value) for option, value in options if option != "schema"], quote_via=quote)
    try:
        dsn = conninfo_to_dict(urlunsplit(parts._replace(query=query)))
    except psycopg.Error:
        raise StoreError(
            f"store {masked_address(address)!r} cannot be parsed: write postgresql://user:password@host/database, "
            "then '?' and options of libpq or schema=NAME"
        ) from None
    return {**_DEFAULTS, **{key: value for key, value in dsn.items() if value is not None}}, name


def _shown(dsn: Mapping[str, Any], name: str) -> str:
    """The address without credentials."""
    user, host, port = (str(dsn.get(part) or "") for part in ("user", "host", "port"))
    place = f"{quote(user, safe='')}@" if user else ""
    place += quote(host, safe="") + (f":{port}" if port else "")
    return f"postgresql://{place}/{quote(str(dsn.get('dbname') or ''), safe='')}" + (
        f"?schema={quote(name)}" if name else ""
    )


def _answer(asked: Future[bool], ask: Callable[[], bool]) -> None:
    found = False
    try:
        found = ask()
    finally:
        asked.set_result(found)


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())


def _close_all(connections: list[PostgresConnection]) -> None:
    while connections:
        connections.pop().close()


def open_postgres(address: str, artifacts: str | Path | None, retention_days: float) -> SqlStore:
    """For the table of stores."""
    return SqlStore(PostgresDriver(address), artifacts=artifacts, retention_days=retention_days)
