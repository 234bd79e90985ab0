"""New revisions whose numbers the store has not confirmed yet: another process may give them to other code."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable


class Confirming:
    """Sagas by which nothing is decided or begun meanwhile."""

    def __init__(self) -> None:
        self.pending: dict[str, asyncio.Future[None]] = {}

    def begin(self, sagas: Iterable[str]) -> asyncio.Future[None]:
        """From now on `confirmed` waits until the future is done. To be passed to `end`, whatever happens."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pending.update(dict.fromkeys(sagas, future))
        return future

    def end(self, future: asyncio.Future[None]) -> None:
        if not future.done():
            future.set_result(None)
            self.pending = {saga: it for saga, it in self.pending.items() if it is not future}

    async def confirmed(self, sagas: Iterable[str]) -> None:
        """Returns when the current revision of each has its number for good, or the Lab closes."""
        for saga in sagas:
            while (future := self.pending.get(saga)) is not None:
                await asyncio.wait([future])
