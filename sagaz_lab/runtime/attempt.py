"""How an attempt of a run ends: it is retried, it leaves a dead letter, or that was it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from sagaz_lab.abc import DeadLetter, Ending
from sagaz_lab.errors import Permanent, StoreUnavailable, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Record, Run, RunStatus
from sagaz_lab.runtime.admission import Ticket
from sagaz_lab.runtime.deciding import dead_letter

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatcher import Dispatcher

STORE_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""While the store does not answer, a run stands still and asks again after these delays; the last one repeats."""

_COMPLETED = RunStatus.COMPLETED


class Attempt:
    """The journal of one attempt. `retry_in_s` is set when the run is to be tried again."""

    __slots__ = ("_dispatcher", "_run", "_ticket", "append", "retry_in_s")

    def __init__(self, dispatcher: Dispatcher, run: Run, ticket: Ticket) -> None:
        self._dispatcher = dispatcher
        self._run = run
        self._ticket = ticket
        self.retry_in_s: float | None = None
        # A store in memory is never away.
        self.append = self._append if dispatcher.store.durable else dispatcher.store.append

    async def _append(self, records: Sequence[Record]) -> None:
        try:
            await self._dispatcher.store.append(records)
        except StoreUnavailable as error:
            await self._insist(error, lambda: self._dispatcher.store.append(records))

    async def end(self, ending: Ending) -> None:
        dispatcher, run = self._dispatcher, self._run
        now = dispatcher.clock.now()
        if ending.status is _COMPLETED:
            try:
                await dispatcher.store.end(run.run_id, ending, attempt=run.attempt, at=now)
            except StoreUnavailable as error:
                await self._insist(error, lambda: dispatcher.store.end(run.run_id, ending, attempt=run.attempt, at=now))
            run.status = _COMPLETED
            if told := run.definition.hooks.get("on_saga_complete"):
                await tell(told, run.definition.name, run.run_id, run.ctx)
            return
        letter = retry_at = None
        if ending.status is RunStatus.COMPENSATED and run.trigger is not None:
            letter, retry_at = self._after_failure(ending.error, now)

        await self._write(ending, now, retry_at, letter)
        run.status = RunStatus.WAITING if retry_at is not None else ending.status
        run.error = ending.error
        if retry_at is not None:
            self.retry_in_s = retry_at - now
            self._ticket.attempt = run.attempt + 1
            self._ticket.history = None
        self._report(ending, letter)
        if told := run.definition.hooks.get("on_saga_failed"):
            await tell(told, run.definition.name, run.run_id, run.ctx, ending.error)

    async def _write(self, ending: Ending, at: float, retry_at: float | None, letter: DeadLetter | None) -> None:
        end, run_id, attempt = self._dispatcher.store.end, self._run.run_id, self._run.attempt
        try:
            await end(run_id, ending, attempt=attempt, at=at, retry_at=retry_at, dead=letter)
        except StoreUnavailable as error:
            await self._insist(
                error, lambda: end(run_id, ending, attempt=attempt, at=at, retry_at=retry_at, dead=letter)
            )

    def _after_failure(self, error: BaseException | None, now: float) -> tuple[DeadLetter | None, float | None]:
        run = self._run
        state = self._dispatcher.states.get(self._ticket.trigger or "")
        if state is None or run.event is None:
            return None, None
        config = state.compiled.config
        if run.attempt <= config.max_retries and not isinstance(error, Permanent):
            return None, now + config.retry_delay_s(run.attempt)
        failure = RuntimeError("the run failed") if error is None else error
        return dead_letter(state, run.event, failure, now, attempts=run.attempt, run_id=run.run_id), None

    def _report(self, ending: Ending, letter: DeadLetter | None) -> None:
        run = self._run
        error = "no error" if ending.error is None else describe(ending.error)
        then = f"; tried again in {self.retry_in_s:g} s" if self.retry_in_s is not None else ""
        then = "; it left a dead letter" if letter is not None else then
        kind = f"{run.definition.name}:{ending.status}:{type(ending.error).__name__}"
        self._dispatcher.report(kind, f"run {run.run_id} of {run.definition.name} {ending.status}: {error}{then}")

    async def _insist(self, error: StoreUnavailable, write: Callable[[], Awaitable[None]]) -> None:
        """The store is away: what has happened must be written before anything follows from it."""
        for n in range(1_000_000):
            self._dispatcher.report("store", f"run {self._run.run_id} waits for the store: {describe(error)}")
            await self._dispatcher.clock.sleep(STORE_RETRY_S[min(n, len(STORE_RETRY_S) - 1)])
            try:
                await write()
                return
            except StoreUnavailable as again:
                error = again
