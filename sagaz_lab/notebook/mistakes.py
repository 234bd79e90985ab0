"""A mistake in how a saga is written is shown as one line and the cell's own, not as a way through our code."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from functools import partial
from traceback import walk_tb
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import DefinitionError, describe
from sagaz_lab.model.masked_code import masked_code


def show_in_one_line(shell: InteractiveShell) -> Callable[[], object]:
    """The shell asks an error how it is to be shown. Returns what undoes this."""

    def shown(error: DefinitionError) -> list[str]:
        where = _line_of_cell(error)
        if where is None:
            return _as_usual(shell, error)
        return [f"{' '.join(describe(error).split())}", where]

    DefinitionError._render_traceback_ = shown  # type: ignore[attr-defined]
    return partial(delattr, DefinitionError, "_render_traceback_")


def _as_usual(shell: InteractiveShell, error: BaseException) -> list[str]:
    tracebacks: Any = shell.InteractiveTB
    lines: list[str] = tracebacks.structured_traceback(type(error), error, error.__traceback__, tb_offset=1)
    return lines


def _line_of_cell(error: BaseException) -> str | None:
    """The innermost line of a cell that led to it; None if the cell only called the user's own modules."""
    for frame, number in reversed(list(walk_tb(error.__traceback__))):
        file, module = frame.f_code.co_filename, str(frame.f_globals.get("__name__"))
        if module == "__main__":
            text = _shown(file, number)
            return f"  in this cell, line {number}: {text}" if text else None
        if module.partition(".")[0] != "sagaz_lab":
            return None
    return None


def _shown(file: str, number: int) -> str:
    """The line without credentials. The whole cell is masked, since a line alone is often no code that parses."""
    lines = masked_code("".join(linecache.getlines(file))).split("\n")
    return lines[number - 1].strip() if number <= len(lines) else ""
