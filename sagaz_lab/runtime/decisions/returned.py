"""The result of a trigger method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sagaz_lab.model.apart import apart
from sagaz_lab.model.event import Event


def as_context(returned: Any, trigger: str) -> dict[str, Any]:
    """A trigger method's result as the context of a run. Raises `TypeError`, and errors of a mapping's own code."""
    if isinstance(returned, Event):
        returned, what = returned.payload, f"the event, whose payload is a {type(returned.payload).__name__}"
    else:
        what = f"a {type(returned).__name__}"
    if not isinstance(returned, Mapping):
        raise TypeError(f"{trigger} returned {what}; a trigger method returns a mapping, None or skip(...)")
    return apart(dict(returned))
