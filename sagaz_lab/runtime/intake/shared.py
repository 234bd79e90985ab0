"""Resources that several sources share, such as one HTTP server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

from sagaz_lab.runtime.lifetime.tasks import Tasks

T = TypeVar("T")


class _Thing:
    def __init__(self) -> None:
        self.users = 0
        self.unused = asyncio.Event()
        self.closed = asyncio.Event()
        self.ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.ready.add_done_callback(lambda done: done.cancelled() or done.exception())


class SharedThings:
    """Resources by key. Each is entered for its first user and exited after the last, in a task of its own.

    A user that arrives during the exit waits for it: a port, for example, is free only then.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._things: dict[Hashable, _Thing] = {}

    @asynccontextmanager
    async def __call__(self, key: Hashable, make: Callable[[], AbstractAsyncContextManager[T]]) -> AsyncIterator[T]:
        while (thing := self._things.get(key)) is not None and thing.unused.is_set():
            await thing.closed.wait()
        if thing is None:
            thing = self._things[key] = _Thing()
            self._tasks.start(self._keep(key, make, thing), f"{key}, which sources share", self._tasks.home)
        thing.users += 1
        try:
            yield await asyncio.shield(thing.ready)
        finally:
            thing.users -= 1
            if not thing.users:
                thing.unused.set()
                await thing.closed.wait()

    async def _keep(self, key: Hashable, make: Callable[[], AbstractAsyncContextManager[T]], thing: _Thing) -> None:
        try:
            async with make() as value:
                thing.ready.set_result(value)
                await thing.unused.wait()
        except Exception as error:
            if thing.ready.done():
                raise
            thing.ready.set_exception(error)
        finally:
            thing.unused.set()
            thing.ready.cancel()
            del self._things[key]
            thing.closed.set()
