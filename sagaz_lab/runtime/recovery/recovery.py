"""Recovery of runs left by a process."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from sagaz_lab.abc import Ending, Store, StoredRun
from sagaz_lab.errors import CompensationFailed, RunError, StoreError, UnknownName, Unreadable, describe
from sagaz_lab.model.inside import place_in, waits_for_itself
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import History, Record, Run, RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.model.step import Step, current_step
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.recovery.crashes import DIED, STOPPED, crashes, cut_off, given_up, is_given_up
from sagaz_lab.runtime.recovery.start_report import Found, spoken
from sagaz_lab.runtime.runs.run_view import unknown_run
from sagaz_lab.runtime.triggers.triggers import Triggers

logger = logging.getLogger("sagaz_lab")


class Recovery:
    """Resumes runs from their history: finished actions do not run again."""

    def __init__(self, store: Store, life: Lifetime, triggers: Triggers, dispatcher: Dispatcher) -> None:
        self._store = store
        self._life = life
        self._triggers = triggers
        self._runner = dispatcher.runner
        self._queue = dispatcher.run_queue
        self._close = dispatcher.close
        # Runs being adopted, so that concurrent callers do not both get one.
        self._taking: set[str] = set()
        # Queue places of runs whose code has come back.
        self._places: dict[str, int] = {}
        # Sagas whose newest run was resumed, so that another start does not resume an older one.
        self._newest_taken: set[str] = set()

    async def resume_interrupted(self, which: str = "all") -> Found:
        """Take over runs of dead processes, and those whose code has come back.

        Of the former: all, the newest ("last") of each saga, or none; the others stay as they are.
        """
        found, left = Found(), dict[str, str]()

        def choose(runs: Sequence[tuple[str, str]]) -> Collection[str]:
            newest = {saga: run_id for run_id, saga in runs if saga not in self._newest_taken}
            wanted = {"all": [run_id for run_id, _ in runs], "last": newest.values(), "none": ()}[which]
            left.clear()
            left.update((run_id, saga) for run_id, saga in runs if run_id not in wanted)
            return wanted

        taken = await self._store.interrupted(choose)
        found.left = left
        if which == "last":
            self._newest_taken.update(stored.saga for stored in taken)
        # runs that have a slot or a turn take it before waiting ones proceed
        for stored in sorted([*taken, *await self._with_code_again()], key=_begun_first):
            try:
                await self._go_on(stored, found)
            except StoreError:
                raise
            except Exception as error:  # one run must not block the others
                logger.exception("run %s cannot be resumed", stored.run_id)
                await self._leave_unread(stored, f"it cannot be resumed ({describe(error)})")
        return found

    async def _leave_unread(self, stored: StoredRun, why: str) -> None:
        """Hold the run, so that a person can repair its rows and resume it."""
        # As if the next attempt had been held, since resuming continues from there.
        attempt = max(1, stored.attempt if stored.retry_at is None else stored.attempt + 1)
        ending = Ending(RunStatus.HELD, Unreadable(why))
        await self._store.end(stored.run_id, ending, attempt=attempt, at=self._life.clock.now())
        self._life.report(
            f"unreadable:{stored.run_id}",
            f"run {stored.run_id} of {stored.saga} is held: {why}; repair what is stored and lab.resume_run it, "
            f"or lab.discard it",
        )

    async def _with_code_again(self) -> list[StoredRun]:
        """Runs that this process could not resume and now can."""
        found: list[StoredRun] = []
        store, triggers = self._store, self._triggers
        for saga in (triggers.without_code.keys() & triggers.registry.current.keys()) - triggers.left_out.keys():
            places = triggers.without_code.pop(saga)
            self._places.update(places)
            found += [run for id in places if await store.adopt(id) and (run := await store.load(id))]
        return found

    async def _go_on(
        self, stored: StoredRun, found: Found, from_action: str | None = None, *, foreground: bool = False
    ) -> Run | None:
        """Resume a run that this owner has. None if it waits or has ended."""
        now = self._life.clock.now()
        if stored.damage is not None:
            await self._leave_unread(stored, stored.damage)
            return None
        definition = self._triggers.code_of(stored.saga)
        if definition is None:
            await self._wait_for_code(stored, found)
            return None
        pending = pending_of(stored)
        pending.place = self._places.pop(stored.run_id, 0)
        self._read_keys(pending)
        state = self._triggers.states.get(pending.trigger or "")
        begun = stored.attempt > 0 and pending.status is not RunStatus.WAITING
        if begun or stored.trigger is None:
            pending.revision = definition.revision
            pending.history = await self._history(stored, definition)
            if pending.history is None:
                return None
            if from_action is not None:
                rewind(pending.history, definition, from_action)
            self._count(stored)
            if state is not None:  # last, since a run that is never launched does not return its slot
                state.core.admission.occupy(pending)
            found.resumed[stored.run_id] = stored.saga
            return self._runner.launch(pending, definition, now, foreground=foreground)
        if state is None:
            await self._wait_for_code(stored, found)
            return None
        if stored.retry_at is not None:
            pending.attempt = stored.attempt + 1
            state.core.admission.keep_turn(pending)
            self._queue.retry_later(pending, self._retry_in_s(stored, state.compiled.config, now))
            self._count(stored)
            found.resumed[stored.run_id] = stored.saga
        else:
            self._queue.put_again(state, pending)
            found.waited += 1
        return None

    def _retry_in_s(self, stored: StoredRun, config: TriggerConfig, now: float) -> float:
        """Time until the run's retry, bounded by the config whatever the clock showed when the run failed."""
        left_s = max(0.0, (stored.retry_at or now) - now)
        longest_s = config.longest_retry_delay_s(stored.attempt)
        if left_s > longest_s + 1.0:
            was, text = spoken(left_s), f"retried in {spoken(longest_s)}, as retry_backoff_seconds allows"
            report = self._life.report
            report("clock:retry", f"run {stored.run_id} is {text}, not in {was}: the clock was ahead when it failed")
        return min(left_s, longest_s)

    async def _wait_for_code(self, stored: StoredRun, found: Found) -> None:
        await self._triggers.wait_for_code(stored.run_id, stored.saga, stored.attempt)
        found.needs_code[stored.run_id] = stored.saga

    async def _history(self, stored: StoredRun, definition: SagaDefinition) -> History | None:
        """The state to resume the run from, with the crash recorded. None: the run is given up and has ended."""
        store, now = self._store, self._life.clock.now()
        history = History.of(stored.records, stored.attempt)
        if not store.traits.survives or self._runner.engine.traits.own_retries:
            return history  # it cannot have outlived its process, or the engine counts its crashes
        state = self._triggers.states.get(stored.trigger or "")
        config = (state.compiled.config if state else definition.config) or TriggerConfig()
        ends = []
        for record in cut_off(stored, now, DIED):
            count = crashes(stored, record) + 1
            ends.append(record if count <= max(1, config.max_retries) else given_up(record, count))
        ends.sort(key=lambda record: record.value is None)  # the run's error is its first failure
        if history.compensating and any(record.value for record in ends):
            await self._leave_to_a_person(stored, ends)
            return None
        if ends:
            await store.append(ends)
        again = [name for name in history.failed if is_given_up(stored, name)]
        for record in ends:
            history.add(record)
        if again or any(record.value for record in ends):
            history.compensating = history.permanent = True
        return history

    async def _leave_to_a_person(self, stored: StoredRun, ends: list[Record]) -> None:
        """A compensation kills its process each time: the effect of its action remains."""
        error = CompensationFailed(f"{stored.run_id}: not undone: {ends[0].error}")
        ending = Ending(RunStatus.COMPENSATION_FAILED, error, ends)
        await self._store.end(stored.run_id, ending, attempt=stored.attempt, at=self._life.clock.now())
        self._life.report(f"{stored.saga}:{ending.status}:died", f"run of {stored.saga}: {describe(error)}")

    async def leave(self) -> None:
        """Close the dispatcher, and record that abandoned runs were cut off by a stop, not by a crash."""
        await self._life.take_no_more()
        store, now = self._store, self._life.clock.now()
        left = list(self._runner.live)
        await self._close()
        if not store.traits.survives or self._runner.engine.traits.own_history:
            return  # nothing resumable was cut off
        ends: list[Record] = []
        try:
            for run_id in left:
                stored = await store.load(run_id)
                if stored is not None and stored.status is RunStatus.RUNNING:
                    ends += cut_off(stored, now, STOPPED)
            if ends:
                await store.append(ends)
        except StoreError as error:
            self._life.report("store", f"stopped, but the store does not know what was cut off: {describe(error)}")

    def _read_keys(self, pending: PendingRun) -> None:
        state = self._triggers.states.get(pending.trigger or "")
        if state is None or pending.event is None:
            return
        compiled = state.compiled
        try:
            if compiled.concurrency_key is not None or compiled.pace_key is not None:
                subject = compiled.subject_of(pending.event)
                pending.key = compiled.concurrency_key(subject) if compiled.concurrency_key else None
                pending.pace_key = compiled.pace_key(subject) if compiled.pace_key else None
        except Exception as error:
            self._life.report("key", f"run {pending.run_id} runs without its key: {describe(error)}")

    # --- asked for by name ---

    async def resume(self, run_id: str, from_action: str | None = None, *, foreground: bool = True) -> RunStatus:
        """Resume a held run from the failed action, with the current revision; it is held again if it fails.

        Also resumes a run that was interrupted and left. Returns when it has ended, or at once if it waits for its
        turn.
        """
        await self._await_listeners("resume_run()", run_id)
        with self._alone(run_id):
            stored, definition = await self._known(run_id, from_action)
            if stored.status is RunStatus.HELD:
                pending = await self._adopt(stored, definition)
                pending.history, pending.hold = History.of(stored.records, stored.attempt), True
                if from_action is not None:
                    rewind(pending.history, definition, from_action)
                now = self._life.clock.now()
                run: Run | None = self._runner.launch(pending, definition, now, foreground=foreground)
            elif taken := await self._left(run_id):
                run = await self._go_on(taken, Found(), from_action, foreground=foreground)
            else:
                raise _refusal(stored, "held", "resumed")
        return await self._ended(run_id, run)

    async def compensate(self, run_id: str, *, foreground: bool = True) -> RunStatus:
        """Compensate a run that was held, is partially committed, or was interrupted and left.

        Cancels one that is live, queued or waiting for its retry.
        """
        await self._await_listeners("compensate_run()", run_id)
        if await self._queue.cancel(run_id, self._life.clock.now()):
            return RunStatus.CANCELLED
        if live := self._runner.live.get(run_id):
            self._refuse_own_step(live)
            self._runner.cancel(live)
            status = await self._ended(run_id, live)
            # its attempt may have failed just before and now wait for its retry
            waits = status is RunStatus.WAITING and await self._queue.cancel(run_id, self._life.clock.now())
            return RunStatus.CANCELLED if waits else status
        allowed = (RunStatus.HELD, RunStatus.PARTIALLY_COMMITTED, RunStatus.COMPENSATION_FAILED)
        with self._alone(run_id):
            stored, definition = await self._known(run_id)
            if stored.status in allowed:
                pending = await self._adopt(stored, definition)
                pending.history = History.of(stored.records, stored.attempt)
            elif taken := await self._left(run_id):
                if taken.attempt == 0 or taken.retry_at is not None:  # nothing was done, or all is undone
                    now = self._life.clock.now()
                    attempt = max(1, taken.attempt)  # its event has its outcome with it
                    await self._store.end(run_id, Ending(RunStatus.CANCELLED), attempt=attempt, at=now)
                    return RunStatus.CANCELLED
                history = await self._history(taken, definition)
                if history is None:
                    return await self._ended(run_id, None)
                pending = self._in_its_place(taken, definition)
                pending.history = history
            else:
                raise _refusal(stored, ", ".join(allowed), "compensated")
            pending.compensate_only = True
            run = self._runner.launch(pending, definition, self._life.clock.now(), foreground=foreground)
        return await self._ended(run_id, run)

    async def _await_listeners(self, what: str, run_id: str) -> None:
        """Returns once the listeners have processed the end of the attempt, if it is local and has ended.

        Raises `RunError` if a listener asks, while nothing of the run can be cancelled.
        """
        run = self._runner.begun(run_id)
        if run is not None and (run.status is not RunStatus.RUNNING or run.stopping or not run.begun):
            step = current_step.get(None)
            if step is not None and step.run is run:
                raise waits_for_itself(what, _place(step), "its actions are being undone already")
            place = place_in(self._life.tasks)
            if place is not None and place.about == run_id:
                raise waits_for_itself(what, f"a listener of run {run_id}", "call it when the run has ended")
            if run.status is not RunStatus.RUNNING:
                await self._runner.ended(run)

    def _refuse_own_step(self, run: Run) -> None:
        """A coroutine action is cancelled; a thread or a compensation would wait for its own end."""
        step = current_step.get(None)
        if step is None or step.run is not run:
            return
        roles = (run.definition.actions.get(step.name), run.definition.recoveries.get(step.name))
        if run.stopping or any(role is not None and role.how == "thread" for role in roles):
            raise waits_for_itself(
                "compensate_run()", _place(step), "raise Permanent there, and the run is compensated"
            )

    @contextmanager
    def _alone(self, run_id: str) -> Iterator[None]:
        """Refuses a second concurrent request for the same run."""
        if run_id in self._taking:
            raise RunError(f"run {run_id} is being resumed or compensated already")
        self._taking.add(run_id)
        try:
            yield
        finally:
            self._taking.discard(run_id)

    async def _known(self, run_id: str, action: str | None = None) -> tuple[StoredRun, SagaDefinition]:
        stored = await self._store.load(run_id)
        if stored is None:
            raise unknown_run(self._store, run_id)
        if stored.damage is not None:
            raise Unreadable(f"run {run_id}: {stored.damage}; repair what is stored, or lab.discard the run")
        definition = self._triggers.code_of(stored.saga)
        if definition is None:
            raise RunError(f"run {run_id} needs the code of saga {stored.saga!r}: define it first")
        if action is not None and action not in definition.actions:
            raise UnknownName(f"resume {run_id}", "action", action, definition.actions)
        return stored, definition

    async def _left(self, run_id: str) -> StoredRun | None:
        """The run, now this owner's, if its process is gone and no other has taken it."""
        taken = await self._store.interrupted(lambda runs: [id for id, _ in runs if id == run_id])
        return taken[0] if taken else None

    async def _adopt(self, stored: StoredRun, definition: SagaDefinition) -> PendingRun:
        if not await self._store.adopt(stored.run_id):
            raise RunError(f"run {stored.run_id} belongs to another live process")
        await self._store.begin(
            stored.run_id, revision=definition.revision, attempt=stored.attempt, started=(), at=self._life.clock.now()
        )
        return self._in_its_place(stored, definition)

    def _count(self, stored: StoredRun) -> None:
        if (state := self._triggers.states.get(stored.trigger or "")) is not None:
            here = stored.run_id.startswith(self._life.run_prefix)
            state.counters.resume(stored.status, started_here=here)

    def _in_its_place(self, stored: StoredRun, definition: SagaDefinition) -> PendingRun:
        """Its pending run, with the slot and the turn of a run that has begun."""
        pending = pending_of(stored)
        pending.revision = definition.revision
        self._count(stored)
        self._read_keys(pending)
        state = self._triggers.states.get(pending.trigger or "")
        if state is not None:
            state.core.admission.occupy(pending)
        return pending

    async def _ended(self, run_id: str, run: Run | None) -> RunStatus:
        """The final status of the run's attempt, or the run's current status."""
        if run is not None:
            await self._runner.ended(run)
            return run.status
        stored = await self._store.load(run_id)
        return RunStatus.WAITING if stored is None else stored.status


def _refusal(stored: StoredRun, known: str, verb: str) -> RunError:
    return RunError(f"run {stored.run_id} is {stored.status}; only a run that is {known} can be {verb}")


def _begun_first(stored: StoredRun) -> int:
    """0: begun; 1: waits for its retry; 2: waits for its turn."""
    if stored.status is not RunStatus.WAITING:
        return 0
    return 2 if stored.retry_at is None else 1


def pending_of(stored: StoredRun) -> PendingRun:
    pending = PendingRun(
        stored.run_id, stored.saga, stored.trigger, stored.revision, stored.event, stored.context, stored.started_at
    )
    pending.attempt = max(1, stored.attempt)
    pending.status = stored.status
    return pending


def rewind(history: History, definition: SagaDefinition, action: str) -> None:
    """Forget the results of this action and all that depend on it."""
    again = [action]
    for name in again:
        again += [d for d in definition.plan.dependents[name] if d not in again]
        history.finished.pop(name, None)
        history.failed.pop(name, None)
        history.cut_off.discard(name)


def _place(step: Step) -> str:
    return f"{step.run.definition.name}.{step.name} of run {step.run.run_id}"
