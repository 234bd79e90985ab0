"""Calling a user's function: on the loop or in a worker thread, with its time-out and its way to be stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import suppress
from contextvars import Context, copy_context
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from msgspec import Struct

from sagaz_lab.engines.streams import Channel, read
from sagaz_lab.errors import ActionTimeout, RunError
from sagaz_lab.model.awaiting import awaited, is_awaitable
from sagaz_lab.model.run import Publication, Run
from sagaz_lab.model.step import Progress, current_step

WORKERS = 64
"""Plain `def` actions at one time; more wait. Enough for those that wait for something, few enough for memory."""

PUBLICATIONS = 1000
"""Of one action: they go into one transaction with its success."""


class ActiveStep(Struct, eq=False):
    """An action or compensation that is running.

    `publications` is what the present trial has published: None as long as it has not, and empty when it has ended,
    after which it cannot. `suffix` tells what is not the action itself.
    """

    run: Run
    name: str
    trial: int = 1
    suffix: str = ""
    cancelled: bool = False
    told: bool = False
    progress: Progress | None = None
    stopping_since: float | None = None
    channels: Mapping[str, Channel] | None = None
    reading: Set[str] = frozenset()
    publications: Sequence[Publication] | None = None

    @property
    def idempotency_key(self) -> str:
        return f"{self.run.run_id}/{self.run.attempt}/{self.name}{self.suffix}"

    def stream(self, name: str) -> AsyncIterator[Any]:
        return read(self, name, self.run)

    def publish(self, topic: str, payload: bytes) -> None:
        run, before = self.run, self.publications
        if before is None:
            before = self.publications = []
        if not isinstance(before, list):
            raise RunError(f"{self.name!r} has ended, or may not publish: only a running action or compensation can")
        if len(before) >= PUBLICATIONS:
            raise RunError(f"{self.name!r} publishes more than {PUBLICATIONS}; put several facts into one payload")
        # Counted within the trial, so that the ids are the same when it is run again after a crash.
        id = f"{self.idempotency_key}/{len(before) + 1}"
        run.publishes = True
        before.append(Publication(id, topic, payload, run.trigger, run.run_id))

    def end_trial(self) -> Sequence[Publication]:
        """What it has published; from now on it cannot."""
        publications, self.publications = self.publications, ()
        return publications or ()

    def stop(self) -> None:
        self.cancelled = self.told = True


class _Call:
    __slots__ = ("args", "context", "function", "future", "loop")

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], context: Context) -> None:
        self.function = function
        self.args = args
        self.context = context
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def run(self) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = self.context.run(self.function, *self.args)
        except (StopIteration, GeneratorExit) as stop:  # these mean something else to whoever awaits the future
            error = RuntimeError(f"it raised {stop!r}")
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
            self.loop.call_soon_threadsafe(self._settle, value, error)

    def _settle(self, value: Any, error: BaseException | None) -> None:
        if not self.future.done():
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)


class Threads:
    """Worker threads that die with the process: an hour's training must not hold up its exit."""

    def __init__(self, limit: int = WORKERS) -> None:
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._limit = limit
        self._alive = 0
        self._idle = 0
        self._lock = Lock()

    def call(self, function: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        call = _Call(function, args, copy_context())
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._alive < self._limit:
                self._alive += 1
                Thread(target=self._work, name=f"sagaz-lab-{self._alive}", daemon=True).start()
        self._calls.put(call)
        return call.future

    def close(self) -> None:
        with self._lock:
            alive = self._alive
        for _ in range(alive):
            self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.run()
            with self._lock:
                self._idle += 1


async def invoke(
    how: str, function: Callable[..., Any], args: tuple[Any, ...], step: ActiveStep, timeout_s: float | None,
    threads: Threads,
) -> Any:  # fmt: skip
    """The function's value. Raises `ActionTimeout`; a thread is waited for, since it cannot be killed."""
    token = current_step.set(step)
    try:
        if how == "thread":
            begun = time.monotonic()
            value = await _in_thread(threads.call(function, *args), step, timeout_s)
            if not is_awaitable(value):
                return value
            work, left_s = awaited(value), None if timeout_s is None else begun + timeout_s - time.monotonic()
        else:
            work, left_s = _called(function, args), timeout_s
        return await (work if timeout_s is None else _on_loop(work, step, timeout_s, left_s))
    finally:
        if not step.run.gone:  # else it is thrown away, in any context
            current_step.reset(token)


async def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    value = await function(*args)
    return await awaited(value) if is_awaitable(value) else value


async def _on_loop(coroutine: Any, step: ActiveStep, timeout_s: float, left_s: float | None) -> Any:
    """Its value. `left_s` is what is left of its time."""
    limit = asyncio.timeout(left_s)
    try:
        async with limit:
            value = await coroutine
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if not limit.expired():
            raise
        raise ActionTimeout(step.name, timeout_s) from (None if type(error) is TimeoutError else error)
    if limit.expired():  # it swallowed its cancellation and returned
        raise ActionTimeout(step.name, timeout_s)
    return value


async def _in_thread(future: asyncio.Future[Any], step: ActiveStep, timeout_s: float | None) -> Any:
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await asyncio.shield(future)
    except TimeoutError:
        if not limit.expired():
            raise
        step.cancelled = True
        await _returned(future, step, told=False)
        raise ActionTimeout(step.name, timeout_s or 0.0) from None
    except asyncio.CancelledError:
        if step.told:
            await _returned(future, step, told=True)
        raise


async def _returned(future: asyncio.Future[Any], step: ActiveStep, *, told: bool) -> None:
    """Wait until the thread has returned. Being told to stop changes nothing; being cancelled once more abandons it."""
    step.stopping_since = time.monotonic()
    stopped: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            if told or not step.told:
                raise
            told, stopped = True, error
    step.stopping_since = None
    if not future.cancelled():
        future.exception()  # taken note of: its time was over
    if stopped is not None:
        raise stopped
