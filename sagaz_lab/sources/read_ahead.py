"""A task that reads ahead of `receive`, so that cancelling `receive` loses nothing."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing

from sagaz_lab.abc import Delivery
from sagaz_lab.errors import LeaseLost, SourceError, SourceUnavailable, without_credentials
from sagaz_lab.sources.unsettled import pop_first
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)

CLOSE_S = 2.0


class ReadAhead:
    """Buffers up to two batches, of the last requested size, in `ready`. Starts with the first `want`.

    Only `stop` cancels a read, whose result must be readable again. A read error is raised by the next `want` that
    finds nothing ready. `arrived` is set when something is ready.
    """

    def __init__(self, name: str, arrived: asyncio.Event, secrets: Collection[str] = ()) -> None:
        self.ready: deque[Delivery] = deque()
        self.limit = 1
        self.failure: BaseException | None = None
        self._name, self._arrived, self._secrets = name, arrived, secrets
        self._wanted = asyncio.Event()
        self._stopping = False

    def start(self, batches: Callable[[], AsyncGenerator[Sequence[Delivery], None]]) -> None:
        self.failure, self._stopping = None, False
        self._wanted.clear()
        self._task = asyncio.create_task(self._run(batches), name=self._name)

    async def stop(self) -> None:
        self._stopping = True
        for _ in range(20):
            # Repeat: `wait_for` of Python 3.11, which a client may use, can swallow a cancellation.
            self._task.cancel()
            if (await asyncio.wait([self._task], timeout=CLOSE_S / 20))[0]:
                break
        self.ready.clear()

    def take(self) -> list[Delivery]:
        """Remove and return up to `limit` ready deliveries."""
        deliveries = pop_first(self.ready, self.limit)
        if len(self.ready) <= self.limit:
            self._wanted.set()
        return deliveries

    async def want(self) -> None:
        """Wait until `arrived` is set. Raises the error that ended reading."""
        if self.failure is not None:
            raise self.failure
        self._arrived.clear()
        self._wanted.set()
        await self._arrived.wait()

    async def _run(self, batches: Callable[[], AsyncGenerator[Sequence[Delivery], None]]) -> None:
        try:
            await self._wanted.wait()
            async with aclosing(batches()) as reading:
                async for batch in reading:
                    await self._put(batch)
        except (SourceError, LeaseLost) as error:
            self.failure = error
        except asyncio.CancelledError:
            if not self._stopping:  # raised by the client, or the task was cancelled from outside
                self.failure = SourceUnavailable(f"{self._name}: reading was cancelled from outside")
            raise
        except Exception as error:
            safe = without_credentials(error, self._secrets)
            logger.error("%s: reading failed", self._name, exc_info=safe)
            self.failure = SourceUnavailable(f"{self._name}: reading failed, see the log")
            self.failure.__cause__ = safe
        finally:
            self._arrived.set()

    async def _put(self, batch: Sequence[Delivery]) -> None:
        if not batch:
            return
        self.ready.extend(batch)
        self._arrived.set()
        if len(self.ready) > self.limit:
            self._wanted.clear()
            await self._wanted.wait()
