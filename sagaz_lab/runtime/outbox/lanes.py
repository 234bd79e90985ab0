"""The destinations of publications: one lane per broker, and one for the process itself."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import groupby

from sagaz_lab.abc import Clock, Delivery, Event, Publication, Publisher
from sagaz_lab.errors import DefinitionError, SourceError, describe, without_credentials
from sagaz_lab.model.awaiting import awaited
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.model.trigger import Trigger, specs_of
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.outbox.refusals import Refusals, Row
from sagaz_lab.runtime.triggers.state import Reader, TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers
from sagaz_lab.texts import masked

logger = logging.getLogger("sagaz_lab")

Take = Callable[[Sequence[Reader], Sequence[Delivery]], Awaitable[object]]
"""Decides deliveries for the triggers of these readers; returns once the outcomes are stored."""

BATCH = 500
"""Publications read from the store and sent at one time."""


class Lane:
    """One destination of publications, served in order, one batch at a time.

    It is `busy` with a batch, or `waiting` to retry after `failures` (counted since the last success). `missed`: more
    came while it was busy. `left` counts those at the head of the outbox that cannot go now, and `stuck` those of the
    last batch for reasons other than an outage. Published rows are `unmarked` until the store knows; `marked` are those
    last reported to the store.
    """

    def __init__(self, name: str, secrets: Collection[str] = ()) -> None:
        self.name = name
        self.secrets = secrets  # masked in this lane's reports
        self.busy = False
        self.waiting = False
        self.missed = False
        self.failures = 0
        self.left = self.stuck = 0
        self.backlog: Counter[str] = Counter()
        self.unmarked: list[int] = []
        self.marked: frozenset[int] = frozenset()

    async def publish(self, rows: Sequence[Row]) -> None:
        """Publish the first of these, possibly not all, and add their numbers to `unmarked`.

        Those that cannot go until something changes are counted in `stuck`.
        """
        raise NotImplementedError

    def fail(self, rows: Sequence[Row]) -> None:
        self.failures += 1
        self.waiting = True
        self.leave(rows)

    def leave(self, rows: Sequence[Row]) -> None:
        """Let these wait."""
        self.left = len(rows)
        self.backlog = Counter(it.trigger for _, it in rows if it.trigger is not None)

    def succeed(self, left: int) -> None:
        self.failures, self.left = 0, left
        self.backlog.clear()

    async def close(self) -> None:
        """Disconnect."""


class BrokerLane(Lane):
    """Connects for its first publication. `open` creates a publisher; it may raise `SourceError`."""

    def __init__(self, name: str, open: Callable[[], Publisher], clock: Clock, secrets: Collection[str] = ()) -> None:
        super().__init__(name, secrets)
        self.refusals = Refusals(clock)
        self.timed = False
        self._open = open
        self._size = BATCH
        self._publisher: Publisher | None = None
        self._connection = AsyncExitStack()

    async def publish(self, rows: Sequence[Row]) -> None:
        ready = self.refusals.ready(rows)
        batch = ready[: self._size]
        if batch:
            if self._publisher is None:
                self._publisher = await self._connection.enter_async_context(self._open())
            self.unmarked += self.refusals.sent(batch, await self._send(self._publisher, batch))
        self.stuck = len(rows) - len(ready) + len(batch) - len(self.unmarked)

    async def _send(self, publisher: Publisher, batch: Sequence[Row]) -> Mapping[str, BaseException]:
        own_task = OwnTask()
        try:
            refused: Mapping[str, BaseException] = await awaited(publisher.publish([it for _, it in batch]))
            return {id: without_credentials(error, self.secrets) for id, error in (refused or {}).items()}
        except SourceError:
            raise  # the broker is unavailable as a whole
        except BaseException as error:
            if own_task.ends_by(error) or len(batch) > 1:
                raise  # sending them one by one shows which of them fails
            return {batch[0][1].id: without_credentials(error, self.secrets)}

    def fail(self, rows: Sequence[Row]) -> None:
        super().fail(rows)
        # The broker may have taken part of the batch, which is then sent again. One by one, each is sent at most twice,
        # even if the broker never takes the first.
        self._size = 1

    def succeed(self, left: int) -> None:
        super().succeed(left)
        self._size = min(BATCH, self._size * 2)

    async def close(self) -> None:
        connection, self._connection, self._publisher = self._connection, AsyncExitStack(), None
        own_task = OwnTask()
        try:
            await connection.aclose()
        except BaseException as error:
            if own_task.ends_by(error):
                raise
            logger.info("%s: disconnecting failed: %s", self.name, masked(describe(error), self.secrets))


class ProcessLane(Lane):
    """The process itself: triggers with an in-process source of the topic receive publications through their gates.

    A trigger that is paused or has no room holds up its topic, and what the same runs published afterwards; nothing
    else. A publication without a reader is done.
    """

    def __init__(self, life: Lifetime, triggers: Triggers, take: Take, wake: Callable[[], None]) -> None:
        super().__init__("this process")
        self._life = life
        self._triggers = triggers
        self._take = take
        self._wake = wake
        self._watched: set[str] = set()

    async def publish(self, rows: Sequence[Row]) -> None:
        full: dict[str, list[Reader]] = {}
        late: set[str] = set()
        for topic, group in groupby(rows, key=lambda row: row[1].topic):
            known = list(group)
            free = [row for row in known if topic not in full and row[1].order not in late]
            readers = self._readers(topic)
            room = min([state.room() for state, _ in readers], default=len(free))
            now = free[: max(0, room)]
            if len(now) < len(known):
                gone = {number for number, _ in now}
                late.update(it.order for number, it in known if number not in gone)
            if len(now) < len(free):
                full[topic] = readers
            if readers and now:
                state, part = readers[0]
                source = str(specs_of(state.compiled.trigger)[part])
                await self._take(readers, [self._delivery(publication, source) for _, publication in now])
            self.unmarked += [number for number, _ in now]
        self.stuck = len(rows) - len(self.unmarked)
        for readers in full.values():
            for state, _ in readers:
                self._wake_when_free(state)

    def _delivery(self, publication: Publication, source: str) -> Delivery:
        # The publication's id makes an event that is offered again after a crash a duplicate.
        return Delivery(
            Event(
                publication.payload,
                publication.id,
                source,
                headers={"sagaz-id": publication.id, "sagaz-run": publication.run_id},
                timestamp=self._life.clock.shown(),
            )
        )

    def _readers(self, topic: str) -> list[Reader]:
        readers = []
        for state in self._triggers.states.values():
            parts = [] if state.removed else _parts(state.compiled.trigger, topic)
            if parts:
                try:
                    refuse_other_store(state.compiled.definition, self._life.store)
                except DefinitionError as error:
                    self._life.report(f"publish:{state.name}", f"topic {topic!r}: {error}")
                    continue
                readers += [(state, part) for part in parts]
        return readers

    def _wake_when_free(self, state: TriggerState) -> None:
        if state.room() > 0:
            self._wake()
        elif state.name not in self._watched:
            self._watched.add(state.name)
            self._life.tasks.start(self._watch(state), f"relay waits for {state.name}")

    async def _watch(self, state: TriggerState) -> None:
        try:
            await state.changed()
        finally:
            self._watched.discard(state.name)
            self._wake()


def _parts(trigger: Trigger, topic: str) -> list[int]:
    """The parts of the trigger's source (0 for a single source) that read this in-process topic."""
    return [
        part
        for part, spec in enumerate(specs_of(trigger))
        if spec.traits.in_process and spec.settings.get("topic") == topic
    ]
