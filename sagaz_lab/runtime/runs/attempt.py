"""How an attempt ends: with a retry, a dead letter, or neither."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from sagaz_lab.abc import Attempt, DeadLetter, Ending, Wait
from sagaz_lab.errors import StoreUnavailable, describe, is_permanent
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Record, RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.publications import StepEvents, outbox_listener, publication_of
from sagaz_lab.runtime.runs.context import context_of
from sagaz_lab.runtime.triggers.dead_letters import letter_of_run

if TYPE_CHECKING:
    from sagaz_lab.runtime.runs.runner import Runner

_COMPLETED = RunStatus.COMPLETED


class StoredAttempt(Attempt, kw_only=True, eq=False):
    """An attempt in this process, whose journal is the store; it also wakes the relay.

    `retry_in_s` is set if the run is to be retried.
    """

    pending: PendingRun
    retry_in_s: float | None = None
    _runner: Runner
    _life: Lifetime
    _events: StepEvents | None = None

    @classmethod
    def of(
        cls,
        pending: PendingRun,
        definition: SagaDefinition,
        instance: Saga,
        started_at: float,
        runner: Runner,
        origin: Context,
    ) -> Self:
        """The attempt for a pending run."""
        run = cls(
            pending.run_id, definition, instance, context_of(pending), pending.trigger, pending.attempt, started_at,
            pending.history, pending.compensate_only, pending.hold, origin=origin, pending=pending,
            _runner=runner, _life=runner.life,
        )  # fmt: skip
        if definition.listeners and (listener := outbox_listener(definition)) is not None:
            run._events = StepEvents(run, listener)
            run.publishes = True
        return run

    @property
    def shared(self) -> bool:
        return True

    def ready(self) -> Wait:
        lease = self._life.lease
        return None if lease.held() else lease.insist()

    def close(self, error: BaseException | None = None) -> None:
        self._runner.settle(self, error)

    def append(self, records: Sequence[Record]) -> Wait:
        return self._append(records if self._events is None else self._events.of(records))

    async def _append(self, records: Sequence[Record]) -> None:
        store = self._life.store
        try:
            await store.append(records)
        except StoreUnavailable as error:
            await self._insist(error, partial(store.append, records))
        self._wake_relay(records)

    def _wake_relay(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.publications:
                self._life.published()
                return

    def end(self, ending: Ending) -> Wait:
        return self._complete(ending) if ending.status is _COMPLETED else self._end_badly(ending)

    async def _complete(self, ending: Ending) -> None:
        life = self._life
        now = life.clock.now()
        if self._events is not None:
            ending = self._events.end(ending, now, None)
        try:
            await life.store.end(self.run_id, ending, attempt=self.attempt, at=now)
        except StoreUnavailable as error:
            await self._insist(error, partial(life.store.end, self.run_id, ending, attempt=self.attempt, at=now))
        self.status = _COMPLETED
        self._wake_relay_at_end(ending)
        if hooks := self.definition.hooks.get("on_saga_complete"):
            await tell(hooks, self.definition.name, self.run_id, self.ctx)

    async def _end_badly(self, ending: Ending) -> None:
        now = self._life.clock.now()
        letter = retry_at = None
        if ending.status is RunStatus.COMPENSATED and self.trigger is not None:
            letter, retry_at = self._after_failure(ending.error, now)
        ending = self._with_publications(ending, now, retry_at, letter)
        await self._write(ending, now, retry_at, letter)
        if letter is not None:
            self._runner.letters.note(letter)
        self._wake_relay_at_end(ending)
        self.status = RunStatus.WAITING if retry_at is not None else ending.status
        self.error = ending.error
        if retry_at is not None:
            self.retry_in_s = retry_at - now
            self.pending.attempt = self.attempt + 1
            self.pending.history = None
        self._report(ending, letter)
        if hooks := self.definition.hooks.get("on_saga_failed"):
            await tell(hooks, self.definition.name, self.run_id, self.ctx, ending.error)

    def _with_publications(
        self, ending: Ending, at: float, retry_at: float | None, letter: DeadLetter | None
    ) -> Ending:
        if self._events is not None:
            ending = self._events.end(ending, at, retry_at)
        state = None if letter is None else self._runner.triggers.states.get(letter.trigger)
        if letter is not None and state is not None and (topic := state.compiled.config.dead_letter_topic):
            ending = replace(ending, publications=(*ending.publications, publication_of(letter, topic)))
        return ending

    def _wake_relay_at_end(self, ending: Ending) -> None:
        if ending.publications:
            self._life.published()
        else:
            self._wake_relay(ending.records)

    async def _write(self, ending: Ending, at: float, retry_at: float | None, letter: DeadLetter | None) -> None:
        end, run_id, attempt = self._life.store.end, self.run_id, self.attempt
        try:
            await end(run_id, ending, attempt=attempt, at=at, retry_at=retry_at, dead=letter)
        except StoreUnavailable as error:
            await self._insist(
                error, partial(end, run_id, ending, attempt=attempt, at=at, retry_at=retry_at, dead=letter)
            )

    def _after_failure(self, error: BaseException | None, now: float) -> tuple[DeadLetter | None, float | None]:
        trigger, event = self.trigger, self.event
        if trigger is None or event is None:
            return None, None
        state, note = self._runner.triggers.states.get(trigger), ""
        config = None if state is None else state.compiled.config
        if config is not None and self.attempt <= config.max_retries and not is_permanent(error):
            retry_at = now + config.retry_delay_s(self.attempt)
            if not config.too_old(retry_at - self.pending.at):
                return None, retry_at
            age_s = now - self.pending.at
            note = f" (no retry: its event came {age_s:.0f} s ago; retry_max_age={config.retry_max_age!r})"
        failure = RuntimeError("the run failed") if error is None else error
        return letter_of_run(self, trigger, event, failure, now, note), None

    def _report(self, ending: Ending, letter: DeadLetter | None) -> None:
        error = "no error" if ending.error is None else describe(ending.error)
        then = f"; retry in {round(self.retry_in_s, 3):g} s" if self.retry_in_s is not None else ""
        then = "; it left a dead letter" if letter is not None else then
        kind = f"{self.definition.name}:{ending.status}:{type(ending.error).__name__}"
        kind += ":retry" if self.retry_in_s is not None else ""
        self._life.report(kind, f"run {self.run_id} of {self.definition.name} {ending.status}: {error}{then}")

    async def _insist(self, error: StoreUnavailable, write: Callable[[], Awaitable[None]]) -> None:
        """The store is unavailable: what happened must be written before anything follows from it."""
        for tries in count():
            await self._life.pause(error, f"run {self.run_id}", tries)
            try:
                await write()
                return
            except StoreUnavailable as again:
                error = again


class AttemptInMemory(StoredAttempt, eq=False):
    """The same with a store in memory, which is never unavailable and writes without a wait."""

    @property
    def shared(self) -> bool:
        return False

    def append(self, records: Sequence[Record]) -> Wait:
        if self.publishes:
            return super().append(records)
        self._life.store.append(records)
        return None

    def end(self, ending: Ending) -> Wait:
        if ending.status is not _COMPLETED or self.publishes or "on_saga_complete" in self.definition.hooks:
            return super().end(ending)
        self.status = _COMPLETED
        life = self._life
        life.store.end(self.run_id, ending, attempt=self.attempt, at=life.clock.now())
        return None
