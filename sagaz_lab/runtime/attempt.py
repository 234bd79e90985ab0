"""How an attempt of a run ends: it is retried, it leaves a dead letter, or that was it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sagaz_lab.abc import DeadLetter, Ending
from sagaz_lab.errors import Permanent, StoreUnavailable, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Record, Run, RunStatus
from sagaz_lab.runtime.letters import letter_of_run
from sagaz_lab.runtime.outbox import StepEvents, outbox_listener, publication_of
from sagaz_lab.runtime.tickets import Ticket

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatcher import Dispatcher

STORE_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""While the store does not answer, a run stands still and asks again after these delays; the last one repeats."""

_COMPLETED = RunStatus.COMPLETED


class Attempt:
    """The journal of one attempt, which also wakes the relay. `retry_in_s` is set when the run is to be tried again."""

    retry_in_s: float | None = None
    _events: StepEvents | None = None

    def __init__(self, dispatcher: Dispatcher, run: Run, ticket: Ticket) -> None:
        self._dispatcher = dispatcher
        self._run = run
        self._ticket = ticket
        if run.definition.listeners and (listener := outbox_listener(run.definition)) is not None:
            self._events = StepEvents(run, listener)

    def append(self, records: Sequence[Record]) -> Awaitable[None]:
        return self._append(records if self._events is None else self._events.of(records))

    async def _append(self, records: Sequence[Record]) -> None:
        store = self._dispatcher.store
        try:
            await store.append(records)
        except StoreUnavailable as error:
            await self._insist(error, partial(store.append, records))
        self._wake_relay(records)

    def _wake_relay(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.publications:
                self._dispatcher.runner.published()
                return

    def end(self, ending: Ending) -> Awaitable[None]:
        return self._complete(ending) if ending.status is _COMPLETED else self._end_badly(ending)

    async def _complete(self, ending: Ending) -> None:
        dispatcher, run = self._dispatcher, self._run
        now = dispatcher.clock.now()
        if self._events is not None:
            ending = self._events.end(ending, now, None)
        try:
            await dispatcher.store.end(run.run_id, ending, attempt=run.attempt, at=now)
        except StoreUnavailable as error:
            await self._insist(error, partial(dispatcher.store.end, run.run_id, ending, attempt=run.attempt, at=now))
        run.status = _COMPLETED
        self._wake_relay_at_end(ending)
        if told := run.definition.hooks.get("on_saga_complete"):
            await tell(told, run.definition.name, run.run_id, run.ctx)

    async def _end_badly(self, ending: Ending) -> None:
        run = self._run
        now = self._dispatcher.clock.now()
        letter = retry_at = None
        if ending.status is RunStatus.COMPENSATED and run.trigger is not None:
            letter, retry_at = self._after_failure(ending.error, now)
        ending = self._with_publications(ending, now, retry_at, letter)
        await self._write(ending, now, retry_at, letter)
        if letter is not None:
            self._dispatcher.letters.note(letter, now)
        self._wake_relay_at_end(ending)
        run.status = RunStatus.WAITING if retry_at is not None else ending.status
        run.error = ending.error
        if retry_at is not None:
            self.retry_in_s = retry_at - now
            self._ticket.attempt = run.attempt + 1
            self._ticket.history = None
        self._report(ending, letter)
        if told := run.definition.hooks.get("on_saga_failed"):
            await tell(told, run.definition.name, run.run_id, run.ctx, ending.error)

    def _with_publications(
        self, ending: Ending, at: float, retry_at: float | None, letter: DeadLetter | None
    ) -> Ending:
        if self._events is not None:
            ending = self._events.end(ending, at, retry_at)
        state = None if letter is None else self._dispatcher.states.get(letter.trigger)
        if letter is not None and state is not None and (topic := state.compiled.config.dead_letter_topic):
            ending = ending._replace(publications=(*ending.publications, publication_of(letter, topic)))
        return ending

    def _wake_relay_at_end(self, ending: Ending) -> None:
        if ending.publications:
            self._dispatcher.runner.published()
        else:
            self._wake_relay(ending.records)

    async def _write(self, ending: Ending, at: float, retry_at: float | None, letter: DeadLetter | None) -> None:
        end, run_id, attempt = self._dispatcher.store.end, self._run.run_id, self._run.attempt
        try:
            await end(run_id, ending, attempt=attempt, at=at, retry_at=retry_at, dead=letter)
        except StoreUnavailable as error:
            await self._insist(
                error, partial(end, run_id, ending, attempt=attempt, at=at, retry_at=retry_at, dead=letter)
            )

    def _after_failure(self, error: BaseException | None, now: float) -> tuple[DeadLetter | None, float | None]:
        run, trigger = self._run, self._ticket.trigger
        if trigger is None or run.event is None:
            return None, None
        state, note = self._dispatcher.states.get(trigger), ""
        config = None if state is None else state.compiled.config
        if config is not None and run.attempt <= config.max_retries and not isinstance(error, Permanent):
            retry_at = now + config.retry_delay_s(run.attempt)
            if not config.too_old(retry_at - self._ticket.at):
                return None, retry_at
            age_s = now - self._ticket.at
            note = f" (not tried again: its event came {age_s:.0f} s ago; retry_max_age={config.retry_max_age!r})"
        failure = RuntimeError("the run failed") if error is None else error
        return letter_of_run(run, trigger, run.event, failure, now, note), None

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


class AttemptInMemory(Attempt):
    """The same with a store in memory, which is never away: what it is told it has at once, without a wait."""

    def append(self, records: Sequence[Record]) -> Awaitable[None]:
        if self._events is not None:
            return super().append(records)
        self._wake_relay(records)  # which looks after this task has gone on, when they are stored
        return self._dispatcher.store.append(records)

    def end(self, ending: Ending) -> Awaitable[None]:
        run = self._run
        if ending.status is not _COMPLETED or self._events is not None or "on_saga_complete" in run.definition.hooks:
            return super().end(ending)
        run.status = _COMPLETED
        self._wake_relay_at_end(ending)
        dispatcher = self._dispatcher
        return dispatcher.store.end(run.run_id, ending, attempt=run.attempt, at=dispatcher.clock.now())
