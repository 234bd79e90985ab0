"""Observers watch events and runs without affecting them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from sagaz_lab.model.event import Delivery
from sagaz_lab.model.run import Outcome, Run


class DecidedOutcomes(Sequence[Outcome]):
    """The outcomes of one decision, one per event and trigger, built on first access.

    `contexts` maps the ids of the started runs to their contexts.
    """

    def __init__(
        self, make: Callable[[], Sequence[Outcome]], contexts: Callable[[], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        self._make = make
        self._make_contexts = contexts

    @cached_property
    def _all(self) -> Sequence[Outcome]:
        return self._make()

    @cached_property
    def contexts(self) -> Mapping[str, Mapping[str, Any]]:
        return self._make_contexts()

    @overload
    def __getitem__(self, index: int) -> Outcome: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)


class Observer:
    """Override the hooks you need. They are called on the Lab's loop and block it; their errors are reported.

    Any number of observers can be installed; they are independent of one another.
    """

    def received(self, deliveries: Sequence[Delivery], triggers: Sequence[tuple[str, int]]) -> None:
        """The store has the results of these triggers, given as (name, part of the composite)."""

    def decided(self, outcomes: DecidedOutcomes) -> None:
        """A batch, a window or a run waiting for its turn was decided. Outcomes other than `waiting` are final."""

    def ended(self, run: Run) -> None:
        """An attempt ended with the run's `status`, which is still `running` if it was abandoned."""

    def changed(self, sagas: Collection[str]) -> None:
        """These sagas were registered or unregistered."""

    async def caught_up(self) -> None:
        """Wait until everything received is processed; a drain awaits this."""

    async def close(self) -> None:
        """The Lab is stopping."""
