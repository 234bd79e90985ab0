"""The ports of a pump: what decides its deliveries, and what receives a source's notices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from sagaz_lab.abc import Delivery, Missed
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.triggers.state import Reader, TriggerState

Take = Callable[[Sequence[Reader], Sequence[Delivery]], Awaitable[list[Decided]]]
"""Decides deliveries for the triggers of these readers; returns once the outcomes are stored."""


Room = Callable[[TriggerState, str], Awaitable[None]]
"""Returns when an event may be taken; the text is the caller's verb. Raises `TriggerPaused` and `LabClosed`."""


class Hears(Protocol):
    """Receives a source's notices besides its deliveries."""

    def lose(self, count: int, why: str) -> None: ...

    def note_missed(self, missed: Missed) -> None: ...
