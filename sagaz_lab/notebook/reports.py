"""Failures of what runs in the background, shown in the cell that started it."""

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
    """Hears what the Lab reports, and shows the first of each kind.

    When a notebook is run without a front end, output for an earlier cell is dropped, so the reports are kept for
    the next `%triggers wait` as well.
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

    def belong_here(self) -> None:
        """From now on reports belong to the cell that runs, and each kind is new again."""
        get_parent = getattr(self._shell, "get_parent", None)  # a terminal has none
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
        """Hear nothing any more."""
        self._closed = True

    def take(self) -> list[str]:
        """Those that no `wait` has taken, oldest first, but for dead letters: those it tells as outcomes."""
        taken = [self._unseen.popleft() for _ in range(len(self._unseen))]
        return [text for kind, text in taken if not kind.startswith("dead:")]

    def __enter__(self) -> CellReports:
        """Somebody waits, and shows them."""
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
        """To the cell that started the triggers, if there is one and it can be reached."""
        publisher: Any = self._shell.display_pub
        socket = getattr(publisher, "pub_socket", None)
        if self._parent is None or socket is None:
            return False
        publisher.session.send(socket, kind, content, parent=self._parent, ident=ident)
        return True
