"""Loads the extension into the shell and unloads it."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from IPython.utils.dir2 import get_real_method

import sagaz_lab
from sagaz_lab.current import default_lab
from sagaz_lab.errors import SagazLabError, SourceNotReady
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.hosting.shadows import ShadowReport, Shadows
from sagaz_lab.lab import Lab
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Outcome
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.notebook.background import refuse_input, route_displays
from sagaz_lab.notebook.cards import (
    away_card,
    handle_card,
    outcome_card,
    preview_card,
    saga_card,
    status_card,
    why_card,
)
from sagaz_lab.notebook.cells import announce_saga, ask_for_help, await_commands
from sagaz_lab.notebook.completion import Matcher
from sagaz_lab.notebook.figures import Figures
from sagaz_lab.notebook.inspectors import (
    class_card,
    diff_card,
    event_card,
    lab_card,
    mapping_card,
    run_card,
    sagas_card,
)
from sagaz_lab.notebook.magics import Magics
from sagaz_lab.notebook.markup import Card
from sagaz_lab.notebook.mistakes import show_in_one_line
from sagaz_lab.notebook.outputs import route
from sagaz_lab.notebook.registration import Registration
from sagaz_lab.notebook.reports import CellReports
from sagaz_lab.notebook.shadow_cards import shadow_card, shadows_card
from sagaz_lab.notebook.wrapped import refuse_in_cells_of_cells, unwrap
from sagaz_lab.runtime.decisions.preview import Preview
from sagaz_lab.runtime.recovery.start_report import StartReport
from sagaz_lab.runtime.registry.changes import Diff
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.runs.run_view import RunView
from sagaz_lab.runtime.status import Status, Why

CLOSING_S = 5.0
"""Jupyter kills a kernel that takes more than a few seconds to shut down."""

_ATTRIBUTE, _UNLOADED = "_sagaz_lab_undo", "_sagaz_lab_unloaded_by"

Undo = list[Callable[[], object]]


def load(shell: InteractiveShell) -> None:
    """Idempotent."""
    if getattr(shell, _ATTRIBUTE, None):
        return
    lab, undo = default_lab(), Undo()
    registration, reports = Registration(shell, lab), CellReports(shell, lab)
    magics = Magics(shell, lab, registration, reports)
    undo.append(registration.close)
    _add_to(shell.input_transformers_cleanup, undo, unwrap, announce_saga, ask_for_help)
    _add_to(shell.input_transformers_post, undo, await_commands)
    _add_to(shell.Completer.custom_matchers, undo, Matcher(lab))
    _add_hook(shell, undo, "pre_run_cell", registration.before_cell)
    _add_hook(shell, undo, "post_run_cell", registration.after_cell)
    _add_magic(shell, undo, "line", "triggers", magics.triggers)
    _add_magic(shell, undo, "cell", "saga", magics.saga)
    _add_cards(shell, lab, undo)
    undo.append(lab.on_report(reports.hear))
    undo.append(reports.close)
    _add_log(undo)
    undo.append(route())
    undo += [refuse_input(shell), route_displays(shell), Figures().route(shell), show_in_one_line(shell),
             refuse_in_cells_of_cells(shell)]  # fmt: skip
    _add_names(shell)
    _mark_loading(shell, magics, undo)
    _close_at_exit(lab, undo)
    setattr(shell, _ATTRIBUTE, undo)


def unload(shell: InteractiveShell) -> None:
    """Remove all additions. Started triggers keep running: `%triggers stop` stops them."""
    undo: Undo = getattr(shell, _ATTRIBUTE, None) or []
    if undo:
        setattr(shell, _UNLOADED, shell.execution_count)
    while undo:
        undo.pop()()


def _add_to(place: list[Any], undo: Undo, *additions: object) -> None:
    for addition in additions:
        place.append(addition)
        undo.append(partial(place.remove, addition))


def _add_hook(shell: InteractiveShell, undo: Undo, event: str, hook: Callable[[Any], None]) -> None:
    shell.events.register(event, hook)
    undo.append(partial(shell.events.unregister, event, hook))


def _add_magic(shell: InteractiveShell, undo: Undo, kind: str, name: str, magic: Callable[..., Any]) -> None:
    shell.magics_manager.register_function(magic, kind, name)
    undo.append(partial(shell.magics_manager.magics[kind].pop, name, None))


def _mark_loading(shell: InteractiveShell, magics: Magics, undo: Undo) -> None:
    """Mark the magics as loading until the loading cell ends: it was parsed before the transformers were added."""

    def over(_: object) -> None:
        magics.is_loading = False

    magics.is_loading = getattr(shell, _UNLOADED, None) != shell.execution_count
    _add_hook(shell, undo, "pre_run_cell", over)  # if it was not loaded by a cell
    _add_hook(shell, undo, "post_run_cell", over)


def _add_names(shell: InteractiveShell) -> None:
    """Import the public names, so that the first cell can be a saga. The user's names win; unloading keeps the added
    ones, as with any import."""
    names = {name: getattr(sagaz_lab, name) for name in sagaz_lab.__all__ if name not in shell.user_ns}
    shell.user_ns.update(names)


def _add_log(undo: Undo) -> None:
    """Without a handler Python prints warnings into the current cell; `CellReports` shows them in the right one."""
    logger, nowhere = logging.getLogger("sagaz_lab"), logging.NullHandler()
    logger.addHandler(nowhere)
    undo.append(partial(logger.removeHandler, nowhere))


# --- cards ---


def _outcomes(values: list[Any]) -> Card | None:
    return outcome_card(values) if values and all(isinstance(value, Outcome) for value in values) else None


_CARDS: dict[type[Any], Callable[[Any], Card | None]] = {
    SagaDefinition: saga_card,
    Status: status_card,
    Preview: preview_card,
    Why: why_card,
    Handle: lambda handle: handle_card(handle.status()),
    StartReport: lambda away: away_card(away, "kernel was"),
    Outcome: lambda outcome: outcome_card([outcome]),
    list: _outcomes,
    Event: event_card,
    RunView: run_card,
    Diff: diff_card,
    Lab: lab_card,
    ShadowReport: shadow_card,
    Shadows: shadows_card,
    Registry: lambda registry: sagas_card(registry.current),
    MappingProxyType: mapping_card,
    type: class_card,
}


def _add_cards(shell: InteractiveShell, lab: Lab, undo: Undo) -> None:
    """Registered with the shell, so that the objects themselves do not depend on it."""
    assert shell.display_formatter is not None
    formatters = shell.display_formatter.formatters
    if hasattr(shell, "kernel"):  # no widgets in a terminal
        _add_formatter(shell.display_formatter.ipython_display_formatter, undo, Handle, partial(_show_handle, lab))
    for kind, card in _CARDS.items():
        _add_formatter(formatters["text/html"], undo, kind, partial(_as_html, card))
        plain = formatters["text/plain"]
        _add_formatter(plain, undo, kind, partial(_as_text, card, plain.type_printers.get(kind)))


def _show_handle(lab: Lab, handle: Handle) -> None:
    """Show the live dashboard, or the handle's card if its libraries are missing."""
    try:
        lab.dashboard().show_start(handle)
    except SourceNotReady:
        card = handle_card(handle.status())
        display({"text/html": card.html, "text/plain": card.text}, raw=True)


