"""The effects of a stored batch: counters, the tally, starts, listeners."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from sagaz_lab.abc import Refusal
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.acceptance import letters_only
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.hints import report_claimed
from sagaz_lab.runtime.decisions.seen import CAME, TAKEN
from sagaz_lab.runtime.dispatch.departures import Departures
from sagaz_lab.runtime.dispatch.run_queue import RunQueue
from sagaz_lab.runtime.dispatch.window_timers import WindowTimers
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.outcomes import started_entries

_RUNNING = RunStatus.RUNNING
_TAKEN = frozenset((OutcomeKind.DUPLICATE.value, reason) for reason in (TAKEN, CAME))

Follow = Callable[[], Awaitable[None]]
"""Work that may continue while the next batch is decided."""


class Effects:
    """For the decisions of all triggers."""

    def __init__(
        self, life: Lifetime, runner: Runner, queue: RunQueue, windows: WindowTimers, departures: Departures,
        observers: Observers,
    ) -> None:  # fmt: skip
        self._life = life
        self._runner = runner
        self._queue = queue
        self._windows = windows
        self._departures = departures
        self._observers = observers

    async def apply(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> Follow:
        """The batch is stored: count, tally, start. Returns the work that may take longer."""
        state = decided.state
        if refused:
            state.core.commit(decided.batch, refused)
            decided.not_dead(refused, now)
        self._count_reasons(decided)
        if decided.batch.waiting or decided.released:
            self._windows.taken_in(decided, refused)
        runs = [run for run in decided.starts if run.run_id not in refused]
        launched = [run for run in runs if run.status is _RUNNING]
        if launched:
            self._launch(decided, launched, now)
        for run in runs if len(launched) < len(runs) else ():
            if run.status is not _RUNNING:
                self._queue.put(decided, run, now)
        self._observers.tally.keep(decided.entries)
        for run, verdict in decided.withdrawn:
            self._departures.withdrawn(state, run, verdict, now)
        if refused:
            await self._settle_refused(decided, refused, now)
        if self._observers.all:
            self._observers.decided(decided.entries, decided.starts)
        if decided.released:
            self._windows.settle(decided)
        return partial(self._follow, decided, refused, now)

    def _count_reasons(self, decided: Decided) -> None:
        state = decided.state
        for (kind, reason), times in decided.reasons.items():
            state.counters.deciding -= times
            setattr(state.counters, kind, getattr(state.counters, kind) + times)
            state.counters.count_reason(kind, reason, times)
        if not (state.told_claimed or _TAKEN.isdisjoint(decided.reasons)):
            report_claimed(self._life.report, decided, self._life.run_prefix)

    async def _follow(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> None:
        """Writes and calls of listeners after a batch."""
        if decided.letters or decided.dropped or decided.filtered:
            await self._departures.call_listeners(decided)
        for by, run_id in decided.batch.replaced:
            if by not in refused:  # a refused run replaces no other
                replace = partial(self._queue.replace, decided.state, run_id, now)
                await self._life.insist(replace, f"the cancelling of run {run_id}")
                self._queue.release(decided.state)

    def _launch(self, decided: Decided, runs: Sequence[PendingRun], now: float) -> None:
        state = decided.state
        if decided.mixed:
            for run in runs:
                self._runner.launch_many((run,), state.compiled.definition, now, run.origin or decided.origin)
        else:
            self._runner.launch_many(runs, state.compiled.definition, now, decided.origin)
        decided.entries += started_entries(runs, now)
        events = len(runs) + sum([len(run.members) for run in runs])
        state.counters.deciding -= events
        state.counters.started += events

    async def _settle_refused(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> None:
        """Another process took the claim meanwhile, or the store cannot hold the run's values. The latter leaves a dead
        letter, counted once stored; events that would have left their window with the run wait until then.
        """
        entries, letters = len(decided.entries), len(decided.letters)
        decided.reasons = {}
        for id, refusal in refused.items():
            if (run := decided.batch.starts.get(id)) is not None:
                decided.unkeep(run)
                for event, claim in run.claimed():
                    decided.refused(refusal, event, run.key, now, claim)
            elif (waiting := decided.batch.waiting.get(id)) is not None:
                decided.refused(refusal, waiting.event, waiting.key, now, waiting.claim)
        if new := decided.letters[letters:]:
            batch = letters_only(decided.state, new)
            mine = (decided.redriven.get(letter.event.id) for letter in new)
            batch.redriven = [redriven for redriven in mine if redriven is not None]
            unstorable = {id for id, refusal in refused.items() if refusal.error is not None}
            batch.released = [event.id for event, run_id in decided.with_run if run_id in unstorable]
            write = partial(self._life.store.accept, batch)
            await self._life.insist(write, f"a dead letter of {decided.state.name}")
        self._observers.tally.keep(decided.entries[entries:])
        self._count_reasons(decided)
