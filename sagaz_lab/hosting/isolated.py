"""A Lab on its own thread and event loop, which keeps running while a cell blocks the kernel.

Loop-bound objects are touched on that thread only; calls from other threads are shipped there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial, wraps
from inspect import iscoroutinefunction, isfunction
from threading import RLock, Thread, current_thread
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")
C = TypeVar("C", bound=type)

THREAD = "sagaz-lab-isolated"
JOIN_S = 2.0
"""How long to wait for the thread's end. A thread that a function blocks ends with the process."""

logger = logging.getLogger("sagaz_lab")


class Once:
    """A one-time signal across threads: any thread sets it, any loop awaits it."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def set(self) -> None:
        with suppress(InvalidStateError):  # already set
            self._future.set_result(None)

    @property
    def happened(self) -> bool:
        return self._future.done()

    def then(self, call: Callable[[], object]) -> None:
        """Call it on the thread that sets this, or at once."""
        self._future.add_done_callback(lambda _: call())

    async def wait(self) -> None:
        here = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = here.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def wake_there() -> None:
            with suppress(RuntimeError):  # that loop is closed: no waiter is left
                here.call_soon_threadsafe(wake)

        self.then(wake_there)
        await waiter


class Shipped(Generic[T]):
    """A coroutine that runs as a task of `loop`, in the caller's context.

    Await it on any loop; cancelling the waiter does not cancel the task.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], name: str | None = None) -> None:
        self.ended = Once()
        self._loop = loop
        self._task: asyncio.Task[T] | None = None

        def begin() -> None:
            self._follow(loop.create_task(work, name=name))

        if loop is loop_here():
            begin()
        else:
            loop.call_soon_threadsafe(begin)  # runs it in a copy of this context

    @classmethod
    def of(cls, task: asyncio.Task[T]) -> Self:
        """Wrap a task of the running loop."""
        shipped = cls.__new__(cls)
        shipped.ended, shipped._loop = Once(), task.get_loop()
        shipped._follow(task)
        return shipped

    def _follow(self, task: asyncio.Task[T]) -> None:
        self._task = task
        task.add_done_callback(lambda _: self.ended.set())

    def cancel(self) -> None:
        with suppress(RuntimeError):  # closed loop: the task has ended
            self._loop.call_soon_threadsafe(lambda: self._task is None or self._task.cancel())

    def result(self) -> T:
        """Only once it has ended."""
        assert self._task is not None
        return self._task.result()

    def error(self) -> BaseException | None:
        """The error it failed with; cancellation is no failure."""
        assert self._task is not None
        return None if self._task.cancelled() else self._task.exception()

    @property
    def was_cancelled(self) -> bool:
        return self._task is not None and self._task.cancelled()

    def __await__(self) -> Generator[Any, None, T]:
        yield from self.ended.wait().__await__()
        return self.result()

    @property
    def is_over(self) -> bool:
        return self.ended.happened or self._loop.is_closed()

    async def run_to_end(self) -> T:
        """Await it; a first cancellation cancels it and waits for its end, a second one abandons it."""
        asked = False
        while not self.ended.happened:
            try:
                await self.ended.wait()
            except asyncio.CancelledError:
                self.cancel()
                if asked:
                    raise
                asked = True
        return self.result()


class Isolated:
    """A thread and its loop. While `loop` is None, calls run on the caller's loop."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._lock = RLock()

    @property
    def is_here(self) -> bool:
        """Whether calls can run on the caller's thread."""
        return self.loop is None or current_thread() is self._thread

    def begin(self) -> None:
        loop = asyncio.new_event_loop()
        self._thread = Thread(target=_live, args=(loop,), name=THREAD, daemon=True)
        self._thread.start()
        self.loop = loop

    def ship(self, work: Callable[[], Coroutine[Any, Any, T]], name: str | None = None) -> Shipped[T]:
        """Start it on the isolated loop."""
        with self._lock:  # the loop does not end before the hand-over
            return Shipped(self.loop or asyncio.get_running_loop(), work(), name)

    async def await_there(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run the coroutine on the isolated loop; returns or raises its result."""
        if self.is_here:
            return await work()
        return await self.ship(work).run_to_end()

    def call_there(self, function: Callable[[], T]) -> T:
        """Call the function on the isolated thread; blocks for its result."""
        answer: Future[T] = Future()

        def call() -> None:
            try:
                answer.set_result(function())
            except BaseException as error:  # noqa: BLE001  # the caller's
                answer.set_exception(error)

        with self._lock:
            loop = None if self.is_here else self.loop
            if loop is not None:
                loop.call_soon_threadsafe(call)
        return function() if loop is None else answer.result()

    def end_after(self, work: Callable[[], Coroutine[Any, Any, None]]) -> Shipped[None]:
        """Accept no more calls, run this, then end the thread."""
        with self._lock:
            last, left = self.ship(work), self._let_go()
        last.ended.then(partial(_end, left))
        return last

    def end(self) -> None:
        """End the thread; its remaining tasks are cancelled."""
        with self._lock:
            left = self._let_go()
        _end(left)

    @property
    def wait_for_end(self) -> Callable[[], None]:
        """Returns a function that blocks until the current thread ends, up to `JOIN_S`."""
        return partial(_join, self._thread)

    def _let_go(self) -> asyncio.AbstractEventLoop | None:
        left, self.loop = self.loop, None
        return left


def _end(loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is not None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.stop)


def _join(thread: Thread | None) -> None:
    if thread is not None and thread is not current_thread():
        thread.join(JOIN_S)


def loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _live(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
            break
        except (SystemExit, KeyboardInterrupt):  # raised by a callback; the loop serves others too
            logger.exception("a callback of the isolated loop raised; the loop continues")
    try:
        loop.run_until_complete(_end_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _end_all() -> None:
    await asyncio.sleep(0)  # work shipped just before becomes a task
    for _ in range(3):
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=JOIN_S / 4)


# --- the Lab's methods ---


def on_its_loop(*, but: Collection[str], reads: Collection[str]) -> Callable[[C], C]:
    """Make every public method of a Lab callable from any thread by shipping it to the Lab's loop.

    Methods in `but` handle threads themselves. Methods in `reads` only read the store: they are shipped only if the
    store is bound to the Lab's thread, and never block the loop otherwise.
    """

    def changed(cls: C) -> C:
        for name, method in list(vars(cls).items()):
            if not name.startswith("_") and isfunction(method) and name not in but:
                ship = _awaited if iscoroutinefunction(method) else _reading if name in reads else _called
                setattr(cls, name, ship(method))
        return cls

    return changed


def _awaited(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def shipped(self: Any, *args: Any, **options: Any) -> Any:
        isolated: Isolated = self._loops.isolated
        if isolated.loop is None:
            return method(self, *args, **options)
        return isolated.await_there(partial(method, self, *args, **options))

    return shipped


def _called(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def shipped(self: Any, *args: Any, **options: Any) -> Any:
        isolated: Isolated = self._loops.isolated
        if isolated.loop is None:
            return method(self, *args, **options)
        return isolated.call_there(partial(_for_any_loop, method, self, *args, **options))

    return shipped


def _for_any_loop(method: Callable[..., Any], *args: Any, **options: Any) -> Any:
    value = method(*args, **options)
    return Shipped.of(value) if isinstance(value, asyncio.Task) else value


def _reading(method: Callable[..., Any]) -> Callable[..., Any]:
    there = _called(method)

    @wraps(method)
    def shipped(self: Any, *args: Any, **options: Any) -> Any:
        return (method if self.store.traits.any_thread else there)(self, *args, **options)

    return shipped
