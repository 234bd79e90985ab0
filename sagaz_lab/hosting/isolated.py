"""A Lab on an event loop of a thread of its own, so that it goes on while a cell blocks the kernel.

Whatever is bound to a loop is touched on that thread only; what other threads call is shipped there.
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
"""How long the end of the thread is waited for. One that a function blocks is left to end with the process."""

logger = logging.getLogger("sagaz_lab")


class Once:
    """Something that happens once. Any thread may tell that it has; any loop may wait for it."""

    def __init__(self) -> None:
        self._future: Future[None] = Future()

    def tell(self) -> None:
        with suppress(InvalidStateError):  # it has been told already
            self._future.set_result(None)

    @property
    def happened(self) -> bool:
        return self._future.done()

    def then(self, call: Callable[[], object]) -> None:
        """Call it on the thread that tells, or at once."""
        self._future.add_done_callback(lambda _: call())

    async def wait(self) -> None:
        here = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = here.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        def told() -> None:
            with suppress(RuntimeError):  # that loop is closed, so nobody waits there
                here.call_soon_threadsafe(wake)

        self.then(told)
        await waiter


class Shipped(Generic[T]):
    """A coroutine that runs as a task of `loop`, in the context of whoever makes this.

    Await it on any loop: who stops waiting stops nothing.
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
            loop.call_soon_threadsafe(begin)  # which runs it in a copy of this context

    @classmethod
    def of(cls, task: asyncio.Task[T]) -> Self:
        """A task that runs on this loop already."""
        shipped = cls.__new__(cls)
        shipped.ended, shipped._loop = Once(), task.get_loop()
        shipped._follow(task)
        return shipped

    def _follow(self, task: asyncio.Task[T]) -> None:
        self._task = task
        task.add_done_callback(lambda _: self.ended.tell())

    def cancel(self) -> None:
        """Ask it to end."""
        with suppress(RuntimeError):  # the loop is closed: it has ended
            self._loop.call_soon_threadsafe(lambda: self._task is None or self._task.cancel())

    def result(self) -> T:
        """Of one that has ended."""
        assert self._task is not None
        return self._task.result()

    def error(self) -> BaseException | None:
        """Why it failed, if it did: being cancelled is no failure."""
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

    async def to_its_end(self) -> T:
        """As if it ran in this task: cancelling this cancels it and waits for its end; once more, and it is left."""
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
    """A thread and its loop. `loop` is None while there is none: then everything is done where the caller is."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: Thread | None = None
        self._lock = RLock()

    @property
    def is_here(self) -> bool:
        """Whether the caller need not be shipped."""
        return self.loop is None or current_thread() is self._thread

    def begin(self) -> None:
        loop = asyncio.new_event_loop()
        self._thread = Thread(target=_live, args=(loop,), name=THREAD, daemon=True)
        self._thread.start()
        self.loop = loop

    def ship(self, work: Callable[[], Coroutine[Any, Any, T]], name: str | None = None) -> Shipped[T]:
        """Start it there."""
        with self._lock:  # until it is handed over, the loop does not end
            return Shipped(self.loop or asyncio.get_running_loop(), work(), name)

    async def await_there(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The value or error of the coroutine, which runs there."""
        if self.is_here:
            return await work()
        return await self.ship(work).to_its_end()

    def call_there(self, function: Callable[[], T]) -> T:
        """The value or error of the function, which is called there. Blocks meanwhile."""
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
        """Nothing more is shipped there; when this has run, the thread ends."""
        with self._lock:
            last, left = self.ship(work), self._let_go()
        last.ended.then(partial(_end, left))
        return last

    def end(self) -> None:
        """End the thread; what still runs there is cancelled."""
        with self._lock:
            left = self._let_go()
        _end(left)

    @property
    def wait_for_end(self) -> Callable[[], None]:
        """Blocks until the thread that there is now has ended, for `JOIN_S` at the most."""
        return partial(_join, self._thread)

    def _let_go(self) -> asyncio.AbstractEventLoop | None:
        left, self.loop = self.loop, None
        return left


def _end(loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is not None:
        with suppress(RuntimeError):  # it has ended
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
        except (SystemExit, KeyboardInterrupt):  # of a callback; the others' loop goes on
            logger.exception("the isolated loop goes on")
    try:
        loop.run_until_complete(_end_all())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _end_all() -> None:
    await asyncio.sleep(0)  # so that what was shipped just before is a task by now
    for _ in range(3):
        if tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=JOIN_S / 4)


# --- the Lab's methods ---


def on_its_loop(*, but: Collection[str], reads: Collection[str]) -> Callable[[C], C]:
    """Make every public method of a Lab work on any thread: it is shipped to where the Lab lives, if that is elsewhere.

    `but` are those that see to that themselves. `reads` only read the store: they need
    the Lab's loop where that is not for any thread, and do not hold it up.
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
