"""What a user's method can be called with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def positional(method: Callable[..., Any]) -> list[str]:
    """The names of its positional parameters, `self` first."""
    parameters = inspect.signature(method).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes(method: Callable[..., Any], count: int) -> bool:
    """Whether it can be called with so many positional arguments, `self` among them."""
    try:
        inspect.signature(method).bind(*(None,) * count)
    except TypeError:
        return False
    return True
