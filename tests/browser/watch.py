"""What a page did besides what it shows: its errors, where it asked, what its kernels sent, what it occupies."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, ConsoleMessage, Page, Request, WebError, WebSocket

from tests.browser.lab_server import HOST

_INSIDE = {"data", "blob", "about"}
_COMM = re.compile(r"comm_(open|msg|close)")


class Watch:
    """Follows every page of a context. `faults` has one line for each thing that no page may do."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def follow(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("request", self._request)
        context.on("page", lambda page: page.on("websocket", self._socket))

    async def check(self, context: BrowserContext) -> None:
        """Once all that the pages have reported so far has come in."""
        for page in context.pages:
            await page.evaluate("0")
        assert not self.faults, "\n".join(self.faults)

    def _console(self, line: ConsoleMessage) -> None:
        if line.type in ("error", "assert"):
            self.faults.append(f"console {line.type}: {line.text} ({line.location['url']})")

    def _error(self, error: WebError) -> None:
        self.faults.append(f"page error: {error.error.stack or error.error}")

    def _request(self, request: Request) -> None:
        self._address(request.url)

    def _socket(self, socket: WebSocket) -> None:
        self._address(socket.url)

    def _address(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _INSIDE and parts.hostname != HOST:
            self.faults.append(f"asked another host: {url}")


@dataclass(frozen=True)
class Comm:
    """One of the kernel's `comm_open`, `comm_msg` and `comm_close`. `sent_at` is by the kernel's clock."""

    kind: str
    comm_id: str
    data: dict[str, Any]
    sent_at: float


class Comms:
    """What the kernels of a page have sent on comms, in order."""

    def __init__(self, page: Page) -> None:
        self.received: list[Comm] = []
        self._page = page
        page.on("websocket", self._follow)

    def updates(self, comm_id: str | None = None) -> list[Comm]:
        """Each `comm_msg`, of one comm or of all."""
        return [one for one in self.received if one.kind == "comm_msg" and comm_id in (None, one.comm_id)]

    async def during(self, seconds: float) -> list[Comm]:
        """Each `comm_msg` that arrives in this time, from now on."""
        await self._page.evaluate("0")
        before = len(self.updates())
        await self._page.wait_for_timeout(seconds * 1000)
        return self.updates()[before:]

    def _follow(self, socket: WebSocket) -> None:
        if urlsplit(socket.url).path.endswith("/channels"):
            socket.on("framereceived", self._frame)

    def _frame(self, frame: str | bytes) -> None:
        if (comm := comm_of(frame)) is not None:
            self.received.append(comm)


def most_in_a_second(comms: Sequence[Comm]) -> int:
    """In whichever second had the most."""
    times = sorted(one.sent_at for one in comms)
    return max((sum(start <= at < start + 1 for at in times) for start in times), default=0)


def comm_of(frame: str | bytes) -> Comm | None:
    """Of a frame from a kernel: as JSON, or in the parts of `v1.kernel.websocket.jupyter.org`."""
    if isinstance(frame, str):
        whole = json.loads(frame)
        channel, header, content = whole.get("channel"), whole["header"], lambda: whole["content"]
    else:
        channel, header, content = _parts(frame)
    if channel != "iopub" or not _COMM.fullmatch(header["msg_type"]):
        return None
    told = content()
    return Comm(header["msg_type"], told["comm_id"], told["data"], datetime.fromisoformat(header["date"]).timestamp())


def _parts(frame: bytes) -> tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]:
    """A count, so many offsets of 8 bytes, then channel, header, parent's header, metadata, content, buffers."""
    (count,) = struct.unpack_from("<Q", frame)
    offsets = struct.unpack_from(f"<{count}Q", frame, 8)
    channel, header, content = (frame[offsets[n] : offsets[n + 1]] for n in (0, 1, 4))
    return channel.decode(), json.loads(header), lambda: json.loads(content)


@dataclass(frozen=True)
class Usage:
    """What a page occupies once its garbage is gone. Nodes include those that only scripts still hold."""

    heap_bytes: int
    nodes: int
    listeners: int


async def usage(page: Page) -> Usage:
    session = await page.context.new_cdp_session(page)
    try:
        await session.send("Performance.enable")
        for _ in range(2):  # what the first one finalizes may free more
            await session.send("HeapProfiler.collectGarbage")
        told = {one["name"]: one["value"] for one in (await session.send("Performance.getMetrics"))["metrics"]}
    finally:
        await session.detach()
    return Usage(int(told["JSHeapUsedSize"]), int(told["Nodes"]), int(told["JSEventListeners"]))
