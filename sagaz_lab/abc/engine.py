"""An engine executes runs, and tells a journal."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from sagaz_lab.abc.values import Ending
from sagaz_lab.model.run import Record, Run


class Journal(Protocol):
    """The append-only history of one run's attempt."""

    def append(self, records: Sequence[Record]) -> Awaitable[None]:
        """Returns when the records are durable. Raises `UnstorableValue`; nothing of the call is kept then."""

    def end(self, ending: Ending) -> Awaitable[None]:
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
