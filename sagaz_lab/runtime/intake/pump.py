"""A pump moves deliveries from one source to the triggers that read it, and settles them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

from sagaz_lab.abc import Delivery, Missed, Source
from sagaz_lab.errors import (
    EndOfSource,
    LabClosed,
    LeaseLost,
    SourceError,
    SourceUnavailable,
    StaleDelivery,
    StoreError,
    StoreUnavailable,
    describe,
    without_credentials,
)
from sagaz_lab.model.event import Deliveries
from sagaz_lab.model.inside import CONNECTION, inside
from sagaz_lab.model.options import secrets_in
from sagaz_lab.model.source_traits import NO_TRAITS, traits_of
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.model.trigger import SourceSpec
from sagaz_lab.runtime.intake.delivery_outcomes import DeliveryOutcomes
from sagaz_lab.runtime.intake.ports import Hears, Take
from sagaz_lab.runtime.lifetime.backoff import LAST_DELAY_S, backoff_s
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.triggers.state import Reader, TriggerState
from sagaz_lab.texts import masked

logger = logging.getLogger("sagaz_lab")

BATCH = 1000
"""Deliveries taken at one time: a few milliseconds of decisions before the loop is free for others."""

CLOSE_S = 3.0
"""How long a source that is no longer read may take to stop before others proceed without it."""

ASK_S = 1.0
"""How often an unavailable store is retried, and a source asked to keep its deliveries alive."""


class Pump:
    """One started source.

    `state` is connecting, connected, reconnecting, paused, ended, stopped, offline or failed.
    """

    def __init__(
        self,
        spec: SourceSpec,
        open_source: Callable[[Hears], Source | None],
        readers: Sequence[Reader],
        life: Lifetime,
        take: Take,
    ) -> None:
        clock = life.clock.wall
        self.spec = spec
        self.readers: tuple[Reader, ...] = tuple(readers)
        self._is_read = asyncio.Event()
        self._is_read.set()
        self.state = "connecting"
        self.since = clock.now()
        self.error = ""
        self.traits = NO_TRAITS
        """Declared by the source once it is `opened`."""
        self.opened = asyncio.Event()
        self.received = 0
        self.lost = 0
        self.missed: Missed | None = None
        """What came due before it first connected, until it is read."""
        self.lag_s: float | None = None
        """The age of the newest event on receipt; None if the source reads old events."""
        self.connected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.connected.add_done_callback(lambda done: done.cancelled() or done.exception())
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the source has connected or failed."""
        self.may_receive = asyncio.Event()
        """Until it is set, the source is connected but receives nothing."""
        self.may_receive.set()
        self.task: asyncio.Task[Any] | None = None
        self._open = open_source
        self._life = life
        self._clock = clock
        self._take_in = take
        self._secrets = secrets_in(spec.settings)
        self._stopping = False
        self._interruptible = True
        self._crashes, self._crashed_at = 0, 0.0

    @property
    def states(self) -> Sequence[TriggerState]:
        return [state for state, _ in self.readers]

    def read_for(self, readers: Sequence[Reader]) -> None:
        """Deliveries go to these from now on; without any it receives nothing more."""
        before, self.readers = self.states, tuple(readers)
        for state in before:  # it may wait for the room of one that no longer reads it
            state.wake()
        if readers:
            self._is_read.set()
        else:
            self._is_read.clear()

    def start(self) -> None:
        self.task = self._life.tasks.start(self._run(), f"source {self.spec}")
        self.task.add_done_callback(lambda _: self.opened.set())

    async def stop(self) -> None:
        """Returns when the source is closed; received deliveries are settled first."""
        self._stopping = True
        if self.task is not None:
            if self._interruptible:
                self._life.tasks.cancel(self.task)
            await asyncio.wait([self.task])
        self._enter("stopped")

    async def stop_in_time(self) -> None:
        """`stop` within `CLOSE_S`; a slower source is reported and left to end by itself."""
        stopping = self._life.tasks.start(self.stop(), f"stop source {self.spec}")
        await asyncio.wait([stopping], timeout=CLOSE_S)
        if not stopping.done():
            self._life.tasks.cancel(stopping)
            why = "it is still closing" if self._interruptible else "its last events are still being decided"
            text = f"source {self.spec} did not stop within {CLOSE_S:g} s ({why}); it is left to end by itself"
            self._life.report(f"stop:{self.spec}", text)
            if self.task is not None and self._interruptible:
                self._life.tasks.cancel(self.task)  # it may react where it waits now
            self._enter("stopped")

    def abandoned(self, why: str) -> None:
        """Another process reads the source for these triggers."""
        self._enter("failed", why)

    async def _run(self) -> None:
        own_task, failures = OwnTask(), 0
        away: StoreUnavailable | None = None
        while not self._stopping:
            try:
                if away is not None:
                    await self._store_answers(away)
                    away = None
                opened = self._open(self)
                self.traits = traits_of(opened)
                self.opened.set()
                if opened is None:
                    self._connected("offline")
                    return
                async with AsyncExitStack() as stack:
                    with inside(self._life.tasks, f"source {self.spec}, which is being connected", CONNECTION):
                        source = await stack.enter_async_context(opened)
                    self._connected("connected")
                    failures = 0
                    await self.may_receive.wait()
                    with inside(self._life.tasks, f"source {self.spec}"):
                        await self._receive(source)
            except EndOfSource:
                self._enter("ended")
                return
            except SourceUnavailable as error:
                failures += 1
                await self._wait_to_reconnect(error, failures)
            except StoreUnavailable as error:
                away = error
                continue
            except LeaseLost as error:
                self._life.lease.lose(error)
                self.abandoned(describe(error))
                return
            except (SourceError, StoreError) as error:
                self._fail(error)
                return
            except BaseException as error:
                if own_task.ends_by(error):
                    self._cut_off()
                    raise
                await self._crashed(error)
                if self.state == "failed":
                    return

    def _cut_off(self) -> None:
        """Its task was cancelled, by a stop or from outside."""
        if not (self._stopping or self._life.closing):
            self._enter("failed", "its task was cancelled from outside")
            if not self.connected.done():
                self.connected.set_exception(SourceError(f"source {self.spec}: its task was cancelled from outside"))

    async def _crashed(self, error: BaseException) -> None:
        """The source raised an unexpected error. If it was connected before, it is reopened after growing delays;
        otherwise it cannot be started.
        """
        told = self._log(error)
        if not self.connected.done():
            plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
            self._fail(error if plain else SourceError(f"source {self.spec}: {told}"))
            return
        then = "" if self._stopping else "; it is reopened"
        self._life.report(f"source:{self.spec}", f"source {self.spec} has failed: {told}{then}")
        now = self._clock.monotonic()
        self._crashes = self._crashes + 1 if now - self._crashed_at < 2 * LAST_DELAY_S else 1
        self._crashed_at = now
        if not self._stopping:
            await self._reconnect_later(told, self._crashes)

    def lose(self, count: int, why: str) -> None:
        """This many events were lost before delivery."""
        self.lost += count
        for state in self.states:
            state.counters.lost += count
        self._life.report(f"lost:{self.spec}", f"source {self.spec} has lost {count} event(s): {why}")

    def note_missed(self, missed: Missed) -> None:
        """What came due before this connection; only the first one's counts as news."""
        if missed.due and not self.connected.done():
            self.missed = missed

    def _connected(self, state: str) -> None:
        self._enter(state)
        if not self.connected.done():
            self.connected.set_result(None)

    async def _receive(self, source: Source) -> None:
        try:
            while not self._stopping:
                self._interruptible = True
                limit = await self._room()
                deliveries = await source.receive(limit)
                self._interruptible = False
                if deliveries and not self.traits.finite:
                    self.lag_s = max(0.0, self._clock.now() - deliveries[-1].event.timestamp.timestamp())
                await self._hand_over(source, deliveries)
                await asyncio.sleep(0)
        finally:
            self._interruptible = True

    async def _room(self) -> int:
        """How many deliveries may come: as many as the fullest trigger has room for."""
        while True:
            await self._is_read.wait()
            tightest = min(self.states, key=TriggerState.room)
            if (room := tightest.room()) > 0:
                if self.state == "paused":
                    self._enter("connected")
                return min(room, BATCH)
            if tightest.paused and self.state != "paused":
                self._enter("paused")
            await tightest.held_up(self._clock)

    async def _hand_over(self, source: Source, deliveries: Sequence[Delivery]) -> None:
        """Hand deliveries to the triggers as far as there is room, which may have shrunk since.

        While the store is unavailable they are kept and retried. Raises `StoreUnavailable` once the source can no
        longer keep them; then all are given back.
        """
        away_since: float | None = None
        while deliveries:
            unwanted = not self.readers or any(state.paused for state in self.states)
            if unwanted or (self._stopping and away_since is not None):
                await _give_back(source, deliveries)  # requested before the pause, or while a trigger read it
                return
            tightest = min(self.states, key=TriggerState.room)
            room = tightest.room()
            if room <= 0:
                await self._wait(tightest.held_up(self._clock), source, deliveries)
                continue
            taken, rest = _parted(deliveries, room)
            if (error := await self._take(source, taken, ask=away_since is not None)) is None:
                deliveries, away_since = rest, None
                continue
            if away_since is None:
                away_since = self._clock.monotonic()
                self._report_away(error)
            deliveries = await self._outlast(source, deliveries, error, away_since)

    async def _outlast(
        self, source: Source, deliveries: Sequence[Delivery], error: StoreUnavailable, away_since: float
    ) -> Sequence[Delivery]:
        """Wait a moment for the store. Returns the deliveries that the source has kept."""
        keeps_s = self.traits.keeps_s
        wait_s = min(ASK_S, keeps_s / 3) if keeps_s else ASK_S
        if keeps_s is not None and self._clock.monotonic() + wait_s - away_since > keeps_s:
            await _give_back(source, deliveries)
            raise error
        try:
            await source.keep_alive(deliveries)
        except StaleDelivery as stale:
            logger.info("source %s: %s", self.spec, stale)
            gone = {id(delivery.event) for delivery in stale.deliveries}
            deliveries = [delivery for delivery in deliveries if id(delivery.event) not in gone]
        await self._wait(self._clock.sleep(wait_s), source, deliveries)
        return deliveries

    async def _wait(self, waiting: Awaitable[None], source: Source, deliveries: Sequence[Delivery]) -> None:
        """Returns with `waiting`; if the pump is stopped meanwhile, the deliveries are given back."""
        self._interruptible = True
        try:
            await waiting
        except asyncio.CancelledError:
            await _give_back(source, deliveries)
            raise
        finally:
            self._interruptible = False

    async def _take(
        self, source: Source, deliveries: Sequence[Delivery], *, ask: bool = False
    ) -> StoreUnavailable | None:
        """Returns the error of an unavailable store; then nothing was taken. `ask` the store before user code runs.

        Raises `LeaseLost`: the source is left, so received events go to the process that took over.
        """
        try:
            if ask:
                await self._life.store.heartbeat()
            with inside(self._life.tasks, f"the decision of an event of source {self.spec}"):
                decisions = await self._take_in(self.readers, deliveries)
        except LabClosed:
            await _give_back(source, deliveries)
            return None
        except StoreUnavailable as error:
            return error
        self.received += len(deliveries)
        try:
            await source.settle(deliveries, DeliveryOutcomes(deliveries, decisions))
        except StaleDelivery as error:
            logger.info("source %s: %s; the store has the events", self.spec, error)
        return None

    async def _store_answers(self, error: StoreUnavailable) -> None:
        """Returns once the store accepts writes. Raises `LeaseLost`."""
        self._report_away(error)
        self._enter("reconnecting", describe(error))
        self._interruptible = True
        while True:
            await self._clock.sleep(ASK_S)
            with suppress(StoreUnavailable):
                await self._life.store.heartbeat()
                return

    def _report_away(self, error: StoreUnavailable) -> None:
        self._life.report("store", f"source {self.spec} waits for the store: {describe(error)}")

    async def _wait_to_reconnect(self, error: SourceUnavailable, failures: int) -> None:
        told = masked(describe(error), self._secrets)
        if failures == 1:
            self._life.report(f"source:{self.spec}", f"source {self.spec} is not connected: {told}")
        await self._reconnect_later(told, failures)

    async def _reconnect_later(self, told: str, failures: int) -> None:
        self._enter("reconnecting", told)
        self._interruptible = True
        await self._clock.sleep(backoff_s(failures))

    def _fail(self, error: BaseException) -> None:
        told = masked(describe(error), self._secrets)
        self._enter("failed", told)
        if self.connected.done():
            self._life.report(f"source:{self.spec}", f"source {self.spec} failed: {told}")
        else:
            self.connected.set_exception(without_credentials(error, self._secrets, SourceError))

    def _log(self, error: BaseException) -> str:
        """Log with traceback. Returns the error in displayable form."""
        told = masked(describe(error), self._secrets)
        logger.error("source %s", self.spec, exc_info=without_credentials(error, self._secrets, SourceError))
        return told

    def _enter(self, state: str, error: str = "") -> None:
        if state != self.state:
            self.state, self.since = state, self._clock.now()
        self.error = error
        if state != "connecting" and not self.answered.done():
            self.answered.set_result(None)


def _parted(deliveries: Sequence[Delivery], room: int) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
    """Split after `room` deliveries."""
    if len(deliveries) <= room:
        return deliveries, ()
    every = deliveries if isinstance(deliveries, Deliveries) else list(deliveries)  # a deque cannot be sliced
    return every[:room], every[room:]


async def _give_back(source: Source, deliveries: Sequence[Delivery]) -> None:
    with suppress(StaleDelivery):  # the broker has taken it back already
        await source.nack(deliveries)
