"""The parts that live while a Lab is open: dispatcher, intake, heartbeat and recovery."""

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
"""Started names, whether anything is started, whether failing runs are held, and how runs are resumed."""

_GROUP = "consumer group"
LOGS_S = 2.0
"""How long a stop waits for run logs to be written."""


class Connections(Protocol):
    """Creates sources and publishers; None if the Lab has none, as offline."""

    def source(
        self, trigger: Trigger, spec: SourceSpec, surroundings: Callable[[str, int], Surroundings]
    ) -> Source | None: ...

    def publisher(self, spec: SourceSpec) -> Publisher | None: ...


class Service:
    """An open Lab, on one event loop."""

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
        self._resuming = asyncio.Lock()  # the second reconciliation must see what the first has taken
        self._starting = asyncio.Lock()  # a failed start restores what it found, which no other may have changed
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
        except BaseException:  # nothing has begun yet: once the cause is fixed, the Lab opens
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
        while sagas is not self._registry.current:  # a cell may run meanwhile
            sagas = self._registry.current
            self._triggers.load(sagas)
            await self._revisions.save([(name, number) for name in sagas for number in self._registry.past(name)])
            await self.params.follow()

    async def _put_clock_right(self) -> None:
        """Deadlines that an earlier process stored while its clock was ahead would last until then."""
        ahead_s, cut = await self._store.put_clock_right(self._life.clock.now())
        if cut:
            counts = ", ".join(f"{count} {what}" for what, count in cut.items())
            text = f"the clock was ahead, by {spoken(ahead_s)}, when this store was written"
            self._report("clock:store", f"{text}; cut to their usual length from now: {counts}")

    async def _private_group(self) -> str:
        """The name of this store's consumer groups, which no other store uses."""
        positions = self._store.positions()
        group = await positions.get(_GROUP)
        if group is None:
            group = f"sagaz-lab-{os.urandom(4).hex()}"
            await positions.put(_GROUP, group)
        return group

    def _open_source(self, trigger: Trigger, spec: SourceSpec, hears: Hears) -> Source | None:
        return self._connections.source(trigger, spec, partial(self._surroundings, hears=hears))

    def _surroundings(self, reader: str, number: int, hears: Hears) -> Surroundings:
        """What a source that this trigger reads is built with; unique to this owner and store."""
        return Surroundings(
            clock=self._clock, positions=self._store.positions(), group=self.group, reader=reader, number=number,
            consumer=f"{self.group}/{reader}", lease=self._life.lease.insist, letters=self._store.letters_after,
            report=self._report, lost=hears.lose, missed=hears.note_missed, shared=self.intake.shared,
        )  # fmt: skip

    async def start(self, how: Start, reads: Callable[[], None]) -> None:
        """Own the triggers, connect the sources, resume interrupted runs; then events are received.

        Raises `TriggersOwned`, and the error of a source that cannot be connected; then only what ran before runs on.
        With `skip_failed` the other sources are read. `reads` is called as soon as events are received. A second start
        waits until the first has begun or failed, and does not get its error.
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
        """A source may connect slowly while another start begins; then that start decides what is read."""
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
        if self._triggers.left_out:  # the cause may be fixed
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
            # nothing is decided until the runs have their slots and keys again
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
        await self._report_start(away_s, found)

    async def _undo_start(self, before: _Before) -> None:
        self._only, self.started, self.runner.hold, self._resume = before
        async with self._lock:
            await self.intake.read(self._wanted if self.started else tuple)
            with suppress(StoreError, TriggersOwned):
                await self._store.own_triggers(list(self.started_names()))

    async def _forget(self, states: Collection[TriggerState]) -> None:
        freed = waited = 0
        await self.dispatcher.window_timers.restore(states)
        for state in states:
            waited += await self.dispatcher.window_timers.forget(state)
            freed += await self._store.forget(state.name)
            state.core.forget(None)
            self.dispatcher.run_queue.release(state)
        names = ", ".join(state.name for state in states)
        freed_text = f"{freed} claim{'s'[: freed != 1]} or cooldown{'s'[: freed != 1]}"
        self._report("fresh", f"forgot {freed_text} and {waited} waiting event{'s'[: waited != 1]} of {names}")

    async def _report_start(self, away_s: float, found: Found) -> None:
        self.away = StartReport(
            away_s=away_s,
            missed=await self.intake.missed(),
            resumed=found.resumed,
            needs_code=found.needs_code,
            left=found.left,
            events_waited=found.waited,
            events_need_code=found.events_need_code,
        )
        if self.away.is_worth_reporting:
            self._report(AWAY, f"{self.away.headline()} (lab.status().away has the details)")

    def changed(self, changes: Sequence[Change]) -> None:
        """The registry has new definitions, which decide from the next batch on."""
        self._triggers.load(self._registry.current, [change.name for change in changes])
        self.intake.hand_over(self._wanted())
        self._observers.changed([change.name for change in changes])
        new = [(change.name, change.revision) for change in changes if change.is_new]
        shared = self._store.traits.survives  # otherwise no other process assigns numbers
        back = self._triggers.without_code.keys() & {change.name for change in changes}
        barrier = self._triggers.barrier.raise_for(back.union(name for name, _ in new if shared))
        task = self._life.tasks.start(self._follow(new, barrier), "registry change")
        task.add_done_callback(lambda _: self._triggers.barrier.lift(barrier))
        self.relay.wake()  # a destination may be known now

    def _taken_over(self) -> None:
        self.intake.hand_over(self._wanted())
        self._life.tasks.start(self._reconcile(), "registry change")

    async def limit(self, state: TriggerState, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Change limits and start the runs that they now admit; returns all limits."""
        await self.params.limit(state, values)
        self.dispatcher.run_queue.release(state)
        return state.limits.values

    def started_names(self) -> set[str]:
        return {state.name for state in self._wanted()} if self.started else set()

    async def drain(self) -> None:
        """Returns when finite sources are exhausted, nothing is live and everything that can be published has been."""
        await self.intake.ended()
        await self._quiet()
        await self._observers.caught_up()

    def refuse_inside(self, what: str) -> None:
        """Raises `RunError` if called from user code that the Lab waits for."""
        caller = caller_in(self._life.tasks, self.runner.begun)
        if caller is not None:
            raise waits_for_itself(what, caller, "call it where no saga, listener or source waits for it, as in a cell")

    async def _quiet(self) -> None:
        while True:
            await self.dispatcher.drain()
            await self.relay.settled()
            if not self.dispatcher.busy():
                return

    async def stop(self, grace_s: float) -> None:
        """Stop taking events, let runs finish and publish, abandon the rest, record it in the store.

        Whatever fails on the way, nothing stays live and the store is closed.
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
            self._report("stop", "a source, or a trigger method that it waits for, did not stop when cancelled")
        try:
            async with asyncio.timeout(grace_s):
                await self._quiet()
        except TimeoutError:
            if live := len(self.runner.live):
                self._report("stop", f"stopped with {live} run(s) under way; the next start resumes them")
        if left := self.relay.left:
            self._report("stop:relay", f"{left} publication(s) wait in the store; the next start publishes them")
        await self.recovery.leave()
        await self.relay.close()
        self.runner.keep_logs()
        await asyncio.to_thread(self.runner.logs.flush, LOGS_S)
        try:
            await self.params.follow()  # what is changed and not kept yet
            await self._triggers.keep_counts()
        except LeaseLost as error:
            self._report("lease", f"stopped; the last counts are not stored: {describe(error)}")

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
        self.started = False
        left = self.runner.abandon()
        self._life.tasks.start(self.intake.abandon(describe(error)), "stop the sources")
        runs = f"; {left} run(s) that were under way here resume there" if left else ""
        self._report("lease", f"the triggers are stopped: {error}{runs}")

    def _wanted(self) -> Iterator[TriggerState]:
        for state in self._triggers.states.values():
            saga = state.compiled.definition.name
            if not state.removed and (self._only is None or self._only & {state.name, saga}):
                yield state
