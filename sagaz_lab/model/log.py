"""The log of one run: its last lines, whichever action wrote them, and what its actions have displayed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping
from threading import get_ident
from typing import Any, NamedTuple

from sagaz_lab.texts import masked, printable

LOG_LINES = 1000
"""Lines of a run's log that are kept; older ones are dropped."""

LINE_CHARS = 1000
"""What is printed is cut after so many characters of a line, so that a log is small whatever a run prints."""

DISPLAYS, DISPLAYS_BYTES = 20, 5_000_000
"""Displays of a run that are kept, and how large they may be together; older ones are dropped."""

LEVELS: Mapping[str, str] = {"stderr": "WARNING"}
"""The level of what is printed to a stream; to any other it is INFO."""


class LogLine(tuple[str, str]):  # noqa: SLOT001  a tuple can have none with names
    """A line, as the pair (action, text). `at` is when it was written, in seconds since the epoch."""

    at: float
    level: str

    def __new__(cls, action: str, text: str, level: str = "INFO", at: float | None = None) -> LogLine:
        line = tuple.__new__(cls, (action, text))
        line.at = time.time() if at is None else at
        line.level = level
        return line


class Displayed(NamedTuple):
    """What an action has displayed: `data` by type of content, as Jupyter has it; what has its `id` replaces it."""

    at: float
    action: str
    data: Mapping[str, Any]
    id: str = ""


class RunLog(deque[LogLine]):
    """Oldest first. Any thread may write.

    `written` grows with whatever an action prints, logs or displays; failures, which the journal has too, do not count.
    """

    def __init__(self, lines: Iterable[LogLine] = (), displays: Iterable[Displayed] = ()) -> None:
        super().__init__(lines, maxlen=LOG_LINES)
        self.displays: deque[Displayed] = deque(displays, maxlen=DISPLAYS)
        self.written = 0
        # Lines that have not ended. `print` writes a line in parts, so each thread has its own.
        self._begun: dict[tuple[int, str, str], str] = {}

    def add(self, action: str, text: str, level: str = "INFO") -> None:
        """A line, or several."""
        self.written += 1
        self.extend(lines_of(action, text, level))

    def fail(self, action: str, text: str) -> None:
        """Why a trial has failed."""
        self.extend(lines_of(action, text, "ERROR"))

    def write(self, action: str, stream: str, text: str, level: str | None = None) -> None:
        """Take what is printed to a stream: whole lines, parts of one, or a progress bar that overwrites itself."""
        self.written += 1
        key, level = (get_ident(), stream, action), level or LEVELS.get(stream, "INFO")
        *whole, rest = (self._begun.pop(key, "") + text).split("\n")
        self.extend(LogLine(action, _visible(line), level) for line in whole[-LOG_LINES:])
        if rest:
            # The next part may overwrite this one; the character beyond the limit says that something was cut.
            self._begun[key] = _last(rest)[: LINE_CHARS + 1] + ("\r" if rest.endswith("\r") else "")

    def display(self, action: str, data: Mapping[str, Any], id: str = "") -> None:
        """Keep what an action displays. The oldest go first."""
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
        """The run has ended, and with it the lines that it began."""
        begun, self._begun = self._begun, {}
        self.extend(_unended(begun))

    def lines(self) -> list[LogLine]:
        """A copy, with the lines that have not ended."""
        return [*list(self), *_unended(dict(self._begun))]


def lines_of(action: str, text: str, level: str, at: float | None = None) -> list[LogLine]:
    at = time.time() if at is None else at
    return [LogLine(action, _visible(line), level, at) for line in text.rstrip().split("\n")[-LOG_LINES:]]


def _unended(begun: Mapping[tuple[int, str, str], str]) -> list[LogLine]:
    return [LogLine(action, _visible(text), LEVELS.get(stream, "INFO")) for (_, stream, action), text in begun.items()]


def _size(displayed: Displayed) -> int:
    return sum(len(part) if isinstance(part, str | bytes) else len(repr(part)) for part in displayed.data.values())


def safe(line: str) -> str:
    """Without credentials, and without what a terminal would obey; colours stay."""
    return printable(masked(line), lines=True, colours=True)


def _last(text: str) -> str:
    """What a terminal shows of it: a carriage return begins the line anew."""
    return text.rstrip("\r").rpartition("\r")[2]


def _visible(line: str) -> str:
    line = safe(_last(line))
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}..."
