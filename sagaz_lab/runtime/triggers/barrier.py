"""Sagas that stand still: their new revision has no number for good yet, or runs of theirs are not back yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection


class Barrier:
    """Nothing is decided or begun by the sagas for which it is raised; several may hold one saga."""

    def __init__(self) -> None:
        self.raised: dict[str, list[asyncio.Future[None]]] = {}
        self.on_lifted: Callable[[Collection[str]], None] = _nobody
        """Called with sagas that were held up and may go on; the run queue's."""

    def raise_for(self, sagas: Collection[str]) -> asyncio.Future[None]:
        """From now on `lifted` waits until the future is done. To be passed to `lift`, whatever happens."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for saga in sagas:
            self.raised.setdefault(saga, []).append(future)
        return future

    def lift(self, future: asyncio.Future[None]) -> None:
        """Idempotent."""
        held_up = [saga for saga, futures in self.raised.items() if future in futures]
        for saga in held_up:
            self.raised[saga].remove(future)
            if not self.raised[saga]:
                del self.raised[saga]
        if not future.done():
            future.set_result(None)
            self.on_lifted([saga for saga in held_up if saga not in self.raised])

    async def lifted(self, sagas: Collection[str]) -> None:
        """Returns when each of these may go on, or the Lab closes."""
        for saga in sagas:
            while futures := self.raised.get(saga):
                await asyncio.wait(futures[:1])


def _nobody(sagas: Collection[str]) -> None:
    """Nothing is dispatched yet."""
