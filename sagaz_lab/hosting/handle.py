"""The handle of started triggers."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from sagaz_lab.errors import LabClosed, describe, without_credentials
from sagaz_lab.hosting.isolated import Once, Shipped
from sagaz_lab.runtime.status import Status

_STOPPING = ("SIGINT", "SIGTERM")


class Started(Protocol):
    """The part of a Lab that a handle uses."""

    async def stop(self, grace_s: float = ...) -> None: ...

    def status(self) -> Status: ...

    def report(self, kind: str, text: str) -> None: ...


class Handle:
    """Started triggers. Await it until every source is connected; `wait()` runs until a signal or `stop()`."""

    def __init__(
        self,
        lab: Started,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], Shipped[None]],
        work: Callable[[Callable[[], None]], Coroutine[Any, Any, None]],
    ) -> None:
        """`work` calls its argument as soon as the sources begin to connect."""
        self._lab = lab
        self._reads = Once()
        self._starting = start(partial(_safely, partial(work, self._reads.set)))
        self._ended = Once()
        self._awaited = False
        self._starting.ended.then(self._started)

    def __await__(self) -> Generator[Any, None, Handle]:
        self._awaited = True
        yield from self._starting.ended.wait().__await__()
        self._check_start()
        return self

    def _check_start(self) -> None:
        """Raise the error of a failed start."""
        if self._starting.was_cancelled:
            raise LabClosed("the Lab was stopped while it was starting; start it again")
        self._starting.result()

    def then(self, call: Callable[[], object]) -> None:
        """Call it, on any thread, when the start has succeeded or failed."""
        self._starting.ended.then(call)

    async def begun(self, within_s: float) -> None:
        """Wait for the start, up to `within_s`. Raises its error; a later failure is reported."""
        self._awaited = True
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._starting.ended.wait()
        self._awaited = self._starting.is_over
        if self._starting.is_over:
            self._check_start()

    @property
    def is_starting(self) -> bool:
        return not self._starting.is_over

    @property
    def failed(self) -> Mapping[str, str]:
        """Why a source failed to connect, by trigger."""
        failed = [source for source in self._lab.status().sources if source.state == "failed"]
        return {name: source.error for source in failed for name in source.read_by}

    async def reads(self) -> None:
        """Wait until the sources begin to connect or the start fails."""
        both = [asyncio.ensure_future(one.wait()) for one in (self._starting.ended, self._reads)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()

    async def wait(self) -> None:
        """Run until SIGINT, SIGTERM or `lab.stop()`; on a signal the Lab is stopped first."""
        loop = asyncio.get_running_loop()
        installed = []
        for name in _STOPPING:
            try:
                loop.add_signal_handler(getattr(signal, name), self.ended)
                installed.append(getattr(signal, name))
            except (NotImplementedError, ValueError, RuntimeError):  # not the main thread, or a platform without them
                continue
        try:
            await self._until_ended()
        finally:
            for number in installed:
                loop.remove_signal_handler(number)
        await self._lab.stop()

    async def _until_ended(self) -> None:
        self._awaited = True
        both = [asyncio.ensure_future(one.wait()) for one in (self._starting.ended, self._ended)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not self._starting.is_over:
                self._starting.cancel()
                await self._starting.ended.wait()
            elif not self._starting.was_cancelled:  # else the Lab was stopped in the meantime
                self._starting.result()
                await self._ended.wait()
        finally:
            for one in both:
                one.cancel()

    async def stop(self, grace_s: float = 10.0) -> None:
        """The same as `lab.stop()`."""
        await self._lab.stop(grace_s)

    def status(self) -> Status:
        """The same as `lab.status()`."""
        return self._lab.status()

    def ended(self) -> None:
        self._ended.set()

    def _started(self) -> None:
        if (error := self._starting.error()) is not None and not self._awaited:
            self._lab.report("start", f"the triggers could not be started: {describe(error)}")

    def __repr__(self) -> str:
        failed = f"; not started: {', '.join(self.failed)}" if self.failed else ""
        return f"Handle({self._lab.status()!r}{failed})"


async def _safely(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Raises the errors of `work`, with the credentials that libraries put into them removed."""
    failure: BaseException
    try:
        return await work()
    except Exception as error:  # noqa: BLE001
        failure = error
    raise without_credentials(failure)  # outside the `except`, so that it has no context
