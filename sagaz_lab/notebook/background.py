"""Background code and the page: `input()` is refused, an action's displays go to its run."""

from __future__ import annotations

import builtins
import getpass
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial, wraps
from types import FrameType
from typing import Any

from IPython.core import display_functions
from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import Permanent
from sagaz_lab.model.step import current_step
from sagaz_lab.notebook.outputs import in_background

Undo = Callable[[], object]


def refuse_input(shell: InteractiveShell) -> Undo:
    """Make `input()` and `getpass()` an error in an action, a trigger method or a listener.

    They would block the page and the kernel's loop.
    """
    kernel = getattr(shell, "kernel", None)  # it installs its own functions while a cell runs
    places = [(builtins, "input"), (getpass, "getpass")]
    if kernel is not None:
        places += [(kernel, "raw_input"), (kernel, "getpass")]
    return replaced(*((place, name, _refusing(getattr(place, name), name)) for place, name in places))


def _refusing(ask: Callable[..., Any], name: str) -> Callable[..., Any]:
    shown = "input" if name == "raw_input" else name

    @wraps(ask)
    def call(*args: Any, **options: Any) -> Any:
        step = current_step.get(None)
        who = _called_by_us(sys._getframe(1)) if step is None else f"action {step.name!r}"
        if who is not None:
            raise Permanent(
                f"{who} calls {shown}(), but there may be no one to answer; pass the value to the run "
                "in its context or as a param of the trigger"
            )
        return ask(*args, **options)

    return call


_CALLING = ("sagaz_lab.runtime", "sagaz_lab.model.listener")
_BETWEEN = frozenset({"sagaz_lab.model.awaiting", "sagaz_lab.model.stopping"})
"""Await the results of user code."""
_FOR_A_CELL = "sagaz_lab.runtime.triggers.dead_letters"
"""Calls the `fix` of `lab.redrive`, which runs in the foreground."""


def _called_by_us(frame: FrameType | None) -> str | None:
    """The name of the trigger method or listener that is being called on the loop, if any."""
    who = ""
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module in _BETWEEN:
            frame = frame.f_back
            continue
        if module.startswith("sagaz_lab."):
            return who if module.startswith(_CALLING) and module != _FOR_A_CELL else None
        who, frame = frame.f_code.co_qualname, frame.f_back
    return None


def route_displays(shell: InteractiveShell) -> Undo:
    """Keep the displays of background runs with the run and its card instead of the current cell."""
    publisher = shell.display_pub
    return replaced(
        (publisher, "publish", partial(_publish, publisher.publish)),
        (publisher, "clear_output", partial(_clear, publisher.clear_output)),
        # `%%capture` replaces the publisher while it runs.
        (display_functions, "publish_display_data", partial(_publish, display_functions.publish_display_data)),
    )


def _publish(publish: Callable[..., Any], data: Mapping[str, Any], *args: Any, **options: Any) -> Any:
    step = in_background()
    if step is None:
        return publish(data, *args, **options)
    id = (options.get("transient") or {}).get("display_id") or ""
    step.run.log.display(step.name, {kind: _plain(part) for kind, part in data.items()}, str(id))
    return None


def _clear(clear: Callable[..., Any], *args: Any, **options: Any) -> Any:
    step = in_background()
    if step is None:
        return clear(*args, **options)
    step.run.log.displays.clear()
    return None


def _plain(part: Any) -> Any:
    return b64encode(part).decode() if isinstance(part, bytes) else part


def replaced(*places: tuple[Any, str, Any]) -> Undo:
    """Set the values. Returns a function that restores those not changed since."""
    before = [(place, name, value, vars(place).get(name)) for place, name, value in places]
    for place, name, value in places:
        setattr(place, name, value)

    def undo() -> None:
        for place, name, value, old in before:
            if vars(place).get(name) is value:
                delattr(place, name) if old is None else setattr(place, name, old)

    return undo
