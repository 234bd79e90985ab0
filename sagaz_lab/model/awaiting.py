"""Awaiting what may be awaitable: a coroutine that nobody awaits never runs."""

from __future__ import annotations

from collections.abc import Awaitable
from inspect import isasyncgen, isawaitable, isgenerator
from typing import Any

BARE_YIELDS = 100
"""How often an awaitable may give way, as `asyncio.sleep(0)` does, where there is no time to wait for it."""

_NEVER = frozenset({dict, list, tuple, str, bytes, int, float, bool, type(None)})


def is_awaitable(value: Any) -> bool:
    """The same as `inspect.isawaitable`, quick for plain data."""
    return type(value) not in _NEVER and isawaitable(value)


async def awaited(value: Any) -> Any:
    """The value itself, or what comes of awaiting it as often as that can be done."""
    while is_awaitable(value):
        value = await value
    return value


async def waited(wait: Awaitable[None] | None) -> None:
    """Returns when what the journal was given is done."""
    if wait is not None:
        await wait


def at_once(value: Any, owner: str) -> Any:
    """The same without waiting. Raises `TypeError` naming `owner` if it would have to wait for something."""
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


def is_unread(value: Any) -> bool:
    """Whether it is a generator: its body has not run, and nobody will run it."""
    return type(value) not in _NEVER and (isgenerator(value) or isasyncgen(value))
