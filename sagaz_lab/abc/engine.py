"""An engine executes runs and records each in its journal."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import ClassVar, Protocol

from sagaz_lab.abc.values import Ending
from sagaz_lab.model.run import Record, Run

Wait = Awaitable[None] | None
"""To be awaited; None if it is already done."""


class Attempt(Run, kw_only=True, eq=False):
    """One attempt of a run, as an engine gets it, with the attempt's journal.

    It executes in a copy of the context `origin`.
    """

    origin: Context

    @property
    def shared(self) -> bool:
        """Whether another process may take over the run. If not, `ready` is not needed."""
        raise NotImplementedError

    def ready(self) -> Wait:
        """Await it before each call of user code: it confirms that this process still owns the run.

        Raises `LeaseLost` if another process has taken over and may have called the function itself.
        """
        raise NotImplementedError

    def append(self, records: Sequence[Record]) -> Wait:
        """The records are durable once it has been awaited.

        Raises `UnstorableValue`, at once or then; nothing of the call is kept if it does.
        """
        raise NotImplementedError

    def end(self, ending: Ending) -> Wait:
        """Record the end of the attempt; raises as `append` does."""
        raise NotImplementedError

    def close(self, error: BaseException | None = None) -> None:
        """The engine is done with it: after its end, or because of `error`, which leaves its state unchanged."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """An engine's differences from the others.

    `own_history`: it keeps the history of its runs, so the journal gets their ends only and `attach` follows a run.
    `own_retries`: it counts the trials of an action, including those interrupted by a crash.
    """

    own_history: bool = False
    own_retries: bool = False


class Engine(Protocol):
    """Executes runs.

    Actions start in dependency order. Each start and end is journaled before anything that follows from it begins. No
    action starts once compensation has begun. When a run is resumed from its history, finished actions do not run
    again.
    """

    traits: ClassVar[EngineTraits]

    def launch(self, runs: Iterable[Attempt]) -> None:
        """Execute each run to its end, record the end in its journal, close it.

        Each run is taken from the iterable at its turn. If an error outside the saga's code (the
        journal's) interrupts a run, its state stays unchanged and it is closed with that error.
        """

    def attach(self, run: Attempt) -> bool:
        """Follow a run that continues elsewhere to its end. False if it does not: launch it with its history."""

    def cancel(self, run_id: str) -> None:
        """Stop a `cancelling` run's live actions, compensate the finished ones and end it as `cancelled`.

        A run that has not begun does so when its turn comes.
        """

    def abandon(self) -> None:
        """Drop all runs at once in their current state; each can be resumed from its history."""

    async def close(self) -> None:
        """`abandon`, and release threads and connections. The engine can be used again, on another loop."""
