"""Who listens to what a dispatcher takes and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from sagaz_lab.abc import Delivery
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.triggers.outcomes import Entry

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Reader


class Tee(Protocol):
    """None of these raises."""

    def taken(self, readers: Sequence[Reader], deliveries: Sequence[Delivery]) -> None:
        """The store has taken what these triggers have decided of the deliveries."""

    def applied(self, decided: Decided) -> None:
        """A batch, or a window, is decided: what does not wait now will not be decided again."""

    def left_queue(self, pending: PendingRun, entries: Sequence[Entry]) -> None:
        """The run has waited for its turn, and has started or never will."""

    def changed(self, sagas: Collection[str]) -> None:
        """These sagas have been registered or unregistered."""

    async def caught_up(self) -> None:
        """Returns when what was taken has been seen to."""

    async def close(self) -> None:
        """The dispatcher is closed."""
