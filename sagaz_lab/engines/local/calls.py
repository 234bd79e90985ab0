"""Calls user functions on the loop or in a worker thread, with time-out and cancellation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from typing import Any

from msgspec import Struct

from sagaz_lab.engines.local.context_before import ContextBefore
from sagaz_lab.engines.local.streams import Channel, read
from sagaz_lab.engines.local.threads import Call, Threads
from sagaz_lab.errors import ActionTimeout, RunError
from sagaz_lab.model.awaiting import awaited, is_awaitable
from sagaz_lab.model.run import Publication, Run
from sagaz_lab.model.step import ActionProgress, current_step

STUCK_S = 2.0
"""A thread that has not returned this long after it was stopped is replaced and reported."""

PUBLICATIONS = 1000
"""Maximum publications per action: they share a transaction with its success."""


class ActiveStep(Struct, eq=False):
    """A running action or compensation.

    `publications` are those of the current trial: None before the first; an empty tuple once the trial has ended and
    can publish no more. `call` is in a thread or waits for one. `suffix` tells compensations from the action itself.
    """

    run: Run
    name: str
    trial: int = 1
    suffix: str = ""
    cancelled: bool = False
    stop_requested: bool = False
    progress: ActionProgress | None = None
    stopping_since: float | None = None
    channels: Mapping[str, Channel] | None = None
    reading: Set[str] = frozenset()
    publications: Sequence[Publication] | None = None
    call: Call | None = None

    @property
    def waiting_since(self) -> float | None:
        call = self.call
        return call.asked_at if call is not None and call.waits and call.begun_at is None else None

    before: ContextBefore | None = None

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
            raise RunError(f"{self.name!r} cannot publish: only a running action or compensation can")
        if len(before) >= PUBLICATIONS:
            raise RunError(f"{self.name!r} publishes more than {PUBLICATIONS} times; merge facts into one payload")
        # Numbered within the trial, so that the ids are the same when it is repeated after a crash.
        id = f"{self.idempotency_key}/{len(before) + 1}"
        run.publishes = True
        before.append(Publication(id, topic, payload, run.trigger, run.run_id))

    def end_trial(self) -> Sequence[Publication]:
        """End publishing; returns the trial's publications."""
        publications, self.publications = self.publications, ()
        return publications or ()

    def stop(self) -> None:
        self.cancelled = self.stop_requested = True


async def invoke(
    how: str, function: Callable[..., Any], args: tuple[Any, ...], step: ActiveStep, timeout_s: float | None,
    threads: Threads,
) -> Any:  # fmt: skip
    """Call it. Raises `ActionTimeout`, after the thread has returned, since it cannot be killed."""
    token = current_step.set(step)
    try:
        if how == "thread":
            label = f"{step.run.definition.name}.{step.name}"
            call = step.call = threads.call(function, args, label)
            value = await _in_thread(call, step, timeout_s, threads)
            if not is_awaitable(value):
                return value
            work = awaited(value)
            left_s = None if timeout_s is None else (call.begun_at or 0.0) + timeout_s - time.monotonic()
        else:
            work, left_s = _called(function, args), timeout_s
        return await (work if timeout_s is None else _on_loop(work, step, timeout_s, left_s))
    finally:
        if not step.run.gone:  # else its loop is closed and the context is arbitrary
            current_step.reset(token)


async def _called(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    value = await function(*args)
    return await awaited(value) if is_awaitable(value) else value


async def _on_loop(coroutine: Any, step: ActiveStep, timeout_s: float, left_s: float | None) -> Any:
    """Await it. `left_s` is the remaining time."""
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
    if limit.expired():  # it swallowed the cancellation and returned
        raise ActionTimeout(step.name, timeout_s)
    return value


async def _in_thread(call: Call, step: ActiveStep, timeout_s: float | None, threads: Threads) -> Any:
    try:
        if timeout_s is None:
            await asyncio.wait([call.future])
        elif not await _in_time(call, timeout_s):
            step.cancelled = True
            await _returned(call, step, threads, stop_requested=False)
            raise ActionTimeout(step.name, timeout_s)
        return call.future.result()
    except asyncio.CancelledError:
        begun = not threads.withdraw(call)
        if begun and step.stop_requested:
            await _returned(call, step, threads, stop_requested=True)
        elif begun:
            call.future.add_done_callback(_noted)
        raise
    finally:
        step.call = None


async def _in_time(call: Call, timeout_s: float) -> bool:
    """Whether the function returned in time, not counting the wait for a thread."""
    left_s = timeout_s
    while left_s > 0:
        await asyncio.wait([call.future], timeout=left_s)
        if call.future.done():
            return True
        left_s = timeout_s if call.begun_at is None else call.begun_at + timeout_s - time.monotonic()
    return False


async def _returned(call: Call, step: ActiveStep, threads: Threads, *, stop_requested: bool) -> None:
    """Wait until the thread has returned. The first stop keeps waiting; another cancellation abandons it."""
    step.stopping_since = time.monotonic()
    stopped: asyncio.CancelledError | None = None
    while not call.future.done():
        try:
            await asyncio.wait([call.future], timeout=None if call.lost else STUCK_S)
            if not call.future.done():
                threads.replace(call)
        except asyncio.CancelledError as error:
            if stop_requested or not step.stop_requested:
                raise
            stop_requested, stopped = True, error
    step.stopping_since = None
    _noted(call.future)
    if stopped is not None:
        raise stopped


def _noted(future: asyncio.Future[Any]) -> None:
    """Retrieve the result of a call past its time, so that asyncio does not warn."""
    if not future.cancelled():
        future.exception()
