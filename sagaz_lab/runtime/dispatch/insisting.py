"""What follows from a write that has been made must be written too, however long the store is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import TYPE_CHECKING

from sagaz_lab.errors import StoreUnavailable, describe
from sagaz_lab.runtime.runs.attempt import STORE_RETRY_S

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher


async def insist(dispatcher: Dispatcher, write: Callable[[], Awaitable[object]], what: str) -> None:
    """Write until the store answers; `what` waits for it is reported. Raises `StoreUnavailable` once the Lab closes."""
    for delay_s in chain(STORE_RETRY_S, repeat(STORE_RETRY_S[-1])):
        try:
            await write()
        except StoreUnavailable as error:
            if dispatcher.closing:
                raise
            dispatcher.report("store", f"{what} waits for the store: {describe(error)}")
            await dispatcher.clock.sleep(delay_s)
        else:
            return
