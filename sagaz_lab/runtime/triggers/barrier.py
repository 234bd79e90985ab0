"""Sagas that must not decide or start yet: their new revision has no final number, or their runs are not back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection


class Barrier:
    """Blocks the decisions and starts of sagas; a saga may be blocked several times at once."""

    def __init__(self) -> None:
        self.raised: dict[str, list[asyncio.Future[None]]] = {}
        self.on_lifted: Callable[[Collection[str]], None] = _nobody
        """Called with the sagas that are no longer blocked; set by the run queue."""

    def raise_for(self, sagas: Collection[str]) -> asyncio.Future[None]:
        """Block the sagas until the future is done; the caller must pass it to `lift`, also after an error."""
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
        """Returns when none of these is blocked, or the Lab closes."""
        for saga in sagas:
            while futures := self.raised.get(saga):
                await asyncio.wait(futures[:1])


def _nobody(sagas: Collection[str]) -> None:
    """Without a run queue."""
