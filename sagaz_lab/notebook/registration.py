"""Registers a cell's sagas together once the cell has succeeded; a failed cell changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from sagaz_lab.errors import DefinitionError, SagazLabError
from sagaz_lab.lab import Lab
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.notebook.cards import change_card, change_line
from sagaz_lab.notebook.cells import is_saga_cell
from sagaz_lab.notebook.leftovers import Leftovers, earlier_claims, revision_origin
from sagaz_lab.notebook.markup import Card
from sagaz_lab.notebook.shadow_cards import shadow_card, shadow_counts, shadow_line
from sagaz_lab.notebook.wrapped import Stopwatch
from sagaz_lab.runtime.registry.changes import Change
from sagaz_lab.runtime.registry.registry import Staged


@dataclass(slots=True)
class Cell:
    """A running cell. Its classes are those staged from index `first` on; a nested cell is `inside` it.

    `first_shadow` is the same index for shadow classes; `shadow` marks a cell of shadows.
    """

    info: Any
    first: int
    first_shadow: int
    announced: list[bool] = field(default_factory=list)
    shadow: bool = False
    watch: Stopwatch | None = None


class Registration:
    """The hooks of the shell around each cell."""

    def __init__(self, shell: InteractiveShell, lab: Lab) -> None:
        self._shell = shell
        self._lab = lab
        self._staged: Staged | None = None
        self._cells: list[Cell] = []
        self._to_shadow: list[type[Saga]] = []
        self._names: dict[str, Any] | None = None
        self._outdated: dict[str, dict[str, type]] = {}
        self._leftovers = Leftovers(shell, lab)
        self._greeted: set[str] = set()

    def announce(self, *, quiet: bool, shadow: bool = False) -> None:
        """Mark the running cell as a `%%saga` cell."""
        if self._cells:
            self._cells[-1].announced.append(quiet)
            self._cells[-1].shadow = shadow
            if shadow and self._names is None:
                self._names = dict(self._shell.user_ns)

    def time_cell(self) -> None:
        """Print the running cell's duration at its end."""
        if self._cells:
            self._cells[-1].watch = Stopwatch.start()

    def before_cell(self, info: Any) -> None:
        if self._staged is None:
            self._staged = self._lab.registry.begin_staging()
        self._cells.append(Cell(info, len(self._staged.classes), len(self._to_shadow)))

    def after_cell(self, result: Any) -> None:
        """`result` is None if the cell was killed. An empty cell has no `before_cell`."""
        cell = next((c for c in reversed(self._cells) if result is None or c.info is result.info), None)
        if cell is None or self._staged is None:
            return
        self._cells.remove(cell)
        if cell.watch is not None:
            print(cell.watch)
        succeeded = result is not None and result.success
        if not succeeded:
            self._drop(self._staged, cell)
        elif cell.shadow:
            self._to_shadow += self._staged.classes[cell.first :]
            del self._staged.classes[cell.first :]
        if self._cells:
            self._cells[-1].announced += cell.announced
            return
        staged, self._staged = self._staged, None
        self._lab.registry.end_staging(staged)
        to_shadow, self._to_shadow, names, self._names = self._to_shadow, [], self._names, None
        if succeeded:
            self._commit(staged, cell, result, to_shadow, names)

    def close(self) -> None:
        """The hooks are removed: register what the running cell has defined so far."""
        self._cells.clear()
        self._to_shadow.clear()
        staged, self._staged = self._staged, None
        if staged is not None:
            self._lab.registry.end_staging(staged)
            self._lab.registry.commit(staged)

    def unfinished(self) -> bool:
        """Whether the running cell has defined sagas that are not registered yet."""
        return self._staged is not None and bool(self._staged.classes)

    def _drop(self, staged: Staged, cell: Cell) -> None:
        dropped = staged.classes[cell.first :] + self._to_shadow[cell.first_shadow :]
        del staged.classes[cell.first :], self._to_shadow[cell.first_shadow :]
        if dropped or is_saga_cell(cell.info.raw_cell or ""):
            print_warning(self._nothing_registered(dropped))

    def _commit(
        self, staged: Staged, cell: Cell, result: Any, to_shadow: list[type[Saga]], names: dict[str, Any] | None
    ) -> None:
        shadows = dict(self._lab.shadows)
        try:
            if names is not None:
                self._restore_helpers(names)
            changes = self._lab.registry.commit(staged) if staged.classes else []
            noticed = self._lab.registry.refresh()
            begun = self._lab.shadows.begin(*{_name(cls): cls for cls in to_shadow}.values()) if to_shadow else []
        except SagazLabError as error:
            what = "no shadow began" if names is not None else self._nothing_registered(staged.classes)
            print_warning(f"{what}: {error}")
            result.error_in_exec = error  # stops "run all" here
            return
        if cell.announced and not staged.classes and not to_shadow:
            print_warning("%%saga: this cell defines no saga")
        as_cards = bool(cell.announced) and not any(cell.announced)
        left = dict(self._leftovers.found(cell.info, [*staged.classes, *to_shadow]))
        on_card = list(left.values()) if changes and as_cards else []
        noted = [self._with_notes(change, on_card if change is changes[0] else []) for change in changes]
        self._show(noted, as_cards=as_cards)
        for line in left.values() if not on_card else ():
            print(line)
        self._leftovers.offer(left)
        self._show(noticed, as_cards=False)
        self._report_outdated()
        for name in shadows.keys() - self._lab.shadows.keys():
            print(f"the shadow of {name} has ended; {shadow_counts(shadows[name])}")
        for report in begun:
            self._show_card(shadow_card(report)) if as_cards else print(shadow_line(report))

    def _restore_helpers(self, names: dict[str, Any]) -> None:
        """Restore helpers redefined by a shadow's cell: they are globals, so the current revision uses them too.

        Raises `DefinitionError`, after restoring, if the change would affect the current revision.
        """
        namespace, found = self._shell.user_ns, []
        for saga, helpers in self._lab.registry.changed_helpers().items():
            changed = [(it, name) for it in helpers
                       if namespace.get(name := it.removesuffix("()")) is not names.get(name)]  # fmt: skip
            found += [f"{it}, which revision {self._lab.sagas[saga].revision} of {saga} uses" for it, _ in changed]
            for _, name in changed:
                namespace[name] = names[name]
        if found:
            raise DefinitionError(
                f"the cell also changes {'; and '.join(found)}. That was restored: give the new one another name, "
                "or make it a param of the trigger"
            )

    def _show(self, changes: Sequence[Change], *, as_cards: bool) -> None:
        """Show a card per saga of a `%%saga` cell; for other cells one line per changed saga."""
        for change in changes:
            if as_cards:
                self._show_card(change_card(change, self._lab.sagas[change.name]))
            elif change.is_new or change.previous != change.revision:
                print(change_line(change))

    def _with_notes(self, change: Change, left: Sequence[str]) -> Change:
        """Add the notebook's notes; `left` are notes on sagas that the cell left behind."""
        notes = [*left, *revision_origin(self._lab, change)]
        if change.is_new and _has_lost_its_text(self._lab.sagas[change.name]):
            notes.append("its code is not stored because Python has no source for it, as under %%prun or %%timeit; "
                         "define it in a cell without them")  # fmt: skip
        if change.name not in self._greeted:
            self._greeted.add(change.name)
            if not self._lab.status().started and (claimed := earlier_claims(self._lab, change.name)):
                notes.append(claimed)
        return replace(change, warnings=[*change.warnings, *notes]) if notes else change

    def _report_outdated(self) -> None:
        """Report sagas that still use an old version of a class, such as their base or payload type."""
        told, self._outdated = self._outdated, {}
        for saga, classes in self._lab.registry.outdated().items():
            self._outdated[saga] = classes
            if any(told.get(saga, {}).get(name) is not cls for name, cls in classes.items()):
                print(f"saga {saga} still uses the previous {', '.join(sorted(classes))}; run its cell again")

    def _show_card(self, card: Card) -> None:
        self._shell.display_pub.publish({"text/html": card.html, "text/plain": card.text})

    def _nothing_registered(self, classes: Sequence[type[Saga]]) -> str:
        names = dict.fromkeys(cls.__definition__.name for cls in classes if cls.__definition__)
        current = self._lab.sagas
        stays = [f"{name} stays at revision {current[name].revision}" for name in names if name in current]
        return "; ".join(["nothing registered", *stays])


def _has_lost_its_text(definition: SagaDefinition) -> bool:
    """Python finds a class's source by its methods."""
    has_methods = any(isinstance(it, FunctionType) for it in vars(definition.cls).values())
    return has_methods and not definition.source_text


def _name(cls: type[Saga]) -> str:
    return cls.__definition__.name if cls.__definition__ else cls.__name__


def print_warning(line: str) -> None:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
