"""The handle of started triggers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from sagaz_lab.errors import describe
from sagaz_lab.runtime.explain import Status

if TYPE_CHECKING:
    from sagaz_lab.lab import Lab

_STOPPING = ("SIGINT", "SIGTERM")


class Handle:
    """Started triggers. Await it until every source is connected; `wait()` runs until a signal or `stop()`."""

    def __init__(self, lab: Lab, starting: asyncio.Task[None]) -> None:
        self._lab = lab
        self._starting = starting
        self._starting.add_done_callback(self._started)
        self._ended = asyncio.Event()
        self._awaited = False

    def __await__(self) -> Generator[Any, None, Handle]:
        self._awaited = True
        yield from asyncio.shield(self._starting).__await__()
        return self

    async def wait(self) -> None:
        """Run until SIGINT, SIGTERM or `lab.stop()`; on a signal the Lab is stopped first."""
        loop = asyncio.get_running_loop()
        installed = []
        for name in _STOPPING:
            try:
                loop.add_signal_handler(getattr(signal, name), self._ended.set)
                installed.append(getattr(signal, name))
            except (NotImplementedError, ValueError, RuntimeError):  # not the main thread, or no such signals here
                continue
        try:
            await self._until_ended()
        finally:
            for number in installed:
                loop.remove_signal_handler(number)
        await self._lab.stop()

    async def _until_ended(self) -> None:
        """A signal counts while the sources are still connecting, too."""
        ended = asyncio.ensure_future(self._ended.wait())
        self._awaited = True
        try:
            await asyncio.wait([self._starting, ended], return_when=asyncio.FIRST_COMPLETED)
            if self._starting.done():
                self._starting.result()
                await ended
            else:
                self._starting.cancel()
                await asyncio.wait([self._starting])
        finally:
            ended.cancel()

    async def stop(self, grace_s: float = 10.0) -> None:
        """The same as `lab.stop()`."""
        await self._lab.stop(grace_s)

    def status(self) -> Status:
        """The same as `lab.status()`."""
        return self._lab.status()

    def ended(self) -> None:
        """The Lab has stopped."""
        self._ended.set()

    def _started(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._awaited:
            self._lab.report("start", f"the triggers could not be started: {describe(error)}")

    def __repr__(self) -> str:
        return f"Handle({self._lab.status()!r})"
