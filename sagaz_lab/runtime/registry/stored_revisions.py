"""The stored revisions: storing a new revision makes its number final."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from sagaz_lab.abc import Clock, RevisionRow, Store
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.registry.registry import Registry


class StoredRevisions:
    """`maker` names this process; `renumbered` is called when a revision has a new number."""

    def __init__(
        self, store: Store, registry: Registry, clock: Clock, report: Report, renumbered: Callable[[], None]
    ) -> None:
        self._store = store
        self._registry = registry
        self._clock = clock
        self._report = report
        self._renumbered = renumbered
        self.maker = ""

    async def save(self, revisions: Iterable[tuple[str, int]]) -> None:
        """Store these revisions, given as saga and number. Raises `StoreError`."""
        now = self._clock.now()
        for name, number in revisions:
            here: int | None = number
            while here is not None and (definition := self._registry.past(name).get(here)):
                row = RevisionRow(name, here, definition.digest, definition.source_text, now, self.maker)
                if await self._store.save_revision(row):
                    break
                here = self._renumber(name, here)

    def _renumber(self, name: str, number: int) -> int | None:
        """Another process has used the number for other code. Returns this code's new number."""
        became = self._registry.renumber(name).get(number, number)
        if became == number:
            return None
        self._renumbered()
        text = f"saga {name!r}: the store has other code as revision {number}, so this is revision {became} from now on"
        self._report(f"revision:{name}", text)
        return became
