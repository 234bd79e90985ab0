"""Cells and lines in which a magic of IPython's stands around a `%triggers` that waits: those magics cannot await.

Of `%%time` and `%time` the text is changed so that they need not; the others are one line that says what to do.
"""

from __future__ import annotations

import re
import time
import tokenize
from collections.abc import Sequence
from typing import NamedTuple

from sagaz_lab.notebook.commands import awaits

TIMED = "timed"
"""Before a sub-command: tell how long it took. Alone: how long the cell takes that runs."""

_CELL = re.compile(r"%%(time|timeit|capture|prun)\b[ \t]*([^\n]*)\n?")
_LINE = re.compile(
    r"(\s*)%(time|timeit|prun)[ \t]+(?:-\S+[ \t]+)*((?:[\w, .\[\]'\"]+=[ \t]*)?)%triggers[ \t]+([^\n]*\n?)"
)
_COMMAND = re.compile(r"^[^#\n]*?%triggers[ \t]+([^\n]*)", re.MULTILINE)
_INSTEAD = {
    "time": "begin the cell with %%time and no option",
    "timeit": "%%time tells how long it takes once",
    "prun": "%%time tells how long it takes once",
    "capture": "a line of %triggers that ends in ; shows nothing, and `o = %triggers ...` keeps what it gives",
}


def unwrap(lines: list[str]) -> list[str]:
    """An input transformer; lines stay where they are."""
    if not lines or not any("%triggers" in line for line in lines):
        return lines
    match = _CELL.fullmatch(lines[0])
    if match is None:
        texts = _rows_of_texts(lines)
        return [line if row in texts else _unwrapped(line) for row, line in enumerate(lines)]
    waiting = next((rest for rest in _COMMAND.findall("".join(lines[1:])) if awaits(rest)), None)
    if waiting is None:
        return lines
    if match[1] == "time" and not match[2].strip():
        return [f"%triggers {TIMED}\n", *lines[1:]]
    return [_refused(f"%%{match[1]}", waiting), *["\n"] * (len(lines) - 1)]


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
    return f"%triggers {TIMED} refused {magic} {command.split(maxsplit=1)[0]}\n"


def refusal(words: Sequence[str]) -> str:
    """What to do instead, for the magic and the sub-command that `unwrap` has refused."""
    magic, command = words
    instead = _INSTEAD[magic.lstrip("%")]
    return f"{magic} cannot wait for %triggers {command}, since IPython runs no await within it; {instead}"


class Stopwatch(NamedTuple):
    """When something began, by the clock and in processor time."""

    wall_s: float
    cpu_s: float

    @classmethod
    def start(cls) -> Stopwatch:
        return cls(time.perf_counter(), time.process_time())

    def __str__(self) -> str:
        now = Stopwatch.start()
        return f"CPU times: total: {_told(now.cpu_s - self.cpu_s)}\nWall time: {_told(now.wall_s - self.wall_s)}"


def _told(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
