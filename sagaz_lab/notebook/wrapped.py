"""Cells and lines in which a magic of IPython's stands around a `%triggers` that waits, or around a saga.

Those magics cannot await, and what they compile has no text that a revision could keep. The text of `%%time` and
`%time` is changed so that an ordinary cell is left; where another magic stands around what waits, one line says what to
do.
"""

from __future__ import annotations

import asyncio
import re
import time
import tokenize
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.timing import clock2

from sagaz_lab.notebook.background import replaced
from sagaz_lab.notebook.commands import awaits, without_semicolon

TIMED = "timed"
"""Before a sub-command: tell how long it took. Alone: how long the cell takes that runs."""

_CELL = re.compile(r"%%(time|timeit|capture|prun)\b[ \t]*([^\n]*)\n?")
_LINE = re.compile(
    r"(\s*)%(time|timeit|prun)[ \t]+(?:-\S+[ \t]+)*((?:[\w, .\[\]'\"]+=[ \t]*)?)%triggers[ \t]+([^\n]*\n?)"
)
_CLASS = re.compile(r"%%saga\b|\s*class\s+\w+\s*\(")
_COMMAND = re.compile(r"^[^#\n]*?%triggers[ \t]+([^\n]*)", re.MULTILINE)
_MISPLACED = "misplaced"
_WAITING = re.compile(r"await get_ipython\(\)\.run_line_magic\('triggers', '([\w-]+)")
_INSTEAD = {
    "time": "begin the cell with %%time and no option",
    "timeit": "%%time tells how long it takes once",
    "prun": "%%time tells how long it takes once",
    "capture": "a line of %triggers that ends in ; shows nothing, and `o = %triggers ...` keeps what it gives",
}


def unwrap(lines: list[str]) -> list[str]:
    """An input transformer; lines stay where they are."""
    match = _CELL.fullmatch(lines[0]) if lines else None
    is_timed = match is not None and match[1] == "time" and not match[2].strip()
    if is_timed and any(map(_CLASS.match, lines[1:])) and not _begins_with_other_magic(lines[1:]):
        return [f"%triggers {TIMED}\n", *lines[1:]]
    if not any("%triggers" in line for line in lines):
        return lines
    if match is None:
        texts = _rows_of_texts(lines)
        return [line if row in texts else _unwrapped(line) for row, line in enumerate(lines)]
    waiting = next((rest for rest in _COMMAND.findall("".join(lines[1:])) if awaits(rest)), None)
    if waiting is None:
        return lines
    if is_timed:
        return [f"%triggers {TIMED}\n", *lines[1:]]
    return [_refused(f"%%{match[1]}", waiting), *["\n"] * (len(lines) - 1)]


def _begins_with_other_magic(body: list[str]) -> bool:
    """Whether a cell's magic comes next, which is a cell by itself. `%%saga` leaves an ordinary one."""
    first = body[0]
    return first.startswith("%%") and _CLASS.match(first) is None


def _unwrapped(line: str) -> str:
    match = _LINE.fullmatch(line)
    if match is None or not awaits(match[4]):
        return line
    if match[2] == "time":
        return f"{match[1]}{match[3]}%triggers {TIMED} {match[4]}"
    return match[1] + _refused(f"%{match[2]}", match[4])


def _rows_of_texts(lines: list[str]) -> set[int]:
    """The lines that belong to a text of several lines."""
    found: set[int] = set()
    try:
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type == tokenize.STRING:
                found.update(range(token.start[0], token.end[0]))
    except (tokenize.TokenError, SyntaxError):
        pass  # Python will say what is wrong with the cell
    return found


def _refused(magic: str, command: str) -> str:
    return f"%triggers {TIMED} refused {magic} {_name(command)}\n"


def _name(command: str) -> str:
    return without_semicolon(command).split(maxsplit=1)[0]


def refuse_in_cells_of_cells(shell: InteractiveShell) -> Callable[[], object]:
    """Have a cell that another one runs be one line if a `%triggers` in it waits. Returns what undoes this."""
    untyped: Any = shell
    run_cell = untyped.run_cell

    def run(raw_cell: str, *args: Any, **options: Any) -> Any:
        if "%triggers" in raw_cell and _is_in_loop():
            transformed = ""
            with suppress(Exception):  # the shell will say what is wrong with the cell
                transformed = untyped.transform_cell(raw_cell)
            waiting = _WAITING.search(transformed)
            # The kernel itself calls this for a cell that need not be awaited, and hears of no error.
            if waiting is not None and untyped.should_run_async(raw_cell, transformed_cell=transformed):
                raise UsageError(
                    f"%triggers {waiting[1]} waits, which IPython cannot in what a cell runs, as by %run or %rerun; "
                    "leave the sagas there, and put this line into a cell here"
                )
        return run_cell(raw_cell, *args, **options)

    return replaced((shell, "run_cell", run))


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def misplaced(row: int, command: str, scope: str) -> str:
    """What `%triggers` is to be called with where it stands in a function or a class that cannot wait for it."""
    return f"{TIMED} {_MISPLACED} {row} {_name(command)} {scope}"


def refusal(text: str) -> str | None:
    """What to do instead, if `unwrap` or `misplaced` has refused what follows `%triggers timed`."""
    match text.split():
        case ("refused", magic, command):
            instead = _INSTEAD[magic.lstrip("%")]
            return f"{magic} cannot wait for %triggers {command}, since IPython runs no await within it; {instead}"
        case (misplaced, row, command, "def", name) if misplaced == _MISPLACED:
            cure = f"move it out of {name}(), or write `async def {name}` and `await {name}(...)`"
            return f"line {row}: %triggers {command} waits, and a plain `def` cannot; {cure}"
        case (misplaced, row, command, "class", name) if misplaced == _MISPLACED:
            return f"line {row}: %triggers {command} waits, and a class body cannot; move it out of class {name}"
    return None


class Stopwatch(NamedTuple):
    """When something began, by the clock and in processor time."""

    wall_s: float
    user_s: float
    sys_s: float

    @classmethod
    def start(cls) -> Stopwatch:
        return cls(time.perf_counter(), *clock2())

    def __str__(self) -> str:
        wall_s, user_s, sys_s = (now - then for now, then in zip(Stopwatch.start(), self, strict=True))
        cpu = f"user {_told(user_s)}, sys: {_told(sys_s)}, total: {_told(user_s + sys_s)}"
        return f"CPU times: {cpu}\nWall time: {_told(wall_s)}"


def _told(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
