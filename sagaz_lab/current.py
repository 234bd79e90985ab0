"""The current Lab: the activated one, else one that is made when it is first asked for."""

from __future__ import annotations

from functools import cache
from typing import Any

from sagaz_lab.abc import current_host
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.lab import Lab
from sagaz_lab.model.run import Outcome


def default_lab() -> Lab:
    """The Lab that the module-level functions and the magics use."""
    current = current_host.get(None)
    return current if isinstance(current, Lab) else _made_once()


@cache
def _made_once() -> Lab:
    return Lab()


async def start_triggers(skip_failed: bool = False) -> Handle:
    """Start all that the current Lab has registered; returns the handle once every source is connected.

    If a source cannot be connected, its error is raised and nothing is started. With `skip_failed` the others are
    started, and `handle.failed` has the triggers that are not, each with the reason.
    """
    return await default_lab().start(skip_failed=skip_failed)


async def fire_event(
    target: str, payload: Any = None, id: str | None = None, wait: bool = True, **where: Any
) -> list[Outcome]:
    """`fire` of the current Lab."""
    return await default_lab().fire(target, payload, id=id, wait=wait, **where)
