"""A Redis server of the benchmark's own, and the stream that both sides read."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.asyncio import Redis

from tests.benchmarks.workload import ENTRY_BYTES, event

START_S = 10.0
STOP_S = 5.0
FILL = 1000


async def fill(server: Redis, n: int, keep_every: int) -> str:
    """A new stream of `n` entries whose payload is a JSON text of 200 bytes. Returns its name."""
    stream = "bench:entries"
    await server.delete(stream)
    for begin in range(0, n, FILL):
        async with server.pipeline(transaction=False) as pipeline:
            for i in range(begin, min(begin + FILL, n)):
                pipeline.xadd(stream, {"payload": payload(i, n, keep_every)})
            await pipeline.execute()
    return stream


def payload(i: int, n: int, keep_every: int) -> str:
    body = event(i, n, keep_every)
    bare = len(json.dumps({**body, "note": ""}))
    return json.dumps({**body, "note": "x" * (ENTRY_BYTES - bare)})


@contextmanager
def redis_server() -> Iterator[str]:
    """The address of a server on a free port, in memory only, stopped on leaving."""
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("redis-server is not installed; on Debian: apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as folder:
        port = free_port()
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until_ready(process, port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    """Returns once this very process answers; another server on that port is never used."""
    deadline = time.monotonic() + START_S
    with redis.Redis(port=port) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                answered: int = client.info("server")["process_id"]
            except redis.ConnectionError:
                time.sleep(0.05)
                continue
            if answered != process.pid:
                raise RuntimeError(f"port {port} is another server's (process {answered})")
            return
    raise RuntimeError(f"redis-server did not answer on port {port} within {START_S:.0f} s")
