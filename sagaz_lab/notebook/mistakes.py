"""Shows an error that this package raises in a call from a cell as one line plus the cell's line.

A traceback through our code would add nothing. Errors of user code, and errors caused by them, keep their traceback
without the frames of this package on the way to user code.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable
from functools import partial
from traceback import walk_tb
from types import TracebackType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import SagazLabError, describe
from sagaz_lab.model.masked_code import masked_code
from sagaz_lab.model.wrong_calls import explain, is_own_error
from sagaz_lab.runtime.registry.code_sources import is_own


def show_in_one_line(shell: InteractiveShell) -> Callable[[], object]:
    """Install it. Returns a function that uninstalls it."""
    tracebacks: Any = shell.InteractiveTB
    as_usual = tracebacks.structured_traceback

    def shown(error: SagazLabError) -> list[str]:
        """The hook by which the shell renders an error."""
        where = _line_of_cell(error) if _is_ours(error) else None
        if where is None:
            lines: list[str] = as_usual(type(error), error, error.__traceback__, tb_offset=1)
            return lines
        return [f"{' '.join(describe(error).split())}", where]

    def structured(etype: Any = None, error: Any = None, traceback: Any = None, *args: Any, **options: Any) -> Any:
        """For all other errors, such as a `TypeError` from a call of ours, whose class cannot have the hook."""
        said = _said(error) if isinstance(error, TypeError) else None
        where = _line_of_cell(error) if said else None
        if where is not None:
            return [f"TypeError: {said}", where]
        if isinstance(traceback, TracebackType):
            traceback = _but_ours(traceback) or traceback
        return as_usual(etype, error, traceback, *args, **options)

    SagazLabError._render_traceback_ = shown  # type: ignore[attr-defined]
    tracebacks.structured_traceback = structured
    return partial(_undo, tracebacks, structured)


def _said(error: TypeError) -> str | None:
    """The one line; None unless the error is about a call of this package."""
    return " ".join(str(error).split()) if is_own_error(error) and _is_ours(error) else explain(error)


def _but_ours(traceback: TracebackType) -> TracebackType | None:
    """The frames outside this package; all frames if the last one is inside."""
    steps = [traceback]
    while (following := steps[-1].tb_next) is not None:
        steps.append(following)
    if _is_of_package(steps[-1]):
        return traceback
    found: TracebackType | None = None
    for step in reversed(steps):
        if not _is_of_package(step):
            found = TracebackType(found, step.tb_frame, step.tb_lasti, step.tb_lineno)
    return found


def _is_of_package(step: TracebackType) -> bool:
    return str(step.tb_frame.f_globals.get("__name__")).partition(".")[0] == "sagaz_lab"


def _undo(tracebacks: Any, structured: Any) -> None:
    del SagazLabError._render_traceback_  # type: ignore[attr-defined]
    if vars(tracebacks).get("structured_traceback") is structured:
        del tracebacks.structured_traceback


def _is_ours(error: BaseException) -> bool:
    """Whether this package raised it, without a cause in user code."""
    modules = _modules(error)
    if not modules or modules[-1].partition(".")[0] != "sagaz_lab":
        return False
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return cause is None or not any(map(_is_users, _modules(cause)))


def _modules(error: BaseException) -> list[str]:
    return [str(frame.f_globals.get("__name__")) for frame, _ in walk_tb(error.__traceback__)]


def _is_users(module: str) -> bool:
    return module == "__main__" or is_own(module)


def _line_of_cell(error: BaseException) -> str | None:
    """The innermost line of a cell that led to it; None if the user's own modules are in between."""
    steps = list(walk_tb(error.__traceback__))
    of_cells = [frame.f_code.co_filename for frame, _ in steps if frame.f_globals.get("__name__") == "__main__"]
    for frame, number in reversed(steps):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if module == "__main__":
            text = _shown(file, number)
            cell = "this" if file == of_cells[0] else "another"
            return f"  in {cell} cell, line {number}: {text}" if text else None
        if is_own(module):
            return None
    return None


def _shown(file: str, number: int) -> str:
    """The line without credentials. Masks the whole cell, since a single line often does not parse."""
    lines = masked_code("".join(linecache.getlines(file))).split("\n")
    return lines[number - 1].strip() if number <= len(lines) else ""
