"""Bounded streams between the actions of a run: each reader sees every record; a slow one slows the producer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from sagaz_lab.errors import RunError, StreamBroken, describe
from sagaz_lab.model.apart import apart
from sagaz_lab.model.run import Run

if TYPE_CHECKING:
    from sagaz_lab.engines.local.calls import ActiveStep

BUFFER = 100
"""Maximum records between a producer and its slowest reader."""


class Channel:
    """One producer and its fixed readers, each with its dependencies.

    A reader that depends on another reader starts only after that one has finished, so it would block the stream
    forever. It is dropped when its buffer is full, and gets an error if it then reads.
    """

    def __init__(self, producer: str, readers: Mapping[str, Set[str]]) -> None:
        self.producer = producer
        self._needs = readers
        self._reading: set[str] = set()
        self._buffers: dict[str, deque[Any]] = {reader: deque() for reader in readers}
        self._changed = asyncio.Condition()
        self._closed = False
        self._error: BaseException | None = None

    async def publish(self, record: Any) -> None:
        """Waits while a reader's buffer is full."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            for buffer in self._buffers.values():
                buffer.append(apart(record))
            self._changed.notify_all()

    def _has_room(self) -> bool:
        full = [reader for reader, buffer in self._buffers.items() if len(buffer) >= BUFFER]
        for reader in [reader for reader in full if not self._reading.isdisjoint(self._needs[reader])]:
            full.remove(reader)
            del self._buffers[reader]
        return not full

    async def close(self, error: BaseException | None = None) -> None:
        async with self._changed:
            self._closed, self._error = True, error
            self._changed.notify_all()

    async def leave(self, reader: str) -> None:
        """The reader is done; the producer no longer waits for it."""
        async with self._changed:
            self._buffers.pop(reader, None)
            self._changed.notify_all()

    async def take(self, reader: str) -> Any:
        """The next record. Raises `StopAsyncIteration` at the end and `StreamBroken` if the producer failed."""
        buffer = self._buffers.get(reader)
        if buffer is None:
            raise RunError(
                f"{reader!r} cannot read the stream of {self.producer!r}: it depends on an action that reads it, and "
                f"more than {BUFFER} records have passed before it could start"
            )
        self._reading.add(reader)
        async with self._changed:
            await self._changed.wait_for(lambda: buffer or self._closed)
            if buffer:
                record = buffer.popleft()
                self._changed.notify_all()
                return record
        if self._error is not None:
            raise StreamBroken(f"the stream of {self.producer!r} broke: {describe(self._error)}") from self._error
        raise StopAsyncIteration


async def read(step: ActiveStep, name: str, run: Run) -> AsyncIterator[Any]:
    """Implements `ctx.stream(name)`: an action's records, or an iterable in the context."""
    if name in run.definition.actions:
        channel = (step.channels or {}).get(name)
        if channel is None:
            raise RunError(
                f"{step.name!r} reads the stream of {name!r}, which must be an async generator and in its depends_on"
            )
        if name in step.reading:
            raise RunError(f"{step.name!r} reads the stream of {name!r} a second time; a stream cannot be rewound")
        step.reading |= {name}
        try:
            while True:
                try:
                    record = await channel.take(step.name)
                except StopAsyncIteration:
                    return
                yield record
        finally:
            await channel.leave(step.name)
    elif name not in run.ctx:
        raise RunError(f"{step.name!r}: ctx.stream({name!r}) names no action and no key of the context")
    elif isinstance(source := run.ctx[name], AsyncIterable):
        async for record in source:
            yield record
    else:
        for record in _records(source):
            yield record


def _records(source: Any) -> Iterator[Any]:
    """The items of an iterable; for a table its rows as mappings, although iterating it yields columns.

    Tables (pandas, Arrow, polars) are recognised by their methods, without importing their libraries.
    """
    if callable(getattr(source, "itertuples", None)) and hasattr(source, "columns"):
        names = list(source.columns)
        return (dict(zip(names, row, strict=True)) for row in source.itertuples(index=False, name=None))
    if callable(getattr(source, "to_pylist", None)) and callable(getattr(source, "to_batches", None)):
        return (row for batch in source.to_batches() for row in batch.to_pylist())
    if callable(getattr(source, "iter_rows", None)):
        rows: Iterator[Any] = source.iter_rows(named=True)
        return rows
    return iter(source)
