"""The current Lab: the activated one, else a default created on first use."""

from __future__ import annotations

from functools import cache
from typing import Any

from sagaz_lab.abc import current_host
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import Outcome


def default_lab() -> Lab:
    """The current Lab, as used by the module-level functions and the magics."""
    current = current_host.get(None)
    return current if isinstance(current, Lab) else _made_once()


@cache
def _made_once() -> Lab:
    return Lab()


async def start_triggers(skip_failed: bool = False) -> Handle:
    """Start all triggers of the current Lab; returns the handle once every source is connected.

    If a source fails to connect, raises its error and starts nothing. With `skip_failed` the others are started and
    `handle.failed` maps the failed triggers to reasons.
    """
    return await default_lab().start(skip_failed=skip_failed)


async def fire_event(
    target: str, payload: Any = None, id: str | None = None, wait: bool = True, **where: Any
) -> list[Outcome]:
    """`fire` of the current Lab."""
    return await default_lab().fire(target, payload, id=id, wait=wait, **where)
