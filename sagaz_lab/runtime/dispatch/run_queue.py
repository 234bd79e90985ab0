"""The run queue: waiting runs, each started in its turn, and pending retries."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Any

from sagaz_lab.abc import Ending
from sagaz_lab.errors import LeaseLost, StoreError, StoreUnavailable, describe
from sagaz_lab.model.inside import inside
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.decider import Decider
from sagaz_lab.runtime.dispatch.departures import Departures, final_of
from sagaz_lab.runtime.dispatch.exclusive import Exclusive
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.reservation import Left, Verdict
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.lifetime.timers import Timer
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.triggers.outcomes import entries_of
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers

WAITS = "for its turn"

IN_MEMORY = 10_000
"""Queued runs of a trigger that keep event and context in memory; with a durable store, further ones do not."""

STORE_RETRY_S = 1.0
"""Pause before retrying what the store refused to write."""


class RunQueue:
    """Holds runs that may not start yet, and starts them when they may."""

    def __init__(
        self, life: Lifetime, triggers: Triggers, exclusive: Exclusive, runner: Runner, decider: Decider,
        departures: Departures,
    ) -> None:  # fmt: skip
        self._life = life
        self._clock = life.clock
        self._store = life.store
        self._triggers = triggers
        self._exclusive = exclusive
        self._runner = runner
        self._decider = decider
        self._departures = departures
        self._timers: dict[str, Timer] = {}
        self._starts = 0
        self._served: dict[str, int] = {}
        self._retries: dict[str, tuple[PendingRun, Timer]] = {}
        # Runs that leave the queue, and those of them whose place a later run took meanwhile.
        self._leaving: dict[str, tuple[PendingRun, asyncio.Task[Any]]] = {}
        self._unwanted: set[str] = set()
        self._learning: set[str] = set()

    def put(self, decided: Decided, pending: PendingRun, now: float) -> None:
        """The store has a run that is to wait for its turn."""
        state = decided.state
        pending.origin = pending.origin or decided.origin
        self._leave_to_store(state, pending)
        if decided.answered or decided.released:
            decided.finals[pending.event_id] = final_of(pending)
        entries = entries_of("waiting", WAITS, pending, now)
        state.counters.deciding -= len(entries)
        state.counters.waiting += len(entries)
        decided.entries += entries

    def _leave_to_store(self, state: TriggerState, pending: PendingRun) -> None:
        if self._store.traits.survives and state.core.admission.waiting > IN_MEMORY:
            pending.leave_to_store()

    async def replace(self, state: TriggerState, run_id: str, now: float) -> None:
        """A later run supersedes this one: it is cancelled and compensated, or never starts."""
        if (live := self._runner.live.get(run_id)) is not None:
            self._runner.cancel(live)
        elif run_id in self._retries:
            await self._cancel_retry(state, run_id, now)
        elif run_id in self._leaving:
            self._unwanted.add(run_id)
        else:
            await self.cancel(run_id, now)

    async def cancel(self, run_id: str, now: float) -> bool:
        """End a run that waits here for its retry or its turn. False if there is none; it may have begun just now."""
        while (leaving := self._leaving.get(run_id)) is not None and not leaving[1].done():
            await asyncio.wait([leaving[1]])
        if run_id in self._retries:
            state = self._triggers.states[self._retries[run_id][0].trigger or ""]
            await self._cancel_retry(state, run_id, now)
            self.release(state)
            return True
        for state in self._triggers.states.values():
            if (pending := state.core.admission.find(run_id)) is not None:
                await self._cancel_queued(state, pending, now)
                self.release(state)
                return True
        return False

    async def _cancel_retry(self, state: TriggerState, run_id: str, now: float) -> None:
        pending, timer = self._retries.pop(run_id)
        timer.cancel()
        state.retrying -= 1
        try:
            await self._store.end(run_id, Ending(RunStatus.CANCELLED), attempt=pending.attempt - 1, at=now)
        except StoreError:
            self.retry_later(pending, STORE_RETRY_S)
            raise
        state.core.admission.give_up_turn(pending)

    async def _cancel_queued(self, state: TriggerState, pending: PendingRun, now: float) -> None:
        """Its event has its outcome: a run that was cancelled before any action began."""
        first = pending.attempt == 1
        state.core.admission.remove(pending)
        try:
            attempt = 1 if first else pending.attempt - 1
            await self._store.end(pending.run_id, Ending(RunStatus.CANCELLED), attempt=attempt, at=now)
        except StoreError:
            state.core.admission.put_back(pending)
            raise
        if first:
            self._departures.finally_(state, pending, OutcomeKind.STARTED, "", now)

    def close(self) -> None:
        """Waiting runs resume when the Lab opens again."""
        leaving = [pending for pending, _ in self._leaving.values()]
        for state in self._triggers.states.values():
            for pending in (*state.core.admission.queue(), *(it for it in leaving if it.trigger == state.name)):
                if pending.attempt == 1 and not pending.has_outcome:
                    self._departures.put_off(state, pending, WAITS)

    def put_again(self, state: TriggerState, pending: PendingRun) -> None:
        """Queue a run that waited before, here or in another process."""
        admission = state.core.admission
        (admission.put_back if pending.place else admission.wait)(pending)
        self._leave_to_store(state, pending)
        state.counters.received += pending.size
        state.counters.waiting += pending.size
        self.release(state)

    def release(self, state: TriggerState) -> None:
        """Start the runs that may start, unless the trigger is deciding, and set a timer for when the pace opens."""
        if not state.deciding:
            self.release_now(state, self._clock.now())
            state.wake()

    def release_now(self, state: TriggerState, now: float) -> None:
        """`release` at the beginning of a decision."""
        if self._life.closing or self._life.lease.lost is not None:
            return
        if state.compiled.definition.name in self._triggers.barrier.raised:
            return
        if state.has_unknown_cooldowns and state.core.admission.waiting:
            self._learn_cooldowns(state)
            return
        tasks = self._life.tasks
        for leaves in state.core.begins(now):
            pending = leaves.waited if isinstance(leaves, Left) else leaves
            assert isinstance(pending, PendingRun)
            self._starts += 1
            self._served[state.name] = self._starts
            work = self._leave_queue(state, pending, leaves.verdict if isinstance(leaves, Left) else None)
            name, origin = f"{pending.trigger} {pending.run_id}", pending.origin or tasks.home
            task = tasks.start(work, name, origin)
            self._leaving[pending.run_id] = (pending, task)
            anew = pending.revision != state.compiled.definition.revision and not isinstance(leaves, Left)
            if anew and state.compiled.cooldown_s is not None:
                return  # it is decided again, which shows whether the next ones cool down
        opens_at = state.core.admission.opens_at()
        timer = self._timers.get(state.name)
        # An earlier timer may be too late for a faster pace.
        if opens_at is not None and (timer is None or opens_at < timer.at):
            if timer is not None:
                timer.cancel()
            self._timers[state.name] = self._life.timers.call_at(opens_at, partial(self._release, state))

    def _learn_cooldowns(self, state: TriggerState) -> None:
        """Release what waits once they are known."""

        async def learn() -> None:
            try:
                load = partial(self._decider.learn_cooldowns, state, self._clock.now())
                await self._life.insist(load, f"the cooldowns of {state.name}")
            except LeaseLost as error:
                self._life.lease.lose(error)
            except StoreUnavailable:
                return  # the Lab closes
            finally:
                self._learning.discard(state.name)
            self.release(state)

        if state.name not in self._learning:
            self._learning.add(state.name)
            self._life.tasks.start(learn(), f"cooldowns of {state.name}", self._life.tasks.home)

    def _release(self, state: TriggerState) -> None:
        self._timers.pop(state.name, None)
        self.release(state)

    def freed(self, state: TriggerState) -> None:
        """The trigger has no current decision: runs that wait for a slot or their turn may start."""
        slots = self._triggers.slots
        if slots.scarce and slots.used < slots.limit:
            slots.scarce = False
            self._release_all()
        if state.core.admission.waiting:
            self.release(state)
        else:
            state.wake()

    def resume(self, sagas: Collection[str]) -> None:
        """These sagas are no longer blocked."""
        for state in self._triggers.states.values():
            if state.compiled.definition.name in sagas:
                self.release(state)

    def _release_all(self) -> None:
        """A slot is free after the Lab's were exhausted: the trigger with the highest priority goes first."""
        waiting = [state for state in self._triggers.states.values() if state.core.admission.waiting]
        # Of equal priority, the one served longest ago.
        served = {state.name: self._served.pop(state.name, 0) for state in waiting}
        self._served = served
        for state in sorted(waiting, key=lambda it: (-it.compiled.trigger.gates.priority, served[it.name])):
            self.release(state)
        for state in self._triggers.states.values():
            state.wake()

    async def _leave_queue(self, state: TriggerState, pending: PendingRun, cools: Verdict | None) -> None:
        """Begin it, or turn it away if it `cools`. If this is cut short, `close` finds it among those that leave."""
        try:
            if cools is None:
                await self._begin(state, pending)
            else:
                await self._departures.turn_away(state, pending, cools, self._clock.now())
        except StoreError as error:
            if cools is None:
                state.core.ended(pending, keep_turn=True)
            await self._store_failed(pending, error)
            del self._leaving[pending.run_id]
            self._exclusive.when_free(state, partial(state.core.admission.reenter, pending))
        else:
            del self._leaving[pending.run_id]
            self._unwanted.discard(pending.run_id)

    async def _store_failed(self, pending: PendingRun, error: StoreError) -> None:
        """Returns when the run may be tried again."""
        if isinstance(error, LeaseLost):
            self._life.lease.lose(error)  # from now on nothing leaves the queue
            return
        self._life.report("store", f"run {pending.run_id} could not start: {describe(error)}; it stays stored")
        await self._clock.sleep(STORE_RETRY_S)

    async def _begin(self, state: TriggerState, pending: PendingRun) -> None:
        """It is this run's turn: the current revision decides its event. Raises `StoreError`."""
        await self._triggers.barrier.lifted([pending.saga])
        now = self._clock.now()
        definition = self._triggers.code_of(pending.saga)
        if definition is None and pending.attempt > 1:  # it has begun, so it resumes
            definition = state.compiled.definition
        if definition is None:
            await self._wait_for_code(state, pending)
            return
        await self._departures.fetch(pending)
        changed = definition.revision != pending.revision and pending.attempt == 1
        if changed and not state.removed:
            if not await self._decide_again(state, pending):
                self._exclusive.when_free(state, partial(state.core.give_up, pending))
                return
            definition = state.compiled.definition
        pending.revision = definition.revision
        await self._life.finishing.to_the_end(self._start(state, pending, definition, now))

    async def _start(self, state: TriggerState, pending: PendingRun, definition: SagaDefinition, now: float) -> None:
        if pending.history is None:
            await self._store.begin(
                pending.run_id,
                revision=pending.revision,
                attempt=pending.attempt,
                started=definition.plan.roots,
                at=now,
                context=pending.context,
                cooldown=pending.cooldown if pending.attempt == 1 else None,
            )
        if pending.attempt == 1:
            self._departures.finally_(state, pending, OutcomeKind.STARTED, "", now)
        pending.status = RunStatus.RUNNING
        origin = pending.origin or self._life.tasks.home
        self._runner.launch_many([pending], definition, now, origin)
        if state.core.admission.waiting:
            self.release(state)
        if pending.run_id in self._unwanted:
            self._runner.cancel(self._runner.live[pending.run_id])

    async def _wait_for_code(self, state: TriggerState, pending: PendingRun) -> None:
        """For a first attempt: its event is stored and starts its run when the saga is defined again."""
        await self._triggers.wait_for_code(pending.run_id, pending.saga, 0, pending.place)
        self._exclusive.when_free(state, partial(state.core.give_up, pending))
        self._departures.put_off(state, pending, f"for the code of saga {pending.saga!r}")
        self.release(state)

    async def _decide_again(self, state: TriggerState, pending: PendingRun) -> bool:
        """True if the current revision still starts a run for the waiting event. A decision like any other."""
        decision = await self._exclusive.begin([state])
        try:
            now, again = self._clock.now(), Decided(state)
            with inside(self._life.tasks, f"the decision of an event of {state.name}"):
                run = await self._decider.decide_queued(again, pending, now)
            before, pending.revision = pending.revision, state.compiled.definition.revision
        finally:
            self._exclusive.leave(decision)
            self._exclusive.end(decision)
        if run is not None:
            pending.context, pending.flat = run.context, run.flat
            return True
        kind, reason, *_, facts = again.entries[0]
        verdict = Verdict(OutcomeKind(kind), reason, facts)
        try:
            await self._departures.turn_away(state, pending, verdict, now, again.letters)
        except StoreError:
            pending.revision = before  # it is to be decided again
            raise
        return False

    def retry_later(self, pending: PendingRun, delay_s: float) -> None:
        timer = self._life.timers.call_at(self._clock.now() + delay_s, partial(self._retry, pending))
        self._retries[pending.run_id] = (pending, timer)
        self._triggers.states[pending.trigger or ""].retrying += 1

    def _retry(self, pending: PendingRun) -> None:
        del self._retries[pending.run_id]
        state = self._triggers.states[pending.trigger or ""]
        state.retrying -= 1
        self._exclusive.when_free(state, partial(state.core.admission.reenter, pending))
