"""A PostgreSQL server of the test run's own, on a free port, with its data in a directory of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.services.redis import free_port

CURE = "no PostgreSQL for the tests: apt-get install -y postgresql, or name its folder of programs in POSTGRES_BIN"


def programs() -> Path | None:
    """The folder of initdb and postgres: $POSTGRES_BIN, else that on PATH, else Debian's newest."""
    if named := os.environ.get("POSTGRES_BIN"):
        return Path(named)
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((it.parent for it in debian), key=lambda it: float(it.parent.name), default=None)


class PostgresServer:
    """`start` and `kill -9` as often as needed: what was committed is on disk."""

    def __init__(self, folder: Path) -> None:
        found = programs()
        if found is None:
            raise AssertionError(CURE)
        self._programs = found
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas = count(1)
        self._as_user: dict[str, Any] = {"cwd": folder}
        if os.getuid() == 0:  # the server does not run as root
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as_user |= {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        command = [found / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
                   "--no-locale", "--no-sync"]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self._as_user)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def fresh(self) -> str:
        """The address of a store that nobody has used."""
        return f"{self.url}?schema=test_{next(self._schemas)}"

    def client(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True, connect_timeout=10)

    def start(self) -> None:
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder,
                   "shared_buffers": "32MB", "max_connections": 100}  # fmt: skip
        command = [self._programs / "postgres", "-D", self.folder / "data"]
        arguments = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        log = (self.folder / "postgres.log").open("ab")
        self._process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, **self._as_user)
        log.close()
        for _ in range(1500):
            if self._answers():
                return
            assert self._process.poll() is None, (self.folder / "postgres.log").read_text()
            time.sleep(0.02)
        raise AssertionError(f"postgres did not start: {(self.folder / 'postgres.log').read_text()}")

    def _answers(self) -> bool:
        try:
            self.client().close()
            return True
        except psycopg.OperationalError:
            return False

    def kill(self) -> None:
        """All its processes at once, as when the machine crashes."""
        assert self._process is not None
        processes = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children()]
        for process in processes:
            process.kill()
        self._process.wait(10)
        psutil.wait_procs(processes, 10)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)  # its data goes too
            self._process.wait(30)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    # Not below pytest's folder, which the server's user cannot read.
    folder = Path(tempfile.mkdtemp(prefix="sagaz-postgres-"))
    try:
        server = PostgresServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
