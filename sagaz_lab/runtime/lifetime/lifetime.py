"""The state that all parts of an open Lab share."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

from sagaz_lab.abc import Clock, DecisionStore
from sagaz_lab.errors import LabClosed, StoreUnavailable, describe
from sagaz_lab.runtime.gates.moments import Moments
from sagaz_lab.runtime.lifetime.finishing import NOT_TAKEN, Finishing
from sagaz_lab.runtime.lifetime.lease import Lease
from sagaz_lab.runtime.lifetime.tasks import Report, Tasks
from sagaz_lab.runtime.lifetime.timers import Timers

STORE_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before retrying a store that does not answer; the last one repeats."""


class Lifetime:
    """An open Lab's store, clock, tasks, timers, lease and run ids, and whether it is closing."""

    def __init__(self, store: DecisionStore, clock: Clock, report: Report) -> None:
        self.store = store
        self.clock = Moments.of(clock)
        self.report = report
        self.tasks = Tasks(report)
        self.timers = Timers(self.clock, self.tasks, report)
        self.lease = Lease(store)
        self.finishing = Finishing(store.traits.awaited, report)
        self.run_prefix = _fresh_prefix("r")
        self.run_ids = _fresh_ids(self.run_prefix)
        self.event_ids = _fresh_ids(_fresh_prefix("e"))
        self.closing = False
        self.published: Callable[[], None] = _nobody
        """Wakes the relay; called when the store has something to publish."""

    def refuse_closing(self) -> None:
        """Raises `LabClosed` once the Lab takes no more events."""
        if self.closing:
            raise LabClosed(NOT_TAKEN)

    async def insist(self, write: Callable[[], Awaitable[object]], what: str) -> None:
        """Retry a write until the store answers; `what` names the waiting work in the report.

        Raises `StoreUnavailable` once the Lab closes.
        """
        for tries in count():
            try:
                await write()
            except StoreUnavailable as error:
                if self.closing:
                    raise
                await self.pause(error, what, tries)
            else:
                return

    async def pause(self, error: StoreUnavailable, what: str, tries: int) -> None:
        """Report that `what` waits for the store, and pause according to the number of tries so far."""
        self.report("store", f"{what} waits for the store: {describe(error)}")
        await self.clock.sleep(STORE_RETRY_S[min(tries, len(STORE_RETRY_S) - 1)])

    async def take_no_more(self) -> None:
        """Returns when the events being accepted are stored, counted and started."""
        self.closing = True
        await self.finishing.close()


def _fresh_prefix(kind: str) -> str:
    return f"{kind}-{os.urandom(4).hex()}-"


def _fresh_ids(prefix: str) -> Iterator[str]:
    """Short ids, ordered within a process and unique across processes."""
    return map(prefix.__add__, map(str, count(1)))


def _nobody() -> None:
    """Without a relay."""
