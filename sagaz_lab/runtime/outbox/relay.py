"""The relay: publishes what runs and dead letters left in the store, oldest first, at least once."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from sagaz_lab.abc import Acceptance, DeadLetter, Publisher, Store
from sagaz_lab.errors import (
    LabClosed,
    LeaseLost,
    SourceError,
    SourceNotReady,
    StoreError,
    describe,
    without_credentials,
)
from sagaz_lab.model.inside import inside
from sagaz_lab.model.options import secrets_in
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.model.trigger import SourceSpec
from sagaz_lab.runtime.lifetime.backoff import backoff_s
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.lanes import BATCH, BrokerLane, Lane, ProcessLane, Take
from sagaz_lab.runtime.outbox.publications import publication_of
from sagaz_lab.runtime.outbox.refusals import Refused, Row, letter_of, sound_and_damaged
from sagaz_lab.runtime.triggers.dead_letter_notices import DeadLetterNotices
from sagaz_lab.runtime.triggers.dead_letters import is_letter_id
from sagaz_lab.runtime.triggers.triggers import Triggers
from sagaz_lab.texts import masked

logger = logging.getLogger("sagaz_lab")

CLOSE_S = 2.0
"""How long all publishers together may take to disconnect."""

OpenPublisher = Callable[[SourceSpec], Publisher | None]
"""None if the runs of such a trigger publish to the process itself."""


class Relay:
    """Owned by the Service while a Lab is open. It sleeps until woken.

    Publications to one broker go in the order of writing; a broker that is down holds up no other. A publication that a
    broker refuses holds up only its own run: after some tries it becomes a dead letter and is parked, with what its run
    published after it, until the letter is redriven or discarded. Publications of an undefined trigger wait for its
    definition, which names the destination. A crash loses nothing: what was not marked as published is published again,
    with the same id.
    """

    def __init__(
        self, store: Store, life: Lifetime, triggers: Triggers, letters: DeadLetterNotices, take: Take,
        open_publisher: OpenPublisher,
    ) -> None:  # fmt: skip
        self._store = store
        self._life = life
        self._clock = life.clock
        self._triggers = triggers
        self._letters = letters
        self._open_publisher = open_publisher
        self._itself = ProcessLane(life, triggers, take, self.wake)
        self._lanes: dict[tuple[str, str | None], Lane] = {}
        self._undefined: Counter[str] = Counter()
        self._parked: set[str] = set()
        self._parked_known = False
        self._woken = asyncio.Event()
        self._settled = asyncio.Event()  # may be settled: check again
        self._reading = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._life.tasks.start(self._run(), "relay")
        self._task.add_done_callback(lambda _: self._settled.set())
        self.wake()  # an earlier process may have left publications

    def wake(self) -> None:
        """There may be something to publish."""
        self._woken.set()

    def look_again(self) -> None:
        """Others may have changed the store."""
        self._parked_known = False
        self.wake()

    @property
    def backlog(self) -> Mapping[str, int]:
        """By trigger, the publications that wait for a broker that is down."""
        return sum((lane.backlog for lane in self._lanes.values() if lane.failures), Counter())

    @property
    def left(self) -> int:
        """Publications that cannot go now: the broker is down, or the trigger is undefined or has no room."""
        return sum(lane.left for lane in self._all()) + self._undefined.total()

    async def settled(self) -> None:
        """Returns when everything that can be published now has been."""
        while self._under_way():
            self._settled.clear()
            await self._settled.wait()

    async def close(self) -> None:
        """Disconnect, once its tasks have ended."""
        closing = {asyncio.create_task(lane.close()): lane.name for lane in self._all()}
        _, late = await asyncio.wait(closing, timeout=CLOSE_S)
        for task in late:
            task.cancel()
        if late:
            names = ", ".join(sorted(closing[task] for task in late))
            self._life.report("stop:publishers", f"did not disconnect within {CLOSE_S:g} s: {names}")

    def _under_way(self) -> bool:
        if self._task is None or self._task.done():
            return False
        return self._woken.is_set() or self._reading or any(lane.busy and not lane.waiting for lane in self._all())

    def _all(self) -> list[Lane]:
        return [self._itself, *self._lanes.values()]

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            # In this order: a caller of `settled` must not check between the two.
            self._reading = True
            self._woken.clear()
            try:
                limit = BATCH + self.left
                if not self._parked_known:
                    self._parked_known = True
                    self._parked = set(await self._store.parked_runs())
                rows = await self._store.publications(limit)
                free = await self._park_behind(rows)
                self._hand_out(free)
                if len(free) < len(rows) or len(rows) >= limit < BATCH + self.left:
                    self.wake()  # all of these wait, but rows behind them may not
            except StoreError as error:
                self._life.report("store", f"publishing waits for the store: {describe(error)}")
            finally:
                self._reading = False
                self._settled.set()

    async def _park_behind(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Without the rows of runs that have something parked; those rows are parked too."""
        behind = [(number, it.run_id) for number, it in rows if it.run_id in self._parked] if self._parked else []
        if not behind:
            return rows
        asked = {run_id for _, run_id in behind}
        still = await self._store.park_behind(behind)
        self._parked -= asked.difference(still)  # their letters were settled
        return [row for row in rows if row[1].run_id not in asked]

    def _hand_out(self, rows: Sequence[Row]) -> None:
        """Give each free lane its rows, possibly including some that it has published meanwhile."""
        found: dict[Lane, list[Row]] = {lane: [] for lane in self._all()}
        undefined: Counter[str] = Counter()
        for number, publication in rows:
            lane = self._lane_of(publication.trigger)
            if lane is None:
                undefined[publication.trigger or ""] += 1
            elif number not in lane.marked and number not in lane.unmarked:
                found.setdefault(lane, []).append((number, publication))
        self._report_undefined(undefined)
        for lane, waiting in found.items():
            if lane.waiting:
                lane.leave(waiting)
            elif lane.busy:
                lane.missed = lane.missed or bool(waiting)
            elif waiting or lane.unmarked:
                lane.busy = True
                self._life.tasks.start(self._publish(lane, waiting), f"publish to {lane.name}")
            else:
                lane.leave(())

    def _report_undefined(self, undefined: Counter[str]) -> None:
        for trigger in undefined.keys() - self._undefined.keys():
            self._life.report(
                f"publish:{trigger}", f"what {trigger} published waits: define the trigger, which names the destination"
            )
        self._undefined = undefined

    def _lane_of(self, trigger: str | None) -> Lane | None:
        """None if the trigger is not defined."""
        if trigger is None:
            return self._itself
        state = self._triggers.states.get(trigger)
        if state is None:
            return None
        spec = state.compiled.trigger.spec
        key = (spec.kind, spec.settings.get("url"))
        if key not in self._lanes:
            return self._new_lane(key, spec)
        return self._lanes[key]

    def _new_lane(self, key: tuple[str, str | None], spec: SourceSpec) -> Lane:
        try:
            if self._open_publisher(spec) is None:
                return self._itself
        except BaseException:  # noqa: BLE001
            pass  # such as a missing library; reported whenever the lane tries to open it
        at = getattr(key[1], "masked", key[1])
        name = f"{spec.kind} at {at}" if at else spec.kind
        lane = self._lanes[key] = BrokerLane(name, partial(self._opened, spec), self._clock, secrets_in(spec.settings))
        return lane

    def _opened(self, spec: SourceSpec) -> Publisher:
        publisher = self._open_publisher(spec)
        if publisher is None:
            raise SourceNotReady(f"{spec.kind} no longer has a publisher")
        return publisher

    # --- one lane ---

    async def _publish(self, lane: Lane, rows: Sequence[Row]) -> None:
        before, lane.missed, own_task = lane.left, False, OwnTask()
        try:
            published = await self._try(lane, rows)
        except LabClosed:
            return
        except LeaseLost as error:
            self._life.lease.lose(error)
            return
        except (SourceError, StoreError) as error:
            await self._back_off(lane, rows, error)
        except BaseException as error:
            if own_task.ends_by(error):
                raise
            logger.error("publishing to %s", lane.name, exc_info=without_credentials(error, lane.secrets))
            await self._back_off(lane, rows, error)
        else:
            self._went_well(lane)
            if not (published or lane.missed or lane.left > before):
                return  # the rows left wait for an event that wakes the relay
        finally:
            lane.busy = lane.waiting = False
            self._settled.set()
        self.wake()

    async def _try(self, lane: Lane, rows: Sequence[Row]) -> int:
        """How many were published or became dead letters, with the store's knowledge."""
        await self._mark(lane)  # marks that failed before
        if not rows:
            return 0
        await self._life.lease.seen()
        sound, unfit = sound_and_damaged(rows)
        with inside(self._life.tasks, f"publishing to {lane.name}"):
            await lane.publish(sound)
        sent = set(lane.unmarked)
        await self._mark(lane)
        if unfit:  # once everything that its run published before is sent
            waiting = {it.order for number, it in sound if number not in sent}
            unfit = [it for it in unfit if it.publication.order not in waiting]
            await self._bury(lane, unfit)
        published = len(sent) + len(unfit)
        return published + (await self._give_up(lane) if isinstance(lane, BrokerLane) else 0)

    async def _mark(self, lane: Lane) -> None:
        if lane.unmarked:
            await self._store.published(lane.unmarked)
            lane.marked, lane.unmarked = frozenset(lane.unmarked), []

    async def _give_up(self, lane: BrokerLane) -> int:
        """Make dead letters of what the broker has refused often enough; returns their number."""
        given_up = lane.refusals.given_up()
        if given_up:
            await self._bury(lane, given_up)
            lane.refusals.buried(given_up)
        self._try_later(lane)
        return len(given_up)

    async def _bury(self, lane: Lane, refused: Sequence[Refused]) -> None:
        now = self._clock.now()
        letters = [self._letter(lane, it, now) for it in refused]
        await self._store.park_refused([(it.number, letter) for it, letter in zip(refused, letters, strict=True)])
        self._parked.update(it.publication.run_id for it in refused if it.publication.run_id)
        await self._report_refused(letters)

    def _letter(self, lane: Lane, refused: Refused, now: float) -> DeadLetter:
        state = self._triggers.states.get(refused.publication.trigger or "")
        if state is None:  # of a run that no trigger started
            return letter_of(refused, lane.name, "", 0, now)
        definition = state.compiled.definition
        return letter_of(refused, lane.name, definition.name, definition.revision, now)

    async def _report_refused(self, letters: Sequence[DeadLetter]) -> None:
        told = []
        for letter in letters:
            self._letters.note(letter)
            waits = f"; what run {letter.run_id} published after it waits behind it" if letter.run_id else ""
            text = f"{letter.trigger}: publication {letter.event.id} is dead: {letter.error}{waits}"
            self._life.report(f"dead:{letter.trigger}:{letter.cause}", text)
            state = self._triggers.states.get(letter.trigger)
            topic = None if state is None else state.compiled.config.dead_letter_topic
            if topic is not None and not is_letter_id(letter.event.id):  # else a refused notice has its own
                told.append(publication_of(letter, topic)._replace(run_id=""))
        if told:
            await self._store.accept(Acceptance(publications=told))

    def _try_later(self, lane: BrokerLane) -> None:
        pause_s = lane.refusals.pause_s()
        if pause_s is not None and lane.stuck and not lane.timed:
            lane.timed = True
            self._life.tasks.start(self._wake_later(lane, pause_s), f"publish to {lane.name} again")

    async def _wake_later(self, lane: BrokerLane, pause_s: float) -> None:
        try:
            await self._clock.sleep(pause_s)
        finally:
            lane.timed = False
        self.wake()

    def _went_well(self, lane: Lane) -> None:
        held_up = list(lane.backlog) if lane.failures else []
        if lane.failures:
            logger.info("%s: publishing resumes", lane.name)
        lane.succeed(lane.stuck)
        for trigger in held_up:
            if state := self._triggers.states.get(trigger):
                state.blocked_by = ""
                state.wake()

    def _stop_intake(self, lane: Lane) -> None:
        """A trigger whose broker takes nothing, such as dead letters, takes no more events than its queue holds."""
        for trigger, waiting in lane.backlog.items():
            state = self._triggers.states.get(trigger)
            if state is not None and not state.blocked_by and waiting >= state.compiled.config.queue_size:
                state.blocked_by = lane.name
                text = f"{trigger} takes no more events: {waiting} publication(s) wait for {lane.name}"
                self._life.report(f"blocked:{trigger}", text)

    async def _back_off(self, lane: Lane, rows: Sequence[Row], error: BaseException) -> None:
        told = frozenset(lane.unmarked) | lane.marked
        lane.fail([row for row in rows if row[0] not in told])
        await lane.close()
        self._settled.set()
        if lane.failures == 1:
            text = f"publishing to {lane.name} waits, {lane.left} publication(s) so far: {describe(error)}"
            self._life.report(f"publish:{lane.name}", masked(text, lane.secrets))
        self._stop_intake(lane)
        await self._clock.sleep(backoff_s(lane.failures))
