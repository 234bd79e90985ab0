"""The heartbeat of an open Lab: renews its lease, and stores what can wait until then."""

from __future__ import annotations

import asyncio

from sagaz_lab.abc import Store
from sagaz_lab.errors import LeaseLost, StoreError, StoreUnavailable, describe
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.relay import Relay
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.triggers.stored_params import ParamsInStore
from sagaz_lab.runtime.triggers.triggers import Triggers

HEARTBEAT_S = 5.0
"""A third of the lease: two may fail before another process takes over."""

BREATH_S = 0.02
"""Between two transactions that drop what has outlived its retention."""


class Heartbeat:
    """A part that fails is reported and stops none of the others, unless the store is away."""

    def __init__(
        self, store: Store, life: Lifetime, triggers: Triggers, params: ParamsInStore, runner: Runner, relay: Relay
    ) -> None:
        self._store = store
        self._life = life
        self._triggers = triggers
        self._params = params
        self._runner = runner
        self._relay = relay

    async def beat(self) -> None:
        """Returns once the lease is lost."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            for part in (self._drop_expired, self._triggers.keep_counts, self._params.follow):
                try:
                    await part()
                except LeaseLost as error:
                    self._life.lease.lose(error)
                    return
                except StoreError as error:
                    self._life.report("store", f"the store: {describe(error)}")
                    if isinstance(error, StoreUnavailable):
                        break  # for the other parts too
            self._runner.keep_logs()
            self._relay.look_again()  # whatever has come into the store without its knowledge

    async def _drop_expired(self) -> None:
        """Renew the lease and drop expired rows, in short transactions with room for others between them."""
        clock = self._life.clock
        until = clock.monotonic() + HEARTBEAT_S
        more = await self._store.heartbeat()
        while more and clock.monotonic() < until:
            await asyncio.sleep(BREATH_S)
            more = await self._store.heartbeat()
