"""The lease as the runtime sees it: nothing begins unless the lease is held, and losing it stops the Lab."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sagaz_lab.abc import LeasedStore
from sagaz_lab.errors import LeaseLost, StoreUnavailable

LOOK_S = 0.5
"""How often the age of the last renewal is checked. After a suspended process resumes, the check precedes its tasks."""

AGAIN_S = 0.5
"""Pause before retrying a store that does not answer."""


class Lease:
    """The lease of an open Lab. `lost` is the error once another process has taken over, which is final."""

    def __init__(self, store: LeasedStore) -> None:
        self._store = store
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.held = store.lease_held
        self.lost: LeaseLost | None = None
        self.on_lost: Callable[[LeaseLost], None] = _nobody
        """Called once; the Service sets it to stop everything."""

    def lose(self, error: LeaseLost) -> None:
        """Another process has taken over. The first call stops everything."""
        if self.lost is None:
            self.lost = error
            self.close()
            self.on_lost(error)

    async def seen(self) -> None:
        """Returns once the lease is known to be held. Raises `LeaseLost`, `StoreUnavailable`."""
        while not self.held():
            if self.lost is not None:
                raise self.lost
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.get_running_loop().create_task(self._renew(), name="renew lease")
                self._renewing.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(self._renewing)

    async def insist(self) -> None:
        """`seen`, retried while the store does not answer. Raises `LeaseLost`."""
        while True:
            try:
                return await self.seen()
            except StoreUnavailable:
                await asyncio.sleep(AGAIN_S)

    async def _renew(self) -> None:
        try:
            await self._store.heartbeat()
        except LeaseLost as error:
            self.lose(error)
            raise
        except StoreUnavailable:
            if not self.held():  # if held: renewed meanwhile, as a heartbeat that timed out is not cancelled
                raise

    def watch(self) -> None:
        """Check the lease before the actions of a process that resumes after a stop."""
        if not self.held() and self._store.lease_lost():
            self.lose(LeaseLost("another process has taken over the triggers and runs of this one, which stood still; "
                                "stop this Lab and start it again"))  # fmt: skip
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self.watch)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nobody(error: LeaseLost) -> None:
    """Without a Service."""
