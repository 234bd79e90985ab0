"""One attempt of a run: forward through the plan, and back if that fails."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from sagaz_lab.abc import Attempt, Clock, Ending
from sagaz_lab.engines.local.calls import ActiveStep, invoke
from sagaz_lab.engines.local.compensation import compensate
from sagaz_lab.engines.local.linear import Stopped
from sagaz_lab.engines.local.progress import Progress
from sagaz_lab.engines.local.streams import Channel
from sagaz_lab.engines.local.threads import Threads
from sagaz_lab.engines.local.trials import Done, Trials, failure_record, own_error
from sagaz_lab.errors import RunError, UnstorableValue
from sagaz_lab.model.awaiting import waited
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Record, RecordKind, RunStatus
from sagaz_lab.model.saga import Action
from sagaz_lab.model.stopping import loop_ends, uncancel

ABANDON_S = 1.0
"""How long an abandoned action may take to end."""


class Streaming(NamedTuple):
    """A stream has its first record, so its readers may start."""

    name: str


class Execution:
    """One attempt of a run: forward through the plan, and back if that fails."""

    __slots__ = (
        "_channels",
        "_clock",
        "_complete",
        "_notes",
        "_progress",
        "_run",
        "_tasks",
        "_threads",
        "_trials",
        "_wake",
    )  # fmt: skip

    def __init__(self, run: Attempt, clock: Clock, threads: Threads, finished: dict[str, Any]) -> None:
        self._run = run
        self._clock = clock
        self._threads = threads
        self._progress = Progress(run, clock, finished)
        self._trials = Trials(run, clock, threads, self._progress.trials)
        self._complete = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._channels: dict[str, Channel] = {}
        self._notes: deque[Done | Streaming] = deque()
        self._wake: asyncio.Event | None = None

    async def execute(self, stopped: Stopped | None) -> None:
        """Execute all of it, or continue where the linear path stopped."""
        run, history, progress = self._run, self._run.history, self._progress
        records: list[Record] = []
        try:
            if history is not None and (history.compensating or run.compensate_only or run.cancelling):
                progress.recall(history)
            elif run.cancelling and stopped is None:
                progress.errors = dict.fromkeys(progress.trials, asyncio.CancelledError("it never began"))
                records = await self._wind_down()
            elif await self._forward(stopped):
                return
            else:
                records = await self._stop()
            await self._end_badly(records)
        except BaseException:
            if not run.gone:
                await self._abandon()
            raise

    # --- forward ---

    async def _forward(self, stopped: Stopped | None) -> bool:
        """True if the run completed, False if an action failed for good or the run was cancelled."""
        try:
            if stopped is None:
                starting = self._progress.ready(self._run.definition.plan.order, ())
            else:
                starting = await self._after(stopped)
            return await self._advance(starting)
        except asyncio.CancelledError as error:
            if not self._run.cancelling:
                if self._run.abandoned or loop_ends():
                    raise
                self._cancelled_itself(error)
            await uncancel()
            return False

    def _cancelled_itself(self, error: asyncio.CancelledError) -> None:
        """The last action requested the cancellation of the run's task and ended before it took effect."""
        name = next(reversed(self._progress.trials))
        failure = RunError(f"action {name!r} cancelled its own task")
        failure.__cause__ = error
        self._progress.fail(name, failure)

    async def _after(self, stopped: Stopped) -> list[str]:
        name = stopped.step.name
        if stopped.unstorable is not None:
            await self._find_unstorable(stopped.unstorable)
            return []
        self._progress.trials[name] = stopped.step.trial
        if name in self._progress.finished:  # it succeeded although the run was being stopped
            self._progress.published[name] = stopped.step.end_trial()
            assert stopped.error is not None
            self._notes.append(Done(name, None, await own_error(stopped.error, name, stopped.step)))
        else:
            self._notes.append(await self._trials.perform(name, stopped.step, stopped.error))
        return await self._settle()

    async def _advance(self, starting: list[str]) -> bool:
        progress, actions = self._progress, self._run.definition.actions
        if progress.failure is not None:
            return False
        if not starting:
            if not self._complete:
                await waited(self._run.end(Ending(RunStatus.COMPLETED)))
            return True
        failed = self._run.history.failed if self._run.history else ()
        if unknown := [name for name in starting if name not in progress.trials or name in failed]:
            await waited(self._run.append([progress.record(RecordKind.ACTION_STARTED, name) for name in unknown]))
        while True:
            if len(starting) == 1 and not self._tasks and actions[starting[0]].how != "stream":
                # A single action needs no separate task.
                self._notes.append(await self._trials.perform(starting[0], self._step(starting[0])))
            else:
                for name in starting:
                    self._spawn(name)
                await self._noted()
            starting = await self._settle()
            if progress.failure is not None or self._run.cancelling:
                return False
            if not starting and not self._tasks:
                return True

    def _step(self, name: str) -> ActiveStep:
        run = self._run
        step = ActiveStep(run, name, self._progress.trials.setdefault(name, 1))
        if self._channels:
            needed = run.definition.actions[name].depends_on
            step.channels = {one: self._channels[one] for one in needed if one in self._channels}
        run.steps[name] = step
        return step

    def _spawn(self, name: str) -> None:
        if self._wake is None:
            self._wake = asyncio.Event()
        step = self._step(name)
        definition = self._run.definition
        if definition.actions[name].how == "stream":
            readers = {reader: needs(definition.actions, reader) for reader in definition.plan.dependents[name]}
            channel = self._channels[name] = Channel(name, readers)
            work = self._trials.produce(name, step, channel, lambda: self._note(Streaming(name)))
        else:
            work = self._trials.perform(name, step)
        self._tasks[name] = asyncio.create_task(self._in_task(name, step, work), name=f"{self._run.run_id}/{name}")

    async def _in_task(self, name: str, step: ActiveStep, work: Any) -> None:
        done = Done(name, None, None)
        try:
            done = await work
        except BaseException as error:
            if self._run.gone:
                raise
            done = Done(name, None, error)
        self._note(done)
        for channel in (step.channels or {}).values():
            await channel.leave(name)

    def _note(self, note: Done | Streaming) -> None:
        self._notes.append(note)
        if self._wake is not None:
            self._wake.set()

    async def _noted(self) -> None:
        """Wait for the next change."""
        assert self._wake is not None
        while not self._notes:
            self._wake.clear()
            await self._wake.wait()

    async def _settle(self) -> list[str]:
        """Process all changes; returns the actions to start now."""
        finished: list[Done] = []
        streaming: list[str] = []
        while self._notes:
            note = self._notes.popleft()
            if isinstance(note, Streaming):
                self._progress.streaming.add(note.name)
                streaming.append(note.name)
                continue
            self._tasks.pop(note.name, None)
            done = note if note.error is None else await self._recover(note, note.error)
            if done.error is None:
                finished.append(done)
            else:
                self._progress.fail(done.name, done.error)
        return await self._keep(finished, streaming)

    async def _keep(self, finished: list[Done], streaming: list[str]) -> list[str]:
        run, progress = self._run, self._progress
        records: list[Record] = []
        for done in finished:
            run.steps.pop(done.name, None)
            records += progress.finish(done, self._tasks)
        starting: list[str] = []
        forward = progress.failure is None and not run.cancelling
        if forward:
            touched = [*streaming, *(done.name for done in finished)]
            near = dict.fromkeys(d for name in touched for d in run.definition.plan.dependents[name])
            starting = progress.ready(near, self._tasks)
            records = progress.with_starts(records, starting)
        self._complete = forward and progress.all_done()
        try:
            if self._complete:
                await waited(self._run.end(Ending(RunStatus.COMPLETED, None, records)))
            elif records:
                await waited(self._run.append(records))
        except UnstorableValue:
            self._complete = False
            await self._find_unstorable(records)
            return []
        if hooks := run.definition.hooks.get("on_step_success"):
            for done in finished:
                await tell(hooks, run.definition.name, done.name, run.ctx, done.value)
        return starting

    async def _find_unstorable(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.kind == RecordKind.ACTION_FINISHED:
                try:
                    await waited(self._run.append([replace(record, then=())]))
                except UnstorableValue as error:
                    self._progress.unstorable(record.action, error)

    # --- failure ---

    async def _recover(self, failed: Done, error: BaseException) -> Done:
        """The action's end; after the pivot, forward recovery may change a failure."""
        run, name, progress = self._run, failed.name, self._progress
        recovery = run.definition.recoveries.get(name)
        while recovery and progress.past_pivot() and not isinstance(error, asyncio.CancelledError):
            if (tried := run.steps.get(name)) is not None and tried.before is not None:
                tried.before.restore(run.ctx)
            step = ActiveStep(run, name, progress.trials[name], "/recovery")
            step.publications = ()  # there is no record to store them with
            function = getattr(run.instance, recovery.method_name)
            await waited(self._run.ready())
            try:
                answer = await invoke(recovery.how, function, (run.ctx, error), step, None, self._threads)
                if answer not in ("retry", "skip", None):
                    raise RunError(f"forward recovery of {name!r} returned {answer!r}, not 'retry', 'skip' or None")
            except BaseException as raised:
                broken = await own_error(raised, name, step)
                broken.__cause__ = error
                return Done(name, None, broken)
            if answer is None:
                break
            if answer == "skip":
                return Done(name, None, None)
            await waited(self._run.append([failure_record(run, self._clock, name, progress.trials[name], error)]))
            await self._clock.sleep(run.definition.actions[name].retry_delay_s(progress.trials[name]))
            progress.trials[name] += 1
            await waited(self._run.append([progress.record(RecordKind.ACTION_STARTED, name)]))
            done = await self._trials.perform(name, self._step(name))
            if done.error is None:
                return done
            error = done.error
        return Done(name, None, error)

    async def _stop(self) -> list[Record]:
        try:
            return await self._wind_down()
        except asyncio.CancelledError:
            if self._run.stopping or not self._run.cancelling:
                raise
            await uncancel()  # after the pivot live actions may finish, unless the run is cancelled
            return await self._wind_down()

    async def _wind_down(self) -> list[Record]:
        """Stop live actions (after a pivot let them finish); returns their records."""
        run, progress = self._run, self._progress
        if run.cancelling or not progress.past_pivot():
            run.stopping = True
            for name, task in self._tasks.items():
                if not task.done():
                    run.steps[name].stop()
                    task.cancel()
        while self._tasks:
            await self._noted()
            note = self._notes.popleft()
            if isinstance(note, Done) and note.name in self._tasks:
                del self._tasks[note.name]
                self._take(note)
        run.stopping = True
        for name in list(run.steps):
            if name in progress.finished:
                await self._keep_late(name)
            elif name not in progress.errors:
                progress.cut_off.add(name)
        run.steps.clear()
        progress.cut_off_streams()
        return progress.failures()

    def _take(self, done: Done) -> None:
        """An action ended while the run was being stopped: it is undone all the same."""
        if done.error is None:
            self._progress.take_value(done)
        elif self._run.steps[done.name].stop_requested:
            self._progress.cut_off.add(done.name)
        else:
            self._progress.fail(done.name, done.error)

    async def _keep_late(self, name: str) -> None:
        """Journal an action that finished while the run was being stopped; an unstorable result no longer matters."""
        progress = self._progress
        try:
            await waited(self._run.append([progress.record(RecordKind.ACTION_FINISHED, name, progress.finished[name])]))
        except UnstorableValue:
            await waited(self._run.append([progress.record(RecordKind.ACTION_FINISHED, name)]))

    async def _end_badly(self, records: list[Record]) -> None:
        run, progress = self._run, self._progress
        failure = progress.failure
        error = failure.error if failure else None
        if failure is not None and (hooks := run.definition.hooks.get("on_step_failure")):
            await tell(hooks, run.definition.name, failure.name, run.ctx, failure.error)
        if not run.cancelling and not run.compensate_only:
            if progress.past_pivot():
                await waited(self._run.end(Ending(RunStatus.PARTIALLY_COMMITTED, error, records)))
                return
            if run.hold or run.definition.on_failure == "hold":
                await waited(self._run.end(Ending(RunStatus.HELD, error, records)))
                return
        run.stopping = True
        undo = progress.to_undo()
        await compensate(run, self._clock, self._threads, undo, progress.finished, records, error)

    async def _abandon(self) -> None:
        """Leave everything in its current state. Threads continue, with `ctx.cancelled` set."""
        self._run.abandoned = True
        for step in self._run.steps.values():
            step.cancelled = True
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=ABANDON_S)


def needs(actions: Mapping[str, Action], name: str) -> set[str]:
    """All direct and indirect dependencies of the action."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = [needed for needed in actions[waiting.pop()].depends_on if needed not in found]
        found.update(new)
        waiting += new
    return found
