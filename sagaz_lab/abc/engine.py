"""An engine executes runs, and tells a journal."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from sagaz_lab.abc.values import Ending
from sagaz_lab.model.run import Record, Run

Wait = Awaitable[None] | None
"""To be awaited; None where it is done already."""


class Journal(Protocol):
    """The append-only history of one run's attempt."""

    @property
    def shared(self) -> bool:
        """Whether another process may take the run over. If not, `ready` need not be asked."""

    def ready(self) -> Wait:
        """To be awaited before each call of a user's function: the run is this process's still.

        Raises `LeaseLost` if another process has taken over: it may have called that function itself.
        """

    def append(self, records: Sequence[Record]) -> Wait:
        """The records are durable once it has been awaited.

        Raises `UnstorableValue`, at once or then; nothing of the call is kept if it does.
        """

    def end(self, ending: Ending) -> Wait:
        """The attempt has ended; raises as `append` does."""


class Engine(Protocol):
    """Executes runs.

    A run's actions start in the order of their dependencies; each start and end is journaled before what follows
    from it begins. No action starts once compensation began. An action that is journaled as finished is not run
    again when the run is resumed from its history.
    """

    async def execute(self, run: Run, journal: Journal) -> None:
        """One attempt, to its end, which it tells the journal.

        `run.cancel()` ends it as `cancelled`, after compensating. Cancelling the task abandons the run as it
        stands: its history tells whoever resumes it how to go on.
        """

    def close(self) -> None:
        """The Lab is closed: give back threads and connections."""
