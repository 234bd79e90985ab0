"""The signatures of user methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def positional(method: Callable[..., Any]) -> list[str]:
    """Names of the positional parameters, `self` first."""
    parameters = inspect.signature(method).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def accepts(method: Callable[..., Any], count: int) -> bool:
    """Whether it accepts `count` positional arguments, including `self`."""
    try:
        inspect.signature(method).bind(*(None,) * count)
    except TypeError:
        return False
    return True
