"""Handles IPython magics that wrap an awaitable `%triggers` or a saga.

Those magics cannot await, and code that they compile has no source for a revision to store. `%%time` and `%time` are
rewritten to leave an ordinary cell; for other magics around an awaitable `%triggers`, one line says what to do.
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
"""Before a sub-command: print its duration. Alone: print the running cell's duration."""

_CELL = re.compile(r"%%(time|timeit|capture|prun)\b[ \t]*([^\n]*)\n?")
_LINE = re.compile(
    r"(\s*)%(time|timeit|prun)[ \t]+(?:-\S+[ \t]+)*((?:[\w, .\[\]'\"]+=[ \t]*)?)%triggers[ \t]+([^\n]*\n?)"
)
_CLASS = re.compile(r"%%saga\b|\s*class\s+\w+\s*\(")
_COMMAND = re.compile(r"^[^#\n]*?%triggers[ \t]+([^\n]*)", re.MULTILINE)
_MISPLACED = "misplaced"
_WAITING = re.compile(r"await get_ipython\(\)\.run_line_magic\('triggers', '([\w-]+)")
_INSTEAD = {
    "time": "begin the cell with %%time without options",
    "timeit": "%%time measures a single run",
    "prun": "%%time measures a single run",
    "capture": "end the line of %triggers with ; to hide its result, or keep it with `o = %triggers ...`",
}


def unwrap(lines: list[str]) -> list[str]:
    """An input transformer that keeps line numbers."""
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
    """Whether another cell magic comes next, other than `%%saga`, which leaves an ordinary cell."""
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
    """Rows inside multi-line strings."""
    found: set[int] = set()
    try:
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type == tokenize.STRING:
                found.update(range(token.start[0], token.end[0]))
    except (tokenize.TokenError, SyntaxError):
        pass  # Python will report the error
    return found


def _refused(magic: str, command: str) -> str:
    return f"%triggers {TIMED} refused {magic} {_name(command)}\n"


def _name(command: str) -> str:
    return without_semicolon(command).split(maxsplit=1)[0]


def refuse_in_cells_of_cells(shell: InteractiveShell) -> Callable[[], object]:
    """Reject an awaitable `%triggers` in a nested cell, in one line. Returns a function that undoes this."""
    untyped: Any = shell
    run_cell = untyped.run_cell

    def run(raw_cell: str, *args: Any, **options: Any) -> Any:
        if "%triggers" in raw_cell and _is_in_loop():
            transformed = ""
            with suppress(Exception):  # the shell will report the error
                transformed = untyped.transform_cell(raw_cell)
            waiting = _WAITING.search(transformed)
            # The kernel also calls this for a cell without await and ignores errors.
            if waiting is not None and untyped.should_run_async(raw_cell, transformed_cell=transformed):
                raise UsageError(
                    f"%triggers {waiting[1]} needs await, which nested cells, as of %run or %rerun, do not support; "
                    "keep the sagas there and put this line into a cell here"
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
    """The arguments that make `%triggers` report its use in a function or class that cannot await."""
    return f"{TIMED} {_MISPLACED} {row} {_name(command)} {scope}"


def refusal(text: str) -> str | None:
    """The cure if `unwrap` or `misplaced` rejected the text after `%triggers timed`; else None."""
    match text.split():
        case ("refused", magic, command):
            instead = _INSTEAD[magic.lstrip("%")]
            return f"%triggers {command} needs await, which {magic} does not support; {instead}"
        case (misplaced, row, command, "def", name) if misplaced == _MISPLACED:
            cure = f"move it out of {name}(), or write `async def {name}` and `await {name}(...)`"
            return f"line {row}: %triggers {command} needs await, which a plain `def` forbids; {cure}"
        case (misplaced, row, command, "class", name) if misplaced == _MISPLACED:
            return f"line {row}: %triggers {command} needs await, which a class body forbids; move it out of {name}"
    return None


class Stopwatch(NamedTuple):
    """Start times: wall clock and CPU."""

    wall_s: float
    user_s: float
    sys_s: float

    @classmethod
    def start(cls) -> Stopwatch:
        return cls(time.perf_counter(), *clock2())

    def __str__(self) -> str:
        wall_s, user_s, sys_s = (now - then for now, then in zip(Stopwatch.start(), self, strict=True))
        cpu = f"user {_duration(user_s)}, sys: {_duration(sys_s)}, total: {_duration(user_s + sys_s)}"
        return f"CPU times: {cpu}\nWall time: {_duration(wall_s)}"


def _duration(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
