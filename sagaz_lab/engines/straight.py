"""The straight way: a chain of plain coroutines, one after the other in the run's own task.

Most sagas are such chains, and most of their runs go well. What goes wrong is handed to the general way.
"""

from __future__ import annotations

from asyncio import CancelledError
from typing import Any, NamedTuple

from sagaz_lab.abc import Clock, Ending, Journal
from sagaz_lab.engines.calls import ActiveStep
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.model.run import Record, RecordKind, Run, RunStatus, as_changes
from sagaz_lab.model.step import current_step

_new = tuple.__new__
_STARTED, _FINISHED = RecordKind.ACTION_STARTED, RecordKind.ACTION_FINISHED


class Stopped(NamedTuple):
    """Where the straight way ended: an action's error, or records that cannot be stored."""

    step: ActiveStep
    error: BaseException | None
    unstorable: list[Record] | None


async def straight(run: Run, journal: Journal, clock: Clock, finished: dict[str, Any]) -> Stopped | None:
    """None when the run has completed. `finished` takes the results."""
    run_id, attempt, instance, ctx = run.run_id, run.attempt, run.instance, run.ctx
    actions = run.definition.plan.straight
    last = len(actions) - 1
    token = None
    for i, action in enumerate(actions):
        name = action.name
        step = ActiveStep(run, name)
        run.steps[name] = step
        if token is None:
            token = current_step.set(step)
        else:
            current_step.set(step)
        try:
            value = await getattr(instance, action.method_name)(ctx)
        except BaseException as error:
            return Stopped(step, error, None)
        finished[name] = value
        if run.cancelling:  # it has swallowed that
            return Stopped(step, CancelledError(), None)
        if value is not None:
            dict.update(ctx, as_changes(name, value))
        at = clock.now()
        changes = ctx.take_changes() if ctx.changed else None
        published = step.publications or ()
        step.publications = ()
        # Like Record(...), without the call of its constructor.
        records = [
            _new(Record, (run_id, attempt, _FINISHED, name, 1, at, value, changes, None, None, action.codec, published))
        ]
        try:
            if i == last:
                await journal.end(Ending(RunStatus.COMPLETED, None, records))
            else:
                after = actions[i + 1].name
                records.append(
                    _new(Record, (run_id, attempt, _STARTED, after, 1, at, None, None, None, None, None, ()))
                )
                await journal.append(records)
        except UnstorableValue:
            return Stopped(step, None, records)
        except CancelledError as error:
            del run.steps[name]
            return Stopped(step, error, None)
        del run.steps[name]
    if token is not None:
        current_step.reset(token)
    return None
