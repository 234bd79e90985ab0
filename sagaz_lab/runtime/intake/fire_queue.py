"""Events fired while their trigger decides: the next decision takes all of them."""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from contextvars import Context, copy_context
from typing import NamedTuple

from msgspec import Struct

from sagaz_lab.abc import Delivery
from sagaz_lab.errors import LabClosed
from sagaz_lab.model.inside import inside
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.dispatch.exclusive import open_decision_of, within_a_decision
from sagaz_lab.runtime.dispatch.run_queue import WAITS
from sagaz_lab.runtime.gates.window_policies import IN_WINDOW
from sagaz_lab.runtime.intake.ports import Room
from sagaz_lab.runtime.lifetime.finishing import NOT_TAKEN
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.triggers.outcomes import outcomes_of
from sagaz_lab.runtime.triggers.state import Reader, TriggerState

BATCH = 1000
"""Fired events decided together, at most as many as from a source."""


WITH_ITS_BATCH = "for the store to take its batch"


Reporting = Callable[[TriggerState, str], AbstractContextManager[None]]
"""Reports a wait within it that takes long, for the reason in the text, if the Lab waits for the caller."""


class Answer(NamedTuple):
    """An event's outcome for one reader, and its future final outcome if it is `waiting`."""

    outcome: Outcome
    final: Future[Outcome] | None


class _Fired(Struct, eq=False):
    delivery: Delivery
    context: Context
    answers: Future[Sequence[Answer]]


class FireQueue:
    """Decides fired events at once if the queue is empty, else many at a time, in order.

    Otherwise a thousand concurrent fires would be a thousand transactions in sequence.
    """

    def __init__(self, life: Lifetime, dispatcher: Dispatcher, room: Room, reporting: Reporting) -> None:
        self._life = life
        self._dispatcher = dispatcher
        self._room = room
        self._reporting = reporting
        self._lines: dict[tuple[Reader, ...], deque[_Fired]] = {}

    async def take(self, readers: Sequence[Reader], delivery: Delivery) -> Sequence[Answer]:
        """The event's outcome for each reader. Raises what `Dispatcher.take` and `room` raise."""
        key = tuple(readers)
        line = self._lines.get(key)
        if within_a_decision():  # the queue may wait for that decision
            return [await self._decide_within(reader, delivery) for reader in readers]
        if line is None:
            if not any(state.deciding for state, _ in readers):
                return (await self._decide(readers, [delivery]))[delivery.event.id]
            line = self._lines[key] = deque()
            name = f"events fired to {', '.join(state.name for state, _ in readers)}"
            self._life.tasks.start(self._work_off(key, line, name), name, self._life.tasks.home)
        fired = _Fired(delivery, copy_context(), asyncio.get_running_loop().create_future())
        line.append(fired)
        try:
            with self._reporting(readers[0][0], "which decides others first"):
                return await fired.answers
        finally:
            with suppress(ValueError):  # its caller was cancelled before its turn
                line.remove(fired)

    async def _work_off(self, readers: Sequence[Reader], line: deque[_Fired], name: str) -> None:
        try:
            while line:
                for state, _ in readers:
                    await self._room(state, "fire")
                # The room of one may be gone since, while there was none for another.
                if batch := _next(line, min(BATCH, *(state.room() for state, _ in readers))):
                    await self._decide_batch(readers, batch, name)
        except Exception as error:  # noqa: BLE001  it is each caller's
            _fail(line, error)
        finally:
            del self._lines[tuple(readers)]
            _fail(line, LabClosed(NOT_TAKEN))

    async def _decide_batch(self, readers: Sequence[Reader], batch: Sequence[_Fired], name: str) -> None:
        try:
            with inside(self._life.tasks, f"the decision of {name}"):
                found = await self._decide(readers, [it.delivery for it in batch], [it.context for it in batch])
        except Exception as error:  # noqa: BLE001  it is each caller's
            _fail(batch, error)
        except BaseException:
            _fail(batch, LabClosed(NOT_TAKEN))
            raise
        else:
            for it in batch:
                if not it.answers.done():  # else its caller was cancelled
                    it.answers.set_result(found[it.delivery.event.id])

    async def _decide_within(self, reader: Reader, delivery: Delivery) -> Answer:
        """For an event that user code fires while a decision waits for it."""
        event_id, decision = delivery.event.id, open_decision_of(reader[0])
        if decision is None:
            return (await self._decide([reader], [delivery]))[event_id][0]
        own = await self._dispatcher.take_with(decision, reader, delivery)
        outcome = _answers([own]).get(event_id, Answer(_as_it_stands(own, event_id, decision.now), None)).outcome
        return Answer(outcome, None)

    async def _decide(
        self, readers: Sequence[Reader], deliveries: Sequence[Delivery], contexts: Sequence[Context] = ()
    ) -> Mapping[str, Sequence[Answer]]:
        """By event id, its outcome for each reader."""
        decisions = await self._dispatcher.take(readers, deliveries, answered=True, contexts=contexts)
        first, later = decisions[: len(readers)], decisions[len(readers) :]
        of_readers = [
            _answers([decided, *(it for it in later if it.state is state)])
            for decided, (state, _) in zip(first, readers, strict=True)
        ]
        return {it.event.id: [answers[it.event.id] for answers in of_readers] for it in deliveries}


def _answers(decisions: Sequence[Decided]) -> dict[str, Answer]:
    return {
        outcome.event_id: Answer(outcome, decided.finals.get(outcome.event_id))
        for decided in decisions
        for entry in decided.entries
        for outcome in outcomes_of(entry)
    }


def _as_it_stands(own: Decided, event_id: str, at: float) -> Outcome:
    """For an event whose batch is not stored yet."""
    name, revision = own.state.name, own.state.compiled.definition.revision
    for run in own.starts:
        if any(it.id == event_id for it in run.events()):
            runs = run.status is RunStatus.RUNNING
            kind, reason = (OutcomeKind.STARTED, "") if runs else (OutcomeKind.WAITING, WAITS)
            return Outcome(kind, reason, event_id, name, run.run_id, revision, at)
    in_window = any(it.event.id == event_id for it in own.batch.waiting.values())
    return Outcome(OutcomeKind.WAITING, IN_WINDOW if in_window else WITH_ITS_BATCH, event_id, name, None, revision, at)


def _next(line: deque[_Fired], most: int) -> Sequence[_Fired]:
    """The first of the queue, with distinct ids, since their outcomes are found by id."""
    batch: list[_Fired] = []
    ids: set[str] = set()
    while line and len(batch) < most and (id := line[0].delivery.event.id) not in ids:
        ids.add(id)
        batch.append(line.popleft())
    return batch


def _fail(fired: Sequence[_Fired], error: Exception) -> None:
    for it in fired:
        if not it.answers.done():
            it.answers.set_exception(error)
