"""What lives while a Lab is open: the dispatcher, the intake, the heartbeat and what a dead process left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from sagaz_lab.abc import Engine, Publisher, Source, Store, Surroundings
from sagaz_lab.errors import LabClosed, LeaseLost, StoreError, TriggersOwned, describe
from sagaz_lab.model.inside import CONNECTION, caller_in, place_in, waits_for_itself
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.model.trigger import SourceSpec, Trigger
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.heartbeat import Heartbeat
from sagaz_lab.runtime.intake.intake import Intake
from sagaz_lab.runtime.intake.ports import Hears
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.lifetime.tasks import CLOSE_S
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.outbox.relay import Relay
from sagaz_lab.runtime.owner import owner_name
from sagaz_lab.runtime.recovery.recovery import Recovery
from sagaz_lab.runtime.recovery.start_report import AWAY, Found, StartReport, spoken
from sagaz_lab.runtime.registry.changes import Change
from sagaz_lab.runtime.registry.stored_revisions import StoredRevisions
from sagaz_lab.runtime.starting import Start
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.stored_params import ParamsInStore
from sagaz_lab.runtime.triggers.triggers import Triggers

_Before = tuple[frozenset[str] | None, bool, bool, str]
"""The names that are started, whether anything is, whether failing runs are held, and how runs are resumed."""

_GROUP = "consumer group"
LOGS_S = 2.0
"""How long a stop waits for the logs of runs to be written."""


class Connections(Protocol):
    """How sources and publishers are made; None where the Lab has none, as offline."""

    def source(
        self, trigger: Trigger, spec: SourceSpec, surroundings: Callable[[str, int], Surroundings]
    ) -> Source | None: ...

    def publisher(self, spec: SourceSpec) -> Publisher | None: ...


class Service:
    """One opening of a Lab, on one event loop."""

    def __init__(
        self, store: Store, life: Lifetime, triggers: Triggers, observers: Observers, engine: Engine,
        connections: Connections,
    ) -> None:  # fmt: skip
        self._store = store
        self._life = life
        self._clock = life.clock.wall
        self._triggers = triggers
        self._registry = triggers.registry
        self._report = life.report
        self._observers = observers
        self._connections = connections
        self._only: frozenset[str] | None = None
        self._lock = asyncio.Lock()
        # One at a time asks for what is to be resumed: whoever is second knows what the first has taken.
        self._resuming = asyncio.Lock()
        # One start at a time: one that fails puts back what it found, which no other may have changed meanwhile.
        self._starting = asyncio.Lock()
        self._latest: Start | None = None
        self._stopping = False
        self._resume = "all"
        self.started = False
        self.away: StartReport | None = None
        self.group = ""
        self.dispatcher = dispatcher = Dispatcher(life, triggers, observers, engine)
        self.runner = dispatcher.runner
        self.intake = Intake(life, dispatcher.take, self._open_source)
        self.recovery = Recovery(store, life, triggers, dispatcher)
        self._revisions = StoredRevisions(store, self._registry, self._clock, self._report, self._renumbered)
        self.params = ParamsInStore(store, triggers, self._clock, life.report)
        self.relay = Relay(store, life, triggers, dispatcher.letters, dispatcher.take, connections.publisher)
        life.published = self.relay.wake
        self._heartbeat = Heartbeat(store, life, triggers, self.params, self.runner, self.relay)
        life.lease.on_lost = self._lost
        triggers.on_taken_over = self._taken_over

    async def open(self) -> None:
        owner = await self._store.open(owner_name())
        self._revisions.maker = f"{owner.name}, process {os.getpid()}"
        try:
            await self._prepare()
        except BaseException:  # nothing has begun yet: once the cause is cured, the Lab opens
            await self._store.close()
            raise
        self._life.tasks.start(self._heartbeat.beat(), "heartbeat")
        self._life.lease.watch()
        self.relay.start()

    async def _prepare(self) -> None:
        await self._put_clock_right()
        self.group = await self._private_group()
        self._triggers.left_out.clear()
        sagas: Mapping[str, SagaDefinition] | None = None
        while sagas is not self._registry.current:  # a cell may be run meanwhile
            sagas = self._registry.current
            self._triggers.load(sagas)
            await self._revisions.save([(name, number) for name in sagas for number in self._registry.past(name)])
            await self.params.follow()

    async def _put_clock_right(self) -> None:
        """What an earlier process stored while its clock was ahead would last until that time comes."""
        ahead_s, cut = await self._store.put_clock_right(self._life.clock.now())
        if cut:
            counts = ", ".join(f"{count} {what}" for what, count in cut.items())
            text = f"the clock was ahead, by {spoken(ahead_s)}, when this store was written"
            self._report("clock:store", f"{text}; cut to their usual length from now: {counts}")

    async def _private_group(self) -> str:
        """The name of this store's consumer groups: no other store reads by it."""
        positions = self._store.positions()
        group = await positions.get(_GROUP)
        if group is None:
            group = f"sagaz-lab-{os.urandom(4).hex()}"
            await positions.put(_GROUP, group)
        return group

    def _open_source(self, trigger: Trigger, spec: SourceSpec, hears: Hears) -> Source | None:
        return self._connections.source(trigger, spec, partial(self._surroundings, hears=hears))

    def _surroundings(self, reader: str, number: int, hears: Hears) -> Surroundings:
        """What a source is built with that this trigger reads: no other owner of this store reads for it."""
        return Surroundings(
            clock=self._clock, positions=self._store.positions(), group=self.group, reader=reader, number=number,
            consumer=f"{self.group}/{reader}", lease=self._life.lease.insist, letters=self._store.letters_after,
            report=self._report, lost=hears.lose, missed=hears.note_missed, shared=self.intake.shared,
        )  # fmt: skip

    async def start(self, how: Start, reads: Callable[[], None]) -> None:
        """Own the triggers, connect the sources, resume what was interrupted; then events are received.

        Raises `TriggersOwned`, and the error of a source that cannot be connected: then what ran before runs on, and
        nothing else. With `skip_failed` the other sources are read. `reads` is called as soon as events are received.
        A second start waits until the first has begun or failed, and does not get its error.
        """
        if (place := place_in(self._life.tasks)) is not None and place.about == CONNECTION:
            raise waits_for_itself("start()", place.name, "call it once the source is connected")
        if how.fresh:
            self.refuse_inside("start(fresh=True)")
        may_receive = asyncio.Event()
        async with self._starting:
            if self._stopping:
                raise LabClosed("the Lab was stopped before this start began; start it again")
            before = self._as_it_is()
            self._latest = how
            try:
                await self._start(how, may_receive, reads)
            except Exception:
                await self._undo_start(before)
                raise
            finally:
                may_receive.set()
        if not how.skip_failed:
            await self._insist_on_connections(how, before)

    async def _insist_on_connections(self, how: Start, before: _Before) -> None:
        """A source may take its time, and others may be started meanwhile: then their start decides what is read."""
        pumps = self.intake.pumps_of(self.started_names())
        try:
            await self.intake.connected(pumps)
        except Exception:
            async with self._starting:
                if self._latest is how:
                    await self._undo_start(before)
            raise

    def _as_it_is(self) -> _Before:
        return self._only, self.started, self.runner.hold, self._resume

    async def _start(self, how: Start, may_receive: asyncio.Event, reads: Callable[[], None]) -> None:
        self._only = how.only or None
        if self._triggers.left_out:  # the cause may have been cured
            self._triggers.left_out.clear()
            self._triggers.load(self._registry.current)
            await self.params.follow()
        wanted = list(self._wanted())
        for state in wanted:
            refuse_other_store(state.compiled.definition, self._store)
        last_seen_s = await self._store.own_triggers([state.name for state in wanted])
        away_s = 0.0 if self.started or last_seen_s is None else last_seen_s
        async with self._resuming:
            self.started, self.runner.hold, self._resume = True, how.hold, how.resume
            await self._reconcile(may_receive)
            await self.intake.answered()
            if not how.skip_failed:
                self.intake.refuse_failed(self.intake.pumps_of({state.name for state in wanted}))
            if how.fresh:
                await self._forget(wanted)
            # Nothing is decided until the runs have their slots and keys again.
            barrier = self._triggers.barrier.raise_for(self._registry.current)
            try:
                waited = await self.dispatcher.window_timers.restore(wanted)
                found = await self.recovery.resume_interrupted(how.resume)
            finally:
                self._triggers.barrier.lift(barrier)
            found.events_need_code = self.dispatcher.window_timers.without_code.look(await self._store.left_waiting())
        found.waited += waited
        self.relay.look_again()
        may_receive.set()
        reads()
        await self._tell(away_s, found)

    async def _undo_start(self, before: _Before) -> None:
        """Read what was read before the start, and nothing else."""
        self._only, self.started, self.runner.hold, self._resume = before
        async with self._lock:
            await self.intake.read(self._wanted if self.started else tuple)
            with suppress(StoreError, TriggersOwned):
                await self._store.own_triggers(list(self.started_names()))

    async def _forget(self, states: Collection[TriggerState]) -> None:
        """Free what earlier runs of these triggers have claimed."""
        freed = waited = 0
        await self.dispatcher.window_timers.restore(states)
        for state in states:
            waited += await self.dispatcher.window_timers.forget(state)
            freed += await self._store.forget(state.name)
            state.core.forget(None)
            self.dispatcher.run_queue.release(state)
        names = ", ".join(state.name for state in states)
        told = f"{freed} claim{'s'[: freed != 1]} or cooldown{'s'[: freed != 1]}"
        self._report("fresh", f"forgot {told} and {waited} waiting event{'s'[: waited != 1]} of {names}")

    async def _tell(self, away_s: float, found: Found) -> None:
        self.away = StartReport(
            away_s=away_s,
            missed=await self.intake.missed(),
            resumed=found.resumed,
            needs_code=found.needs_code,
            left=found.left,
            events_waited=found.waited,
            events_need_code=found.events_need_code,
        )
        if self.away.is_worth_telling:
            self._report(AWAY, f"{self.away.headline()} (lab.status().away has the details)")

    def changed(self, changes: Sequence[Change]) -> None:
        """The registry has other definitions: the next batch is decided by them."""
        self._triggers.load(self._registry.current, [change.name for change in changes])
        self.intake.hand_over(self._wanted())
        self._observers.changed([change.name for change in changes])
        new = [(change.name, change.revision) for change in changes if change.is_new]
        shared = self._store.traits.survives  # else nobody else gives numbers
        back = self._triggers.without_code.keys() & {change.name for change in changes}
        barrier = self._triggers.barrier.raise_for(back.union(name for name, _ in new if shared))
        task = self._life.tasks.start(self._follow(new, barrier), "registry change")
        task.add_done_callback(lambda _: self._triggers.barrier.lift(barrier))
        self.relay.wake()  # it may be known now where something goes

    def _taken_over(self) -> None:
        self.intake.hand_over(self._wanted())
        self._life.tasks.start(self._reconcile(), "registry change")

    async def limit(self, state: TriggerState, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change limits, so that what waits for them may start; returns all."""
        await self.params.limit(state, values)
        self.dispatcher.run_queue.release(state)
        return state.limits.values

    def started_names(self) -> set[str]:
        return {state.name for state in self._wanted()} if self.started else set()

    async def drain(self) -> None:
        """Returns when the finite sources have ended, nothing is under way and what can be published has been."""
        await self.intake.ended()
        await self._quiet()
        await self._observers.caught_up()

    def refuse_inside(self, what: str) -> None:
        """Raises `RunError` where the user's code calls this that the Lab waits for."""
        caller = caller_in(self._life.tasks, self.runner.begun)
        if caller is not None:
            raise waits_for_itself(what, caller, "call it where no saga, listener or source waits for it, as in a cell")

    async def _quiet(self) -> None:
        """What runs publish to the process itself may start other runs."""
        while True:
            await self.dispatcher.drain()
            await self.relay.settled()
            if not self.dispatcher.busy():
                return

    async def stop(self, grace_s: float) -> None:
        """In this order: no new events, let what runs finish and publish, abandon the rest, tell the store.

        Whatever fails of that, nothing lives on and the store is closed.
        """
        self.started, self._stopping = False, True
        self._life.lease.close()
        try:
            await self._stop(grace_s)
        finally:
            try:
                if not self._life.closing:
                    await self.dispatcher.close()
            finally:
                await self._store.close()

    async def _stop(self, grace_s: float) -> None:
        try:
            async with asyncio.timeout(max(grace_s, CLOSE_S)):
                await self.intake.close()
        except TimeoutError:
            self._report("stop", "a source, or a trigger method that it waits for, did not let itself be stopped")
        try:
            async with asyncio.timeout(grace_s):
                await self._quiet()
        except TimeoutError:
            if live := len(self.runner.live):
                self._report("stop", f"stopped with {live} run(s) under way; the next start resumes them")
        if left := self.relay.left:
            self._report("stop:relay", f"{left} publication(s) wait in the store; the next start goes on with them")
        await self.recovery.leave()
        await self.relay.close()
        self.runner.keep_logs()
        await asyncio.to_thread(self.runner.logs.flush, LOGS_S)
        try:
            await self.params.follow()  # what is changed and not kept yet
            await self._triggers.keep_counts()
        except LeaseLost as error:
            self._report("lease", f"stopped; what was counted last is not kept: {describe(error)}")

    async def _follow(self, new: Sequence[tuple[str, int]], barrier: asyncio.Future[None]) -> None:
        await self._life.insist(partial(self._revisions.save, new), "the number of a new revision")
        if self.started:
            async with self._resuming:
                await self.dispatcher.window_timers.restore_registered(list(self._wanted()))
                await self.recovery.resume_interrupted(self._resume)
        self._triggers.barrier.lift(barrier)
        await self.params.follow()
        if self.started:
            await self._reconcile()

    def _renumbered(self) -> None:
        self._triggers.load(self._registry.current)
        self.intake.hand_over(self._wanted())

    async def _reconcile(self, may_receive: asyncio.Event | None = None) -> None:
        async with self._lock:
            if not self.started:
                return
            try:
                await self._store.own_triggers([state.name for state in self._wanted()])
            except LeaseLost as error:
                self._life.lease.lose(error)
                return
            except (StoreError, TriggersOwned) as error:
                self._report("store", describe(error))
            await self.intake.read(self._wanted, may_receive)

    def _lost(self, error: LeaseLost) -> None:
        """Another process decides the events and goes on with the runs: nothing of that is done here any more."""
        self.started = False
        left = self.runner.abandon()
        self._life.tasks.start(self.intake.abandon(describe(error)), "stop the sources")
        runs = f"; {left} run(s) that were under way here go on there" if left else ""
        self._report("lease", f"the triggers are stopped: {error}{runs}")

    def _wanted(self) -> Iterator[TriggerState]:
        for state in self._triggers.states.values():
            saga = state.compiled.definition.name
            if not state.removed and (self._only is None or self._only & {state.name, saga}):
                yield state
