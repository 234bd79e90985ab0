"""The log of one run: its last lines, whichever action wrote them."""

from __future__ import annotations

from collections import deque
from threading import get_ident

from sagaz_lab.texts import masked, printable

LOG_LINES = 1000
"""Lines of a run's log that are kept; older ones are dropped."""

LINE_CHARS = 1000
"""What is printed is cut after so many characters of a line, so that a log is small whatever a run prints."""


class RunLog(deque[tuple[str, str]]):
    """Each line with the name of its action, oldest first. Any thread may write."""

    def __init__(self) -> None:
        super().__init__(maxlen=LOG_LINES)
        # Lines that have not ended. `print` writes a line in parts, so each thread has its own.
        self._begun: dict[tuple[int, str, str], str] = {}

    def write(self, action: str, stream: str, text: str) -> None:
        """Take what is printed to a stream: whole lines, parts of one, or a progress bar that overwrites itself."""
        key = (get_ident(), stream, action)
        *whole, rest = (self._begun.pop(key, "") + text).split("\n")
        self.extend((action, _visible(line)) for line in whole[-LOG_LINES:])
        if rest:
            # The next part may overwrite this one; the character beyond the limit says that something was cut.
            self._begun[key] = _last(rest)[: LINE_CHARS + 1] + ("\r" if rest.endswith("\r") else "")

    def end_lines(self) -> None:
        """The run has ended, and with it the lines that it began."""
        begun, self._begun = self._begun, {}
        self.extend((action, _visible(text)) for (_, _, action), text in list(begun.items()))

    def lines(self) -> list[tuple[str, str]]:
        """A copy, with the lines that have not ended."""
        begun = list(self._begun.items())
        return [*list(self), *((action, _visible(text)) for (_, _, action), text in begun)]


def safe(line: str) -> str:
    """Without credentials, and without what a terminal would obey; colours stay."""
    return printable(masked(line), lines=True, colours=True)


def _last(text: str) -> str:
    """What a terminal shows of it: a carriage return begins the line anew."""
    return text.rstrip("\r").rpartition("\r")[2]


def _visible(line: str) -> str:
    line = safe(_last(line))
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}..."
