"""Awaits values that may be awaitable: a coroutine runs only if it is awaited."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isasyncgen, isawaitable, isgenerator
from typing import Any

BARE_YIELDS = 100
"""How often an awaitable may yield, as `asyncio.sleep(0)` does, when it must finish without waiting."""

_NEVER = frozenset({dict, list, tuple, str, bytes, int, float, bool, type(None)})


def is_awaitable(value: Any) -> bool:
    """`inspect.isawaitable`, but fast for plain data."""
    return type(value) not in _NEVER and isawaitable(value)


async def awaited(value: Any) -> Any:
    """The value, awaited until the result is no longer awaitable."""
    while is_awaitable(value):
        value = await value
    return value


async def waited(wait: Awaitable[None] | None) -> None:
    """Wait for the journal, if there is anything to wait for."""
    if wait is not None:
        await wait


def at_once(value: Any, owner: str) -> Any:
    """`awaited` without waiting. Raises `TypeError` naming `owner` if the value is not ready."""
    if not is_awaitable(value):
        return value
    steps = awaited(value)
    try:
        for _ in range(BARE_YIELDS):
            if steps.send(None) is not None:
                break
    except StopIteration as end:
        return end.value
    steps.close()
    raise TypeError(f"{owner} returned an awaitable that waits for something; it must return its value at once")


def is_generator(value: Any) -> bool:
    """Whether it is a generator, whose body nothing will run."""
    return type(value) not in _NEVER and (isgenerator(value) or isasyncgen(value))
