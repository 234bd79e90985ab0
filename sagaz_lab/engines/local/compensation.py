"""Compensation: undoes actions in reverse order of dependencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from msgspec.structs import replace

from sagaz_lab.abc import Attempt, Clock, Ending
from sagaz_lab.engines.local.calls import ActiveStep, invoke
from sagaz_lab.engines.local.context_before import ContextBefore
from sagaz_lab.engines.local.threads import Threads
from sagaz_lab.engines.local.trials import own_error, traceback_of
from sagaz_lab.errors import CompensationFailed, RunError, describe
from sagaz_lab.model.apart import apart
from sagaz_lab.model.awaiting import is_generator, waited
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Publication, Record, RecordKind, RunStatus, loaded
from sagaz_lab.model.saga import Compensation

RETRY_DELAYS_S = (0.1, 1.0, 10.0)


async def compensate(
    run: Attempt,
    clock: Clock,
    threads: Threads,
    undo: Set[str],
    results: Mapping[str, Any],
    records: list[Record],
    error: BaseException | None,
) -> None:
    """Undo the actions `undo` one at a time and end the run.

    An action is undone after all its direct and indirect dependents. `records` are journaled with the first start. A
    compensation that fails for good does not stop the others.
    """
    definition = run.definition
    already = run.history.compensated if run.history else ()
    errors: list[str] = []
    for name in reversed(definition.plan.order):
        compensation = definition.compensations.get(name)
        if compensation is None or name not in undo or name in already:
            continue
        work = _Undo(run, clock, threads, compensation)
        records = [*records, work.record(RecordKind.COMPENSATION_STARTED, 1)]
        await waited(run.append(records))
        failure = await work.perform(results.get(name))
        if failure is None:
            finished = work.record(RecordKind.COMPENSATION_FINISHED, work.step.trial)
            records = [replace(finished, publications=work.publications)]
        else:
            records = [work.record(RecordKind.COMPENSATION_FAILED, work.step.trial, failure)]
            errors.append(f"{name}: {describe(failure)}")
    if errors:
        failed = CompensationFailed(f"{run.run_id}: not undone: " + "; ".join(errors))
        failed.__cause__ = error
        await waited(run.end(Ending(RunStatus.COMPENSATION_FAILED, failed, records)))
        return
    asked = run.cancelling or run.compensate_only
    await waited(run.end(Ending(RunStatus.CANCELLED if asked else RunStatus.COMPENSATED, error, records)))


class _Undo:
    """One compensation."""

    def __init__(self, run: Attempt, clock: Clock, threads: Threads, compensation: Compensation) -> None:
        self._run = run
        self._clock = clock
        self._threads = threads
        self._compensation = compensation
        self.step = ActiveStep(run, compensation.action, suffix="/compensation")
        self.publications: Sequence[Publication] = ()

    def record(self, kind: str, trial: int, error: BaseException | None = None) -> Record:
        run, name, trace = self._run, self._compensation.action, None
        if error is not None:
            trace = traceback_of(error)
            run.log.fail(name, trace)
        return Record(
            run.run_id,
            run.attempt,
            kind,
            name,
            trial,
            self._clock.now(),
            error=None if error is None else describe(error),
            traceback=trace,
        )

    async def perform(self, result: Any) -> BaseException | None:
        """None on success, else the last error."""
        run, undo = self._run, self._compensation
        hooks, name = run.definition.hooks, run.definition.name
        function = getattr(run.instance, undo.method_name)
        result, self.step.before = loaded(result), ContextBefore(run.ctx)
        if told := hooks.get("on_compensation_start"):
            await tell(told, name, undo.action, run.ctx)
        run.steps[undo.action] = self.step
        try:
            while True:
                args = (run.ctx, apart(result)) if undo.takes_result else (run.ctx,)
                error = await self._trial(function, args)
                if error is None:
                    if told := hooks.get("on_compensation_complete"):
                        await tell(told, name, undo.action, run.ctx)
                    return None
                if self.step.trial > undo.max_retries:
                    if told := hooks.get("on_compensation_failed"):
                        await tell(told, name, undo.action, run.ctx, error)
                    return error
                await waited(self._run.append([self.record(RecordKind.COMPENSATION_FAILED, self.step.trial, error)]))
                await self._clock.sleep(RETRY_DELAYS_S[min(self.step.trial, len(RETRY_DELAYS_S)) - 1])
                self.step.trial += 1
                self.step.before.restore(run.ctx)
                await waited(self._run.append([self.record(RecordKind.COMPENSATION_STARTED, self.step.trial)]))
        finally:
            run.steps.pop(undo.action, None)

    async def _trial(self, function: Any, args: tuple[Any, ...]) -> BaseException | None:
        await waited(self._run.ready())
        self.step.cancelled, self.step.publications = False, None
        undo = self._compensation
        try:
            returned = await invoke(undo.how, function, args, self.step, undo.timeout_s, self._threads)
            if is_generator(returned):
                raise RunError(f"the compensation of {undo.action!r} returned a generator, so none of its code has run")
        except BaseException as raised:
            self.step.end_trial()
            return await own_error(raised, undo.action, self.step)
        self.publications = self.step.end_trial()
        return None
