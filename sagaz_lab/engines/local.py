"""The engine that is built in: it executes a run as tasks of this process's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sagaz_lab.abc import Clock, Ending, Journal
from sagaz_lab.engines.attempts import Attempts, Done, failure_record
from sagaz_lab.engines.calls import ActiveStep, Threads, invoke
from sagaz_lab.engines.compensation import compensate
from sagaz_lab.engines.straight import Stopped, straight
from sagaz_lab.engines.streams import Channel
from sagaz_lab.errors import ActionTimeout, Permanent, RunError, UnstorableValue
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import History, Record, RecordKind, Run, RunStatus, as_changes
from sagaz_lab.model.saga import Action

ABANDON_S = 1.0
"""How long an abandoned action may take to end."""


class LocalEngine:
    """Executes runs on the loop; plain `def` actions in worker threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._threads = Threads()

    async def execute(self, run: Run, journal: Journal) -> None:
        definition = run.definition
        finished: dict[str, Any] = {}
        stopped = None
        run.begun = True
        if definition.plan.straight and run.history is None and not definition.hooks and not run.cancelling:
            stopped = await straight(run, journal, self._clock, finished)
            if stopped is None:
                return
        await _Execution(run, journal, self._clock, self._threads, finished).execute(stopped)

    def close(self) -> None:
        self._threads.close()
        self._threads = Threads()


class _Streaming(NamedTuple):
    """A stream has its first record: its readers may start."""

    name: str


class _Failure(NamedTuple):
    name: str
    error: BaseException


