"""A cell's sagas become current when the cell has succeeded, all at once; a cell that fails changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import SagazLabError
from sagaz_lab.lab import Lab
from sagaz_lab.model.saga import Saga
from sagaz_lab.notebook.cards import change_card, change_line
from sagaz_lab.notebook.cells import is_saga_cell
from sagaz_lab.runtime.registry import Change, Staged


@dataclass(slots=True)
class Cell:
    """A cell that runs. Its classes are those staged from number `first` on; a cell that it runs is `inside` it."""

    info: Any
    first: int
    announced: list[bool] = field(default_factory=list)


class Registration:
    """The hooks of the shell around each cell."""

    def __init__(self, shell: InteractiveShell, lab: Lab) -> None:
        self._shell = shell
        self._lab = lab
        self._staged: Staged | None = None
        self._cells: list[Cell] = []

    def announce(self, *, quiet: bool) -> None:
        """The cell that runs is a `%%saga` cell."""
        if self._cells:
            self._cells[-1].announced.append(quiet)

    def before_cell(self, info: Any) -> None:
        if self._staged is None:
            self._staged = self._lab.registry.begin_staging()
        self._cells.append(Cell(info, len(self._staged.classes)))

    def after_cell(self, result: Any) -> None:
        """`result` is None where the cell was ended from outside. An empty cell comes here without `before_cell`."""
        cell = next((c for c in reversed(self._cells) if result is None or c.info is result.info), None)
        if cell is None or self._staged is None:
            return
        self._cells.remove(cell)
        succeeded = result is not None and result.success
        if not succeeded:
            self._drop(self._staged, cell)
        if self._cells:
            self._cells[-1].announced += cell.announced
            return
        staged, self._staged = self._staged, None
        self._lab.registry.end_staging(staged)
        if succeeded:
            self._commit(staged, cell, result)

    def close(self) -> None:
        """No hook will be called any more: what the cell that runs has defined so far becomes current."""
        self._cells.clear()
        staged, self._staged = self._staged, None
        if staged is not None:
            self._lab.registry.end_staging(staged)
            self._lab.registry.commit(staged)

    def unfinished(self) -> bool:
        """Has the cell that runs defined sagas, which are not registered yet?"""
        return self._staged is not None and bool(self._staged.classes)

    def _drop(self, staged: Staged, cell: Cell) -> None:
        dropped = staged.classes[cell.first :]
        del staged.classes[cell.first :]
        if dropped or is_saga_cell(cell.info.raw_cell or ""):
            tell(self._nothing_registered(dropped))

    def _commit(self, staged: Staged, cell: Cell, result: Any) -> None:
        try:
            changes = self._lab.registry.commit(staged) if staged.classes else []
            noticed = self._lab.registry.refresh()
        except SagazLabError as error:
            tell(f"{self._nothing_registered(staged.classes)}: {error}")
            result.error_in_exec = error  # so that "run all" stops here
            return
        if cell.announced and not staged.classes:
            tell("%%saga: this cell defines no saga")
        self._show(changes, as_cards=bool(cell.announced) and not any(cell.announced))
        self._show(noticed, as_cards=False)

    def _show(self, changes: Sequence[Change], *, as_cards: bool) -> None:
        """A card for each saga of a `%%saga` cell; elsewhere one line for each that changed."""
        for change in changes:
            if as_cards:
                card = change_card(change, self._lab.sagas[change.name])
                self._shell.display_pub.publish({"text/html": card.html, "text/plain": card.text})
            elif change.is_new or change.previous != change.revision:
                print(change_line(change))

    def _nothing_registered(self, classes: Sequence[type[Saga]]) -> str:
        names = dict.fromkeys(cls.__definition__.name for cls in classes if cls.__definition__)
        current = self._lab.sagas
        stays = [f"{name} stays at revision {current[name].revision}" for name in names if name in current]
        return "; ".join(["nothing registered", *stays])


def tell(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
