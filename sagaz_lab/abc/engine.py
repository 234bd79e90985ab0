"""An engine executes runs, and tells each one's journal."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import ClassVar, Protocol

from sagaz_lab.abc.values import Ending
from sagaz_lab.model.run import Record, Run

Wait = Awaitable[None] | None
"""To be awaited; None where it is done already."""


class Attempt(Run, kw_only=True, eq=False):
    """One try of a run, as an engine gets it, and its journal: the append-only history of that try.

    It executes in a copy of the context `origin`.
    """

    origin: Context

    @property
    def shared(self) -> bool:
        """Whether another process may take the run over. If not, `ready` need not be asked."""
        raise NotImplementedError

    def ready(self) -> Wait:
        """To be awaited before each call of a user's function: the run is this process's still.

        Raises `LeaseLost` if another process has taken over: it may have called that function itself.
        """
        raise NotImplementedError

    def append(self, records: Sequence[Record]) -> Wait:
        """The records are durable once it has been awaited.

        Raises `UnstorableValue`, at once or then; nothing of the call is kept if it does.
        """
        raise NotImplementedError

    def end(self, ending: Ending) -> Wait:
        """The attempt has ended; raises as `append` does."""
        raise NotImplementedError

    def close(self, error: BaseException | None = None) -> None:
        """The engine has done with it: after its end, or because of this error, which leaves it as it stands."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTraits:
    """How an engine differs from its siblings.

    `own_history`: it keeps the history of its runs itself, so that a journal gets their ends only, and `attach` goes on
    with one. `own_retries`: it counts the trials of an action itself, those that a crash has cut off included.
    """

    own_history: bool = False
    own_retries: bool = False


class Engine(Protocol):
    """Executes runs.

    A run's actions start in the order of their dependencies; each start and end is journaled before what follows
    from it begins. No action starts once compensation began. An action that is journaled as finished is not run
    again when the run is resumed from its history.
    """

    traits: ClassVar[EngineTraits]

    def launch(self, runs: Iterable[Attempt]) -> None:
        """Execute these, each to its end, which its journal is given, and close it then.

        A run is taken from the iterable when it is its turn. One that an error ends which is not its saga's own (the
        journal's) is left as it stands, and closed with that error.
        """

    def attach(self, run: Attempt) -> bool:
        """Follow a run that goes on elsewhere, to its end. False where none does: launch it, with its history."""

    def cancel(self, run_id: str) -> None:
        """The run is `cancelling`: what goes on of it is stopped, what was done is compensated, and it ends as
        `cancelled`. One that has not begun does so when it gets its turn."""

    def abandon(self) -> None:
        """Let go of all runs at once, as they stand: the history of each tells whoever resumes it how to go on."""

    async def close(self) -> None:
        """The same, and give back threads and connections. It may be used again afterwards, on another loop."""
