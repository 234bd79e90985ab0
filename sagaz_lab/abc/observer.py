"""An observer sees what flows, and disturbs nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, overload

from sagaz_lab.model.event import Delivery
from sagaz_lab.model.run import Outcome, Run


class DecidedOutcomes(Sequence[Outcome]):
    """Those of one decision, one for each event and trigger. They are built when the first of them is read.

    `contexts` has the context of each run that has started with them, by id.
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
    """Override what you want to hear of. All is called on the Lab's loop, which it holds up; what it raises is
    reported. Any number of observers listen, none in another's way."""

    def received(self, deliveries: Sequence[Delivery], triggers: Sequence[tuple[str, int]]) -> None:
        """The store has what these triggers, each named with the number of its composite's part, made of them."""

    def decided(self, outcomes: DecidedOutcomes) -> None:
        """A batch, a window or a run that has waited for its turn is decided. What is not `held` will not be again."""

    def ended(self, run: Run) -> None:
        """An attempt of the run has ended, as its `status` says; it is still `running` if it was abandoned."""

    def changed(self, sagas: Collection[str]) -> None:
        """These sagas have been registered or unregistered."""

    async def caught_up(self) -> None:
        """Returns when what was received has been seen to: a drain waits for it."""

    async def close(self) -> None:
        """The Lab stops."""