class _Execution:
    """One attempt of a run: forward through the plan, and back if that fails."""

    __slots__ = (
        "_attempts",
        "_channels",
        "_clock",
        "_complete",
        "_cut_off",
        "_errors",
        "_failure",
        "_finished",
        "_journal",
        "_notes",
        "_plan",
        "_run",
        "_started",
        "_streaming",
        "_tasks",
        "_threads",
        "_wake",
    )

    def __init__(self, run: Run, journal: Journal, clock: Clock, threads: Threads, finished: dict[str, Any]) -> None:
        self._run = run
        self._journal = journal
        self._clock = clock
        self._threads = threads
        self._plan = run.definition.plan
        self._finished = finished
        self._started: dict[str, int] = dict.fromkeys((*self._plan.roots, *finished), 1)
        self._cut_off: set[str] = set()
        self._errors: dict[str, BaseException] = {}
        self._failure: _Failure | None = None
        self._complete = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._channels: dict[str, Channel] = {}
        self._streaming: set[str] = set()
        self._notes: deque[Done | _Streaming] = deque()
        self._wake: asyncio.Event | None = None
        if history := run.history:
            self._finished.update(history.finished)
            # What has failed before gets another trial.
            self._started = {name: trial + (name in history.failed) for name, trial in history.started.items()}
        self._attempts = Attempts(run, journal, clock, threads, self._started)

    async def execute(self, stopped: Stopped | None) -> None:
        """Go the whole way, or on from where the straight way has stopped."""
        run, history = self._run, self._run.history
        records: list[Record] = []
        try:
            if history is not None and (history.compensating or run.compensate_only or run.cancelling):
                self._recall(history)
            elif run.cancelling and stopped is None:
                self._errors = dict.fromkeys(self._started, asyncio.CancelledError("it never began"))
                records = await self._wind_down()
            elif await self._forward(stopped):
                return
            else:
                records = await self._stop()
            await self._end_badly(records)
        except BaseException:
            await self._abandon()
            raise

    # --- forward ---

    async def _forward(self, stopped: Stopped | None) -> bool:
        """True when the run has completed, False when an action has failed for good or the run was cancelled."""
        try:
            return await self._advance(self._ready(self._plan.order) if stopped is None else await self._after(stopped))
        except asyncio.CancelledError:
            if not self._run.cancelling:
                raise
            _uncancel()
            return False

    async def _after(self, stopped: Stopped) -> list[str]:
        name = stopped.step.name
        if stopped.unstorable is not None:
            await self._find_unstorable(stopped.unstorable)
            return []
        self._started[name] = stopped.step.trial
        return await self._settle([await self._attempts.perform(name, stopped.step, stopped.error)])

    async def _advance(self, starting: list[str]) -> bool:
        if self._failure is not None:
            return False
        if not starting:
            if not self._complete:
                await self._journal.end(Ending(RunStatus.COMPLETED))
            return True
        failed = self._run.history.failed if self._run.history else ()
        if unknown := [name for name in starting if name not in self._started or name in failed]:
            await self._journal.append([self._record(RecordKind.ACTION_STARTED, name) for name in unknown])
        actions = self._run.definition.actions
        while True:
            if len(starting) == 1 and not self._tasks and actions[starting[0]].how != "stream":
                # Alone, an action needs no task of its own.
                notes: list[Done | _Streaming] = [await self._attempts.perform(starting[0], self._step(starting[0]))]
            else:
                for name in starting:
                    self._spawn(name)
                notes = await self._next_notes()
            starting = await self._settle(notes)
            if self._failure is not None or self._run.cancelling:
                return False
            if not starting and not self._tasks:
                return True

    def _ready(self, names: Iterable[str]) -> list[str]:
        """Those that are not under way and whose dependencies are done, or stream already."""
        actions, finished, streaming = self._run.definition.actions, self._finished, self._streaming
        return [
            name
            for name in names
            if name not in finished
            and name not in streaming
            and name not in self._tasks
            and all(needed in finished or needed in streaming for needed in actions[name].depends_on)
        ]

    def _step(self, name: str) -> ActiveStep:
        run = self._run
        step = ActiveStep.of(run, name, self._started.setdefault(name, 1))
        if self._channels:
            needed = run.definition.actions[name].depends_on
            step.channels = {one: self._channels[one] for one in needed if one in self._channels}
        run.steps[name] = step
        return step

    def _spawn(self, name: str) -> None:
        if self._wake is None:
            self._wake = asyncio.Event()
        step = self._step(name)
        if self._run.definition.actions[name].how == "stream":
            actions = self._run.definition.actions
            channel = self._channels[name] = Channel(name, {d: needs(actions, d) for d in self._plan.dependents[name]})
            work = self._attempts.produce(name, step, channel, lambda: self._note(_Streaming(name)))
        else:
            work = self._attempts.perform(name, step)
        self._tasks[name] = asyncio.create_task(self._in_task(name, step, work), name=f"{self._run.run_id}/{name}")

    async def _in_task(self, name: str, step: ActiveStep, work: Any) -> None:
        done = Done(name, None, None)
        try:
            done = await work
        except BaseException as error:
            done = Done(name, None, error)
        finally:
            self._note(done)
            for channel in (step.channels or {}).values():
                await channel.leave(name)

    def _note(self, note: Done | _Streaming) -> None:
        self._notes.append(note)
        if self._wake is not None:
            self._wake.set()

    async def _next_notes(self) -> list[Done | _Streaming]:
        assert self._wake is not None
        while not self._notes:
            self._wake.clear()
            await self._wake.wait()
        notes = list(self._notes)
        self._notes.clear()
        return notes

    async def _settle(self, notes: list[Done | _Streaming]) -> list[str]:
        """Take note of what has happened; returns the actions to start now."""
        finished: list[Done] = []
        touched: list[str] = []
        for note in notes:
            if isinstance(note, _Streaming):
                self._streaming.add(note.name)
                touched.append(note.name)
                continue
            self._tasks.pop(note.name, None)
            done = note if note.error is None else await self._recover(note, note.error)
            if done.error is None:
                finished.append(done)
            else:
                self._fail(done.name, done.error)
        touched += [done.name for done in finished]
        return await self._keep(finished, touched)

    async def _keep(self, finished: list[Done], touched: list[str]) -> list[str]:
        actions, dependents = self._run.definition.actions, self._plan.dependents
        records = [record for done in finished for record in self._finish(done)]
        starting: list[str] = []
        forward = self._failure is None and not self._run.cancelling
        if forward:
            near = dict.fromkeys(d for name in touched for d in dependents[name])
            starting = self._ready(near)
            records += [self._record(RecordKind.ACTION_STARTED, name) for name in starting]
        self._complete = forward and len(self._finished) == len(actions)
        try:
            if self._complete:
                await self._journal.end(Ending(RunStatus.COMPLETED, None, records))
            elif records:
                await self._journal.append(records)
        except UnstorableValue:
            self._complete = False
            await self._find_unstorable(records)
            return []
        if hooks := self._run.definition.hooks.get("on_step_success"):
            for done in finished:
                await tell(hooks, self._run.definition.name, done.name, self._run.ctx, done.value)
        return starting

    def _finish(self, done: Done) -> list[Record]:
        """The records of a finished action. A stream is finished when its readers are: then it need not run again."""
        run = self._run
        run.steps.pop(done.name, None)
        actions = run.definition.actions
        if actions[done.name].how == "stream":
            self._streaming.add(done.name)
            ended = [done.name] if self._readers_done(done.name) else []
        else:
            self._finished[done.name] = done.value
            dict.update(run.ctx, as_changes(done.name, done.value))
            ended = [one for one in actions[done.name].depends_on if self._streamed(one) and self._readers_done(one)]
        records = []
        if actions[done.name].how != "stream":
            records.append(self._record(RecordKind.ACTION_FINISHED, done.name, done.value))
        for name in ended:
            self._finished[name] = None
            records.append(self._record(RecordKind.ACTION_FINISHED, name))
        return records

    def _streamed(self, name: str) -> bool:
        return name in self._streaming and name not in self._tasks and name not in self._finished

    def _readers_done(self, name: str) -> bool:
        return all(reader in self._finished for reader in self._plan.dependents[name])

    async def _find_unstorable(self, records: list[Record]) -> None:
        for record in records:
            if record.kind is RecordKind.ACTION_FINISHED:
                try:
                    await self._journal.append([record])
                except UnstorableValue as error:
                    self._finished.pop(record.action, None)
                    self._cut_off.add(record.action)
                    self._fail(record.action, error)

    def _record(self, kind: RecordKind, name: str, value: Any = None) -> Record:
        run = self._run
        changes = codec = None
        if kind is RecordKind.ACTION_FINISHED:
            changes = run.ctx.take_changes()
            codec = run.definition.actions[name].codec
        trial = self._started.setdefault(name, 1)
        return Record(run.run_id, run.attempt, kind, name, trial, self._clock.now(), value, changes, codec=codec)

    # --- failure ---

    def _fail(self, name: str, error: BaseException) -> None:
        self._errors[name] = error
        self._failure = self._failure or _Failure(name, error)
        if isinstance(error, ActionTimeout):
            self._cut_off.add(name)

    def _past_pivot(self) -> bool:
        actions = self._run.definition.actions
        return any(actions[name].pivot for name in self._finished)

    async def _recover(self, failed: Done, error: BaseException) -> Done:
        """The action's end, after what forward recovery has made of its failure if that is past the pivot."""
        run, name = self._run, failed.name
        recovery = run.definition.recoveries.get(name)
        while recovery and self._past_pivot() and not isinstance(error, asyncio.CancelledError):
            step = ActiveStep.of(run, name, self._started[name], "/recovery")
            function = getattr(run.instance, recovery.method_name)
            try:
                answer = await invoke(recovery.how, function, (run.ctx, error), step, None, self._threads)
                if answer not in ("retry", "skip", None):
                    raise RunError(f"forward recovery of {name!r} returned {answer!r}, not 'retry', 'skip' or None")
            except Exception as broken:
                broken.__cause__ = error
                return Done(name, None, broken)
            if answer is None:
                break
            if answer == "skip":
                return Done(name, None, None)
            await self._journal.append([failure_record(run, self._clock, name, self._started[name], error)])
            self._started[name] += 1
            await self._journal.append([self._record(RecordKind.ACTION_STARTED, name)])
            done = await self._attempts.perform(name, self._step(name))
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
            _uncancel()  # past the pivot what runs may finish, unless the run is cancelled meanwhile
            return await self._wind_down()

    async def _wind_down(self) -> list[Record]:
        """Stop what still runs (after a pivot: let it finish); returns the records of all that came of it."""
        run = self._run
        if run.cancelling or not self._past_pivot():
            run.stopping = True
            for name, task in self._tasks.items():
                if not task.done():
                    run.steps[name].stop()
                    task.cancel()
        while self._tasks:
            for note in await self._next_notes():
                if isinstance(note, Done):
                    self._tasks.pop(note.name, None)
                    self._take(note)
        for name in run.steps:
            if name not in self._finished and name not in self._errors:
                self._cut_off.add(name)
        run.stopping = True
        for name in [name for name in run.steps if name in self._finished]:
            await self._keep_late(name)
        run.steps.clear()
        return [self._failed_record(name) for name in sorted({*self._cut_off, *self._errors})]

    async def _keep_late(self, name: str) -> None:
        """It finished while the run was being stopped. That its value cannot be stored does not matter any more."""
        try:
            await self._journal.append([self._record(RecordKind.ACTION_FINISHED, name, self._finished[name])])
        except UnstorableValue:
            await self._journal.append([self._record(RecordKind.ACTION_FINISHED, name)])

    def _take(self, done: Done) -> None:
        """An action ended while the run was being stopped: what it did is to be undone all the same."""
        if done.error is None:
            self._finished[done.name] = done.value
            dict.update(self._run.ctx, as_changes(done.name, done.value))
        elif self._run.steps[done.name].told:
            self._cut_off.add(done.name)
        else:
            self._fail(done.name, done.error)

    def _failed_record(self, name: str) -> Record:
        error = self._errors.get(name) or asyncio.CancelledError("cut off")
        trial = self._started.get(name, 1)
        return failure_record(self._run, self._clock, name, trial, error, cut_off=name in self._cut_off)

    def _recall(self, history: History) -> None:
        """The state that a run had when its compensation was to begin."""
        self._cut_off = {n for n in history.started if n not in history.finished and n not in history.failed}
        self._cut_off |= history.cut_off
        for name, text in history.failed.items():
            kind = Permanent if history.permanent else RunError
            self._failure = self._failure or _Failure(name, kind(text))

    async def _end_badly(self, records: list[Record]) -> None:
        run, failure = self._run, self._failure
        error = failure.error if failure else None
        if failure is not None and (hooks := run.definition.hooks.get("on_step_failure")):
            await tell(hooks, run.definition.name, failure.name, run.ctx, failure.error)
        if not run.cancelling and not run.compensate_only:
            if self._past_pivot():
                await self._journal.end(Ending(RunStatus.PARTIALLY_COMMITTED, error, records))
                return
            if run.definition.on_failure == "hold":
                await self._journal.end(Ending(RunStatus.HELD, error, records))
                return
        undo = self._cut_off.union(self._finished, self._streaming - self._errors.keys())
        await compensate(run, self._journal, self._clock, self._threads, undo, self._finished, records, error)

    async def _abandon(self) -> None:
        """Leave everything as it stands. A thread goes on, but learns from `ctx.cancelled` that it should not."""
        for step in self._run.steps.values():
            step.cancelled = True
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=ABANDON_S)


def needs(actions: Mapping[str, Action], name: str) -> set[str]:
    """The actions that this one depends on, directly or not."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = [needed for needed in actions[waiting.pop()].depends_on if needed not in found]
        found.update(new)
        waiting += new
    return found


def _uncancel() -> None:
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
