"""Isolates context variables: values set by user code while deciding reach no run and no later batch."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, copy_context
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

from sagaz_lab.model.step import current_step
from sagaz_lab.model.stopping import UserCode

P = ParamSpec("P")
T = TypeVar("T")


class Caller(NamedTuple):
    """Contexts of the caller that fired an event: the event is decided in one, its run executes in the other."""

    decides: Context
    origin: Context


def origin() -> Context:
    """A copy of this context for runs, which do not belong to the action that may have fired their events."""
    return origin_of(copy_context())


def origin_of(context: Context) -> Context:
    """The same of another context."""
    context = context.copy()
    if context.get(current_step) is not None:
        context.run(current_step.set, None)
    return context


def in_own_context(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Awaitable[T]]:
    """Run each call in a copy of its caller's context, without a task.

    A call decides a batch: a copy per event would cost more than most decisions.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Awaitable[T]:
        return driven(function(*args, **kwargs), copy_context())

    return call


@types.coroutine
def driven(work: Coroutine[Any, Any, T], context: Context) -> Generator[Any, Any, T]:
    """Await it in that context, without a task."""
    run, code = context.run, UserCode()
    try:
        awaited = run(work.send, None)
        while True:
            requests = code.requests
            try:
                given = yield awaited
            except BaseException as error:  # noqa: BLE001  # passed to the function, cancellation too
                code.waited(requests)
                awaited = run(work.throw, error)
            else:
                code.waited(requests)
                awaited = run(work.send, given)
    except StopIteration as returned:
        value: T = returned.value
        if code.pending:
            yield from code.withdraw().__await__()
        return value
