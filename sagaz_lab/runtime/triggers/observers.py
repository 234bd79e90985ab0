"""The observers of a Lab, which see each event taken and its outcome."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sagaz_lab.abc import DecidedOutcomes, Delivery, Observer
from sagaz_lab.errors import describe
from sagaz_lab.model.run import OutcomeKind, Run
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.outcomes import Entry, Tally, outcomes_of
from sagaz_lab.runtime.triggers.state import Reader

logger = logging.getLogger("sagaz_lab")


class Observers:
    """Calls the tally and any number of observers; an observer's error is reported and affects nothing else."""

    def __init__(self, tally: Tally, report: Report) -> None:
        self._report = report
        self.tally = tally
        self.all: Sequence[Observer] = ()
        """Looked up at each call, so that nothing is built when nothing observes."""

    def add(self, observer: Observer) -> None:
        """Idempotent."""
        self.remove(observer)
        self.all = (*self.all, observer)

    def remove(self, observer: Observer) -> None:
        self.all = tuple(other for other in self.all if other is not observer)

    def received(self, readers: Sequence[Reader], deliveries: Sequence[Delivery]) -> None:
        triggers = [(state.name, part) for state, part in readers]
        self._each(lambda it: it.received(deliveries, triggers))

    def decided(self, entries: Sequence[Entry], starts: Iterable[PendingRun]) -> None:
        def contexts() -> Mapping[str, Mapping[str, Any]]:
            started = {outcome.run_id for outcome in outcomes if outcome.kind is OutcomeKind.STARTED}
            return {pending.run_id: pending.context for pending in starts if pending.run_id in started}

        outcomes = DecidedOutcomes(lambda: [outcome for entry in entries for outcome in outcomes_of(entry)], contexts)
        self._each(lambda it: it.decided(outcomes))

    def ended(self, run: Run) -> None:
        self._each(lambda it: it.ended(run))

    def changed(self, sagas: Collection[str]) -> None:
        self._each(lambda it: it.changed(sagas))

    async def caught_up(self) -> None:
        for observer in self.all:
            with self._reporting(observer):
                await observer.caught_up()

    async def close(self) -> None:
        for observer in self.all:
            with self._reporting(observer):
                await observer.close()

    def _each(self, what: Callable[[Observer], None]) -> None:
        for observer in self.all:
            with self._reporting(observer):
                what(observer)

    @contextmanager
    def _reporting(self, observer: Observer) -> Iterator[None]:
        """Reports whatever the observer raises."""
        own_task = OwnTask()
        try:
            yield
        except BaseException as error:
            if own_task.ends_by(error):
                raise
            name = type(observer).__qualname__
            logger.exception("observer %s", name)
            self._report(f"observer:{name}", f"observer {name} failed: {describe(error)}; the Lab continues")
