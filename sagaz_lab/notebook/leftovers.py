"""Sagas still registered after they left the notebook: their cell was changed or their class deleted."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import SagazLabError, describe
from sagaz_lab.lab import Lab
from sagaz_lab.model.saga import Saga
from sagaz_lab.runtime.registry.changes import Change

_NAME = re.compile(r"""(\bsaga_name\s*(?::[^=\n]*)?=\s*)(?:"[^"\n]*"|'[^'\n]*')""")


class Leftovers:
    """Tracks which cell defined a saga and whether its class still exists."""

    def __init__(self, shell: InteractiveShell, lab: Lab) -> None:
        self._shell = shell
        self._lab = lab
        self._cells: dict[str, object] = {}
        self._there: set[str] = set()

    def found(self, info: Any, classes: Sequence[type[Saga]]) -> Iterator[tuple[str, str]]:
        """Sagas left behind by a successful cell with these classes, each with a note."""
        cell, sagas = _cell_of(info), self._lab.sagas
        names = {cls.__definition__.name for cls in classes if cls.__definition__}
        for saga, its_cell in list(self._cells.items()):
            if saga not in sagas:
                del self._cells[saga]
            elif its_cell == cell and saga not in names:
                yield (
                    saga,
                    f"{saga!r}, defined by this cell before, still runs; %triggers remove {saga} removes it",
                )
        self._cells.update(dict.fromkeys(names & sagas.keys(), cell))
        yield from self._deleted(names)

    def _deleted(self, defined: Collection[str]) -> Iterator[tuple[str, str]]:
        """Classes that disappeared from the notebook since the previous cell."""
        of_notebook = {name: it.cls for name, it in self._lab.sagas.items() if it.cls.__module__ == "__main__"}
        there = {name for name, cls in of_notebook.items() if cls.__qualname__ in self._shell.user_ns}
        for saga in sorted((self._there - there) & of_notebook.keys()):
            cls = of_notebook[saga].__qualname__
            yield (
                saga,
                f"the class {cls} is gone, but its saga {saga!r} still runs; %triggers remove {saga} removes it",
            )
        self._there = there

    def offer(self, sagas: Collection[str]) -> None:
        """Show a button to remove each saga, if widgets are available."""
        if sagas and hasattr(self._shell, "kernel"):  # the import alone makes every page request widget states
            with suppress(ModuleNotFoundError):
                widgets, display = import_module("ipywidgets"), import_module("IPython.display").display
                for saga in sagas:
                    button = widgets.Button(description=f"Remove {saga}", tooltip=f"%triggers remove {saga}")
                    button.on_click(partial(_remove, self._lab, saga, asyncio.get_running_loop()))
                    display(button)


def earlier_claims(lab: Lab, saga: str) -> str:
    """A note on claims of earlier runs of the saga's triggers, with the cure; "" if there are none."""
    definition = lab.sagas[saga]
    keyed = [it.name for it in definition.triggers.values() if it.gates.idempotency_key is not None]
    try:
        counts: Mapping[str, int] = dict(lab.store.rows("claims", None)[1]) if keyed else {}  # type: ignore[arg-type]
    except SagazLabError:
        return ""
    found = [f"{counts[name]:,} key{'s' if counts[name] != 1 else ''} of {name}" for name in keyed if counts.get(name)]
    if not found:
        return ""
    return (
        f"earlier runs have claimed {', '.join(found)}: events with these start nothing; "
        "%triggers start --fresh forgets them, %triggers use memory switches to a scratch store"
    )


def revision_origin(lab: Lab, change: Change) -> Iterator[str]:
    """A note if another kernel or process registered the previous revision."""
    before = change.previous
    if change.is_new and before is not None:
        with suppress(SagazLabError):
            maker = next((row.made_by for row in lab.store.revisions(change.name) if row.number == before), "")
            if maker and not maker.endswith(f"process {os.getpid()}"):
                yield f"revision {before} comes from {maker}"


def _cell_of(info: Any) -> object:
    """Identifies a cell across edits: the front end's id, else its text without saga names."""
    return getattr(info, "cell_id", None) or _NAME.sub(r"\1''", info.raw_cell or "")


def _remove(lab: Lab, saga: str, loop: asyncio.AbstractEventLoop, button: Any) -> None:
    """Handle a click, on any thread."""
    loop.call_soon_threadsafe(_remove_here, lab, saga, button)


def _remove_here(lab: Lab, saga: str, button: Any) -> None:
    button.disabled = True
    try:
        lab.unregister(saga)
        button.description = f"{saga} removed"
    except SagazLabError as error:
        button.description = " ".join(describe(error).split())
