"""The lease as the runtime sees it: nothing new begins unless it is held, and what happens once it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sagaz_lab.abc import LeasedStore
from sagaz_lab.errors import LeaseLost, StoreUnavailable

LOOK_S = 0.5
"""How often the time since the last renewal is looked at. A process that was stopped looks before its tasks go on."""

AGAIN_S = 0.5
"""How long to wait before a store that does not answer is asked again."""


class Lease:
    """Of one opening of a Lab. `lost` is the error once another process has taken over, for good."""

    def __init__(self, store: LeasedStore) -> None:
        self._store = store
        self._timer: asyncio.TimerHandle | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.held = store.lease_held
        self.lost: LeaseLost | None = None
        self.on_lost: Callable[[LeaseLost], None] = _nobody
        """Called once; the Service puts here what stops all."""

    def lose(self, error: LeaseLost) -> None:
        """Another process has taken over: who finds out first stops everything."""
        if self.lost is None:
            self.lost = error
            self.close()
            self.on_lost(error)

    async def seen(self) -> None:
        """Returns once the lease is seen to be held. Raises `LeaseLost`, `StoreUnavailable`."""
        while not self.held():
            if self.lost is not None:
                raise self.lost
            if self._renewing is None or self._renewing.done():
                self._renewing = asyncio.get_running_loop().create_task(self._renew(), name="renew lease")
                self._renewing.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(self._renewing)

    async def insist(self) -> None:
        """The same, but a store that does not answer is asked until it does. Raises `LeaseLost`."""
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
            if not self.held():  # else it is renewed, and what has outlived its time cannot be dropped
                raise

    def watch(self) -> None:
        """Find out as soon as the process goes on after a stop, before its actions do."""
        if not self.held() and self._store.lease_lost():
            self.lose(LeaseLost("another process has taken over the triggers and runs of this one, which stood still; "
                                "stop this Lab and start it anew"))  # fmt: skip
            return
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self.watch)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _nobody(error: LeaseLost) -> None:
    """There is no Service."""
