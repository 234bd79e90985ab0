"""What a pump is given: who decides its deliveries, and who hears what its source knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sagaz_lab.abc import Delivery, Missed
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.triggers.state import Reader, TriggerState

Take = Callable[[Sequence[Reader], Sequence[Delivery]], Awaitable[list[Decided]]]
"""Decides deliveries for the triggers of these readers; when it returns, the store has the outcomes."""


Room = Callable[[TriggerState, str], Awaitable[None]]
"""Returns when an event may be taken; the text is the verb of the caller. Raises `TriggerPaused` and `LabClosed`."""


class Hears(Protocol):
    """Who hears what a source knows besides its deliveries."""

    def lose(self, count: int, why: str) -> None: ...

    def note_missed(self, missed: Missed) -> None: ...
