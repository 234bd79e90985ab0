"""A Redis server of the test's own, on a free port, in a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import redis

CURE = "no redis-server for the tests: apt-get install -y redis-server, or name one in REDIS_SERVER"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RedisServer:
    """`start` and `kill -9` as often as needed: what was acknowledged is on disk."""

    def __init__(self, folder: Path, password: str | None = None) -> None:
        program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
        if program is None:
            raise AssertionError(CURE)
        self._program = program
        self._folder = folder
        self._password = password
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        login = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, password=self._password, socket_timeout=10)

    def start(self) -> None:
        options = [
            "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip
        if self._password:
            options += ["--requirepass", self._password]
        log = (self._folder / "redis.log").open("ab")
        self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log)
        log.close()
        for _ in range(1000):
            if self._answers():
                return
            assert self._process.poll() is None, (self._folder / "redis.log").read_text()
            time.sleep(0.01)
        raise AssertionError(f"redis-server did not start: {(self._folder / 'redis.log').read_text()}")

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                client.ping()
                return True
        except redis.RedisError:
            return False

    def kill(self) -> None:
        self.check_ours()
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Freeze it: it accepts connections and says nothing."""
        self.check_ours()
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def check_ours(self) -> None:
        """Before anything destructive: the server that answers is the process that was started here."""
        assert self._process is not None
        with self.client() as client:
            info = client.info("server")
        assert info["process_id"] == self._process.pid, "another server answers on this port"

    def flush(self) -> None:
        self.check_ours()
        with self.client() as client:
            client.flushall()

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(10)


@contextmanager
def running_redis(folder: Path, password: str | None = None) -> Iterator[RedisServer]:
    server = RedisServer(folder, password)
    server.start()
    try:
        yield server
    finally:
        server.close()