def _add_formatter(formatter: Any, undo: Undo, kind: type[Any], show: Callable[..., Any]) -> None:
    before = formatter.type_printers.get(kind)
    formatter.for_type(kind, show)
    undo.append(partial(formatter.for_type, kind, before) if before else partial(formatter.pop, kind, None))


def _as_html(card: Callable[[Any], Card | None], value: Any) -> str | None:
    if (shown := card(value)) is not None:
        return shown.html
    # For subclasses of list or mapping, whose instances have no display method.
    own = None if isinstance(value, type) else get_real_method(value, "_repr_html_")
    return None if own is None else own()


def _as_text(card: Callable[[Any], Card | None], before: Callable[..., None] | None, value: Any, printer: Any,
             cycle: bool) -> None:  # fmt: skip
    shown = card(value)
    if shown is not None and (len(printer.stack) == 1 or "\n" not in shown.text):
        printer.text(shown.text)
    elif before is not None:
        before(value, printer, cycle)
    else:
        printer.text(repr(value))


# --- the end of the kernel ---


def _close_at_exit(lab: Lab, undo: Undo) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # a terminal's loop runs only during a cell
        return
    close = partial(_close, lab, loop)
    atexit.register(close)
    undo.append(partial(atexit.unregister, close))


def _close(lab: Lab, loop: asyncio.AbstractEventLoop) -> None:
    """Stop the Lab in bounded time. An exiting kernel cancels no task and runs no `finally`."""
    if loop.is_closed() or not lab.is_open:
        return
    closing = loop.create_task(lab.stop(grace_s=CLOSING_S - 1.0))
    loop.call_later(CLOSING_S, closing.cancel)
    loop.call_later(CLOSING_S + 0.25, closing.cancel)  # a blocked thread does not notice the first
    # The kernel has requested its loop to stop, which ends the first call at once.
    for _ in range(3):
        with suppress(RuntimeError, asyncio.CancelledError, SagazLabError):
            if not closing.done():
                loop.run_until_complete(closing)
