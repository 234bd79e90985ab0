"""Performs an action until it succeeds or fails for good."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sagaz_lab.abc import Attempt, Clock
from sagaz_lab.engines.local.calls import ActiveStep, invoke
from sagaz_lab.engines.local.context_before import ContextBefore
from sagaz_lab.engines.local.streams import Channel
from sagaz_lab.engines.local.threads import Threads
from sagaz_lab.errors import ActionTimeout, RunError, describe, is_permanent
from sagaz_lab.model.awaiting import awaited, waited
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Publication, Record, RecordKind, Run
from sagaz_lab.model.saga import Action
from sagaz_lab.model.stopping import loop_ends, uncancel
from sagaz_lab.texts import masked

TRACEBACK_CHARACTERS = 20_000
"""Journaled characters of a traceback: the last ones, which are the most useful."""


class Done(NamedTuple):
    """The end of an action: its value and publications, or its error after all retries."""

    name: str
    value: Any
    error: BaseException | None
    publications: Sequence[Publication] = ()


class Trials:
    """Performs the actions of one attempt. `trials` maps each action to its last trial."""

    __slots__ = ("_clock", "_run", "_threads", "_trials")

    def __init__(self, run: Attempt, clock: Clock, threads: Threads, trials: dict[str, int]) -> None:
        self._run = run
        self._clock = clock
        self._threads = threads
        self._trials = trials

    async def perform(self, name: str, step: ActiveStep, failed: BaseException | None = None) -> Done:
        """Try until it succeeds or fails for good; `failed` is the error of a first trial already made.

        Raises `CancelledError` when the run is stopped, and the journal's errors.
        """
        run = self._run
        action = run.definition.actions[name]
        function = getattr(run.instance, action.method_name)
        if failed is None and (hooks := run.definition.hooks.get("on_step_enter")):
            await tell(hooks, run.definition.name, name, run.ctx)
        # A trial beyond the limit means that a held run was resumed: its retries start over.
        first = step.trial if step.trial > action.max_retries + 1 else 1
        if step.before is None and is_retryable(run, action):
            step.before = ContextBefore(run.ctx)
        while True:
            if failed is None:
                await waited(self._run.ready())
            try:
                if failed is not None:
                    raise failed
                value = await invoke(action.how, function, (run.ctx,), step, action.timeout_s, self._threads)
                return Done(name, value, None, step.end_trial())
            except BaseException as raised:
                error, failed = await own_error(raised, name, step), None
            step.end_trial()
            spent = step.trial >= first + action.max_retries
            if spent or step.stop_requested or step.reading or is_permanent(error):
                return Done(name, None, error)
            await waited(self._run.append([failure_record(run, self._clock, name, step.trial, error)]))
            await self._clock.sleep(action.retry_delay_s(step.trial - first + 1))
            step.trial += 1
            self._trials[name] = step.trial
            if step.before is not None:
                step.before.restore(run.ctx)
            step.cancelled, step.publications = False, None
            started = Record(run.run_id, run.attempt, RecordKind.ACTION_STARTED, name, step.trial, self._clock.now())
            await waited(self._run.append([started]))

    async def produce(self, name: str, step: ActiveStep, channel: Channel, first_record: Callable[[], None]) -> Done:
        """Run an async generator into its channel; `first_record` is called once."""
        run = self._run
        action = run.definition.actions[name]
        records = getattr(run.instance, action.method_name)(run.ctx)

        async def pump() -> None:
            waiting = True
            async for record in records:
                if step.stop_requested:  # it swallowed the cancellation
                    return
                if waiting:
                    waiting = False
                    first_record()
                await channel.publish(await awaited(record))

        if hooks := run.definition.hooks.get("on_step_enter"):
            await tell(hooks, run.definition.name, name, run.ctx)
        await waited(self._run.ready())
        error: BaseException | None = None
        try:
            await invoke("coroutine", pump, (), step, action.timeout_s, self._threads)
        except BaseException as raised:
            error = raised
        try:
            await records.aclose()
        except BaseException as raised:  # from its clean-up; the earlier error counts, unless this is our cancellation
            error = raised if error is None or isinstance(raised, asyncio.CancelledError) else error
        await channel.close(error)
        published = step.end_trial()
        if error is not None:
            return Done(name, None, await own_error(error, name, step))
        return Done(name, None, None, published)


def is_retryable(run: Run, action: Action) -> bool:
    """Whether the action may get another trial."""
    return action.max_retries > 0 or action.name in run.definition.recoveries


async def own_error(error: BaseException, name: str, step: ActiveStep) -> BaseException:
    """The action's error. Raises it if it ends the whole run.

    A cancellation that neither the run nor the Lab nor the end of the loop requested counts as the action's own error:
    libraries let such cancellations escape.
    """
    run = step.run
    if run.gone:
        raise error
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        asked = (
            task is not None
            and task.cancelling()
            and ((run.cancelling and not run.stopping) or run.abandoned or loop_ends())
        )
        if step.stop_requested or asked:
            raise error
        await uncancel()
        wrapped = RunError(f"action {name!r} raised CancelledError by itself")
        wrapped.__cause__ = error
        return wrapped
    return error


def failure_record(
    run: Run, clock: Clock, name: str, trial: int, error: BaseException, *, cut_off: bool = False
) -> Record:
    """The record of a failed trial; also adds it to the run's log.

    A trial that timed out or was interrupted may still have taken effect.
    """
    trace = traceback_of(error)
    if not isinstance(error, asyncio.CancelledError):
        run.log.fail(name, trace)
    cut_off = cut_off or isinstance(error, ActionTimeout)
    kind = RecordKind.ACTION_CUT_OFF if cut_off else RecordKind.ACTION_FAILED
    return Record(
        run.run_id,
        run.attempt,
        kind,
        name,
        trial,
        clock.now(),
        value=is_permanent(error) or None,
        error=describe(error),
        traceback=trace,
    )


def traceback_of(error: BaseException) -> str:
    """The traceback's text without the engine's own frames."""
    try:
        frames = traceback.TracebackException.from_exception(error)
        while len(frames.stack) > 1 and "/sagaz_lab/engines/" in frames.stack[0].filename.replace("\\", "/"):
            frames.stack.pop(0)
        text = masked("".join(frames.format()))
    except BaseException as broken:
        text = f"{describe(error)} (unreadable traceback: {describe(broken)})"
    return text[-TRACEBACK_CHARACTERS:]
