"""Shows background failures in the cell that started the triggers."""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.lab import Lab
from sagaz_lab.notebook.cards import away_card
from sagaz_lab.notebook.markup import Card
from sagaz_lab.runtime.recovery.start_report import AWAY

KEPT = 100


class CellReports:
    """Listens to the Lab's reports and shows the first of each kind.

    A notebook run without a front end drops output for earlier cells, so the reports are also kept for the next
    `%triggers wait`.
    """

    def __init__(self, shell: InteractiveShell, lab: Lab) -> None:
        self._shell = shell
        self._lab = lab
        self._starts = 0
        self._parent: Any = None
        self._waiting = 0
        self._closed = False
        self._known: set[str] = set()
        self._unseen: deque[tuple[str, str]] = deque(maxlen=KEPT)

    def attach_to_cell(self) -> None:
        """Show later reports in the running cell, and each kind once more."""
        get_parent = getattr(self._shell, "get_parent", None)  # not in a terminal
        self._parent = get_parent() if get_parent else None
        self._known.clear()
        self._starts += 1

    def hear(self, kind: str, text: str) -> None:
        """Called by the Lab, on any thread."""
        if self._closed or kind in self._known:
            return
        self._known.add(kind)
        text = " ".join(text.split())
        self._unseen.append((kind, text))
        away = self._lab.status().away if kind == AWAY else None
        if away is not None:
            self._show_card(away_card(away, "kernel was" if self._starts < 2 else "triggers were"))
        elif not self._waiting:
            self._show(text)

    def close(self) -> None:
        """Stop listening."""
        self._closed = True

    def take(self) -> list[str]:
        """Remove and return the pending reports, oldest first, without dead letters, which `wait` shows as outcomes."""
        taken = [self._unseen.popleft() for _ in range(len(self._unseen))]
        return [text for kind, text in taken if not kind.startswith("dead:")]

    def __enter__(self) -> CellReports:
        """While entered, a `wait` shows the reports."""
        self._waiting += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1

    def _show(self, text: str) -> None:
        if not self._sent("stream", {"name": "stderr", "text": f"{text}\n"}, b"stream.stderr"):
            print(text, file=sys.stderr)

    def _show_card(self, card: Card) -> None:
        data = {"text/html": card.html, "text/plain": card.text}
        if not self._sent("display_data", {"data": data, "metadata": {}, "transient": {}}, b"display_data"):
            self._shell.display_pub.publish(data)

    def _sent(self, kind: str, content: dict[str, Any], ident: bytes) -> bool:
        """Send it to the cell that started the triggers, if any; returns whether it was sent."""
        publisher: Any = self._shell.display_pub
        socket = getattr(publisher, "pub_socket", None)
        if self._parent is None or socket is None:
            return False
        publisher.session.send(socket, kind, content, parent=self._parent, ident=ident)
        return True
