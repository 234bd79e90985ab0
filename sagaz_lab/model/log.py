"""The log of one run: the last lines and displays of its actions."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from threading import get_ident
from typing import Any, NamedTuple

from sagaz_lab.texts import masked, printable

LOG_LINES = 1000
"""Lines kept per run; older ones are dropped."""

LINE_CHARS = 1000
"""Printed lines are cut at this many characters, which bounds the log."""

DISPLAYS, DISPLAYS_BYTES = 20, 5_000_000
"""Displays kept per run and their total size; older ones are dropped."""

LEVELS: Mapping[str, str] = {"stderr": "WARNING"}
"""The level of lines printed to a stream; INFO for all other streams."""


class LogLine(tuple[str, str]):  # noqa: SLOT001  tuples cannot have named slots
    """A line as the pair (action, text). `at` is in seconds since the epoch."""

    at: float
    level: str

    def __new__(cls, action: str, text: str, level: str = "INFO", at: float | None = None) -> LogLine:
        line = tuple.__new__(cls, (action, text))
        line.at = time.time() if at is None else at
        line.level = level
        return line


class Displayed(NamedTuple):
    """One display of an action: `data` is Jupyter's MIME bundle; a later one with the same `id` replaces it."""

    at: float
    action: str
    data: Mapping[str, Any]
    id: str = ""


class RunLog(deque[LogLine]):
    """Oldest first. Any thread may write.

    `written` counts the lines and displays of actions. Failures do not count: the journal has them.
    """

    def __init__(self, lines: Iterable[LogLine] = (), displays: Iterable[Displayed] = ()) -> None:
        super().__init__(lines, maxlen=LOG_LINES)
        self.displays: deque[Displayed] = deque(displays, maxlen=DISPLAYS)
        self.written = 0
        # Unfinished lines, per thread: `print` writes a line in parts.
        self._begun: dict[tuple[int, str, str], str] = {}

    def add(self, action: str, text: str, level: str = "INFO") -> None:
        """`text` may hold several lines."""
        self.written += 1
        self.extend(lines_of(action, text, level))

    def fail(self, action: str, text: str) -> None:
        """Add the error of a failed trial."""
        self.extend(lines_of(action, text, "ERROR"))

    def write(self, action: str, stream: str, text: str, level: str | None = None) -> None:
        """Take stream output: whole lines, parts of one, or a progress bar that overwrites itself."""
        self.written += 1
        key, level = (get_ident(), stream, action), level or LEVELS.get(stream, "INFO")
        *whole, rest = (self._begun.pop(key, "") + text).split("\n")
        self.extend(LogLine(action, _visible(line), level) for line in whole[-LOG_LINES:])
        if rest:
            # The next part may overwrite this one; one character beyond the limit marks it as cut.
            self._begun[key] = _last(rest)[: LINE_CHARS + 1] + ("\r" if rest.endswith("\r") else "")

    def display(self, action: str, data: Mapping[str, Any], id: str = "") -> None:
        """Keep a display; the oldest are dropped first."""
        self.written += 1
        shown = Displayed(time.time(), action, data, id)
        for n, one in enumerate(self.displays):
            if id and one.id == id:
                self.displays[n] = shown
                return
        self.displays.append(shown)
        while len(self.displays) > 1 and sum(_size(one) for one in self.displays) > DISPLAYS_BYTES:
            self.displays.popleft()

    def end_lines(self) -> None:
        """Complete all unfinished lines at the end of the run."""
        begun, self._begun = self._begun, {}
        self.extend(_unended(begun))

    def lines(self) -> list[LogLine]:
        """A copy, including unfinished lines."""
        return [*list(self), *_unended(dict(self._begun))]


def lines_of(action: str, text: str, level: str, at: float | None = None) -> list[LogLine]:
    at = time.time() if at is None else at
    return [LogLine(action, _visible(line), level, at) for line in text.rstrip().split("\n")[-LOG_LINES:]]


def _unended(begun: Mapping[tuple[int, str, str], str]) -> list[LogLine]:
    return [LogLine(action, _visible(text), LEVELS.get(stream, "INFO")) for (_, stream, action), text in begun.items()]


def _size(displayed: Displayed) -> int:
    return sum(len(part) if isinstance(part, str | bytes) else len(repr(part)) for part in displayed.data.values())


def safe(line: str) -> str:
    """Remove credentials and terminal control sequences except colours."""
    return printable(masked(line), lines=True, colours=True)


def _last(text: str) -> str:
    """The text a terminal would show: a carriage return restarts the line."""
    return text.rstrip("\r").rpartition("\r")[2]


def _visible(line: str) -> str:
    line = safe(_last(line))
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}..."
