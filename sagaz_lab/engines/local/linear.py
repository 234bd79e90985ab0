"""The linear path: executes a chain of plain coroutines one after the other in the run's own task.

Most sagas are such chains and most of their runs succeed. Failures are handed to the general path.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from sagaz_lab.abc import Attempt, Clock, Ending
from sagaz_lab.engines.local.calls import ActiveStep
from sagaz_lab.engines.local.context_before import ContextBefore
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.model.apart import apart
from sagaz_lab.model.awaiting import awaited, is_awaitable
from sagaz_lab.model.run import Record, RecordKind, RunStatus, as_changes
from sagaz_lab.model.saga import Action
from sagaz_lab.model.step import current_step

_set_step = current_step.set
_COMPLETED = RunStatus.COMPLETED
_FINISHED = RecordKind.ACTION_FINISHED


class Stopped(NamedTuple):
    """Where the linear path ended: an action's error, or records that cannot be stored."""

    step: ActiveStep
    error: BaseException | None
    unstorable: Sequence[Record] | None


GoOn = Callable[[Attempt, dict[str, Any], Stopped | None], Awaitable[None]]
"""The general path: takes the finished actions and the place where the linear path stopped."""


async def linear(run: Attempt, clock: Clock, go_on: GoOn) -> None:
    """Execute the attempt on the linear path as far as possible, then on the general one."""
    instance, ctx, steps, plan, now = run.instance, run.ctx, run.steps, run.definition.plan, clock.now
    values: list[Any] = []
    stopped, recoveries, shared = None, run.definition.recoveries, run.shared
    for action, after in plan.linear:
        if shared and (mine := run.ready()) is not None:
            await mine
        steps[action.name] = step = ActiveStep(run, action.name)
        if action.max_retries or recoveries:
            step.before = ContextBefore(ctx)
        _set_step(step)  # never reset: each attempt has its own context
        try:
            value = await getattr(instance, action.method_name)(ctx)
            if value is not None and is_awaitable(value):
                value = await awaited(value)
        except BaseException as error:
            if run.gone:
                raise
            stopped = Stopped(step, error, None)
            break
        values.append(value)
        if run.cancelling:  # the action swallowed its cancellation
            stopped = Stopped(step, CancelledError(), None)
            break
        records = (_record(step, action, value, after, now()),)
        try:
            written = run.append(records) if after else run.end(Ending(_COMPLETED, None, records))
            if written is not None:
                await written
        except UnstorableValue:
            stopped = Stopped(step, None, records)
            break
        except CancelledError as error:
            stopped = Stopped(step, error, None)
        del steps[action.name]
        if stopped is not None:
            break
    if stopped is not None:
        await go_on(run, dict(zip(plan.order, values, strict=False)), stopped)


def _record(step: ActiveStep, action: Action, value: Any, after: Sequence[str], at: float) -> Record:
    """The record of the action's end and the next one's start. Puts the result into the context."""
    run, name = step.run, action.name
    ctx = run.ctx
    if value is not None:
        dict.update(ctx, apart(as_changes(name, value)))
    changes = ctx.take_changes() if ctx.changed else None
    published = step.publications or () if run.publishes else ()
    step.publications = ()  # it can no longer publish
    if value is None and changes is None:
        return Record(run.run_id, run.attempt, _FINISHED, name, 1, at, after, published)
    return Record(run.run_id, run.attempt, _FINISHED, name, 1, at, after, published, value, changes, action.codec)
