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
    """The part of a Lab that the handle of its start needs."""

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
        """`work` calls what it is given as soon as the sources are being connected."""
        self._lab = lab
        self._reads = Once()
        self._starting = start(partial(_safely, partial(work, self._reads.tell)))
        self._ended = Once()
        self._awaited = False
        self._starting.ended.then(self._started)

    def __await__(self) -> Generator[Any, None, Handle]:
        self._awaited = True
        yield from self._starting.ended.wait().__await__()
        self._check_start()
        return self

    def _check_start(self) -> None:
        """Raises why the start that is over has failed."""
        if self._starting.was_cancelled:
            raise LabClosed("the Lab was stopped while it was starting; start it again")
        self._starting.result()

    def then(self, call: Callable[[], object]) -> None:
        """Call it when the start is over, well or not; on whichever thread that is known."""
        self._starting.ended.then(call)

    async def begun(self, within_s: float) -> None:
        """Returns when the start is over, or takes longer. Raises what made it fail; a later failure is reported."""
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
        """By trigger, why its source cannot be read."""
        failed = [source for source in self._lab.status().sources if source.state == "failed"]
        return {name: source.error for source in failed for name in source.read_by}

    async def reads(self) -> None:
        """Returns when the sources are read, or being connected; or when they will not be."""
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
        self._awaited = True
        both = [asyncio.ensure_future(one.wait()) for one in (self._starting.ended, self._ended)]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not self._starting.is_over:
                self._starting.cancel()
                await self._starting.ended.wait()
            elif not self._starting.was_cancelled:  # else the Lab was stopped meanwhile
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
        """The Lab has stopped."""
        self._ended.tell()

    def _started(self) -> None:
        if (error := self._starting.error()) is not None and not self._awaited:
            self._lab.report("start", f"the triggers could not be started: {describe(error)}")

    def __repr__(self) -> str:
        failed = f"; not started: {', '.join(self.failed)}" if self.failed else ""
        return f"Handle({self._lab.status()!r}{failed})"


async def _safely(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Raises what `work` does, without the credentials that a store's or a source's library tells."""
    failure: BaseException
    try:
        return await work()
    except Exception as error:  # noqa: BLE001
        failure = error
    raise without_credentials(failure)  # outside of the clause, so that it has no context
