"""What follows once the store has a batch: it is counted, remembered, started and told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sagaz_lab.abc import DeadLetter, Refusal
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.acceptance import letters_only
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.hints import tell_claimed
from sagaz_lab.runtime.decisions.seen import CAME, TAKEN
from sagaz_lab.runtime.dispatch.insisting import insist
from sagaz_lab.runtime.gates.core import QUEUE_FULL
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.triggers.compiled import TriggerState
from sagaz_lab.runtime.triggers.outcomes import started_entries

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher

_RUNNING = RunStatus.RUNNING
_TAKEN = frozenset((OutcomeKind.DUPLICATE.value, reason) for reason in (TAKEN, CAME))

Follow = Callable[[], Awaitable[None]]
"""What may take its time, when the next batch may be decided already."""


class Effects:
    """Of the decisions of all triggers."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def apply(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> Follow:
        """The store has taken the batch: count, remember, start. Returns what follows, which may take its time."""
        state = decided.state
        if refused:
            state.core.commit(decided.batch, refused)
            decided.not_dead(refused, now)
        self._dispatcher.tally.keep(decided.entries)
        self._count_reasons(decided)
        if decided.batch.waiting or decided.released:
            self._dispatcher.window_timers.taken_in(decided, refused)
        runs = [run for run in decided.starts if run.run_id not in refused]
        launched = [run for run in runs if run.status is _RUNNING]
        if launched:
            self._launch(decided, launched, now)
        for run in runs if len(launched) < len(runs) else ():
            if run.status is not _RUNNING:
                self._dispatcher.run_queue.put(decided, run, now)
        for run, verdict in decided.withdrawn:
            self._dispatcher.run_queue.withdrawn(state, run, verdict, now)
        if refused:
            await self._settle_refused(decided, refused, now)
        if self._dispatcher.observers.all:
            self._dispatcher.observers.decided(decided.entries, decided.starts)
        if decided.released:
            self._dispatcher.window_timers.settle(decided)
        return partial(self._follow, decided, refused, now)

    def _count_reasons(self, decided: Decided) -> None:
        state = decided.state
        for (kind, reason), times in decided.reasons.items():
            state.counters.deciding -= times
            setattr(state.counters, kind, getattr(state.counters, kind) + times)
            state.counters.count_reason(kind, reason, times)
        if not (state.told_claimed or _TAKEN.isdisjoint(decided.reasons)):
            tell_claimed(self._dispatcher.report, decided, self._dispatcher.run_prefix)

    async def _follow(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> None:
        """What is written and told after a batch."""
        if decided.letters or decided.dropped or decided.filtered:
            await self._tell_refused(decided)
        for by, run_id in decided.batch.replaced:
            if by not in refused:  # who did not get in takes nobody's place
                replace = partial(self._dispatcher.run_queue.replace, decided.state, run_id, now)
                await insist(self._dispatcher, replace, f"the cancelling of run {run_id}")
                self._dispatcher.run_queue.release(decided.state)

    def _launch(self, decided: Decided, runs: Sequence[PendingRun], now: float) -> None:
        state = decided.state
        self._dispatcher.runner.launch_many(runs, state.compiled.definition, now, decided.origin)
        entries = started_entries(runs, now)
        decided.entries += entries
        self._dispatcher.tally.keep(entries)
        events = len(runs) + sum([len(run.members) for run in runs])
        state.counters.deciding -= events
        state.counters.started += events

    async def _tell_refused(self, decided: Decided) -> None:
        definition = decided.state.compiled.definition
        await self.tell_dead(decided.state, decided.letters)
        for event in decided.dropped:
            await tell(definition.hooks.get("on_trigger_dropped", ()), definition.name, event, QUEUE_FULL)
        for event, reason in decided.filtered:
            await tell(definition.hooks["on_trigger_filtered"], definition.name, event, reason)

    async def tell_dead(self, state: TriggerState, letters: Sequence[DeadLetter]) -> None:
        """These have been stored: tell those who watch and listen."""
        if letters and state.compiled.config.dead_letter_topic is not None:
            self._dispatcher.runner.published()
        for letter in letters:
            self._dispatcher.letters.note(letter, letter.at)
            hooks = state.compiled.definition.hooks.get("on_trigger_dead", ())
            await tell(hooks, letter.saga, letter.event, letter.error)

    def report_dead(self, letters: Sequence[DeadLetter]) -> None:
        """Of events whose outcome nobody waits for."""
        for letter in letters:
            self._dispatcher.report(
                f"dead:{letter.trigger}:{letter.cause}",
                f"{letter.trigger}: event {letter.event.id} is dead: {letter.error}",
            )

    async def _settle_refused(self, decided: Decided, refused: Mapping[str, Refusal], now: float) -> None:
        """Another process took the claim meanwhile, or the store cannot keep its values: then it leaves a letter, which
        is counted when it is stored, and what was to leave its window with it waits until then."""
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
            await insist(
                self._dispatcher,
                partial(self._dispatcher.store.accept, batch),
                f"a dead letter of {decided.state.name}",
            )
        self._dispatcher.tally.keep(decided.entries[entries:])
        self._count_reasons(decided)
