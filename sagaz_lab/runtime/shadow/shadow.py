"""A shadow: an edited revision that decides the live events beside the current one, with its own gates, and starts
nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from copy import deepcopy
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from sagaz_lab.abc import Acceptance, DecidedOutcomes, Delivery, Observer, Store, WaitingEvent
from sagaz_lab.errors import DefinitionError, describe
from sagaz_lab.model.event import payload_as_sent
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import OutcomeKind, Run, RunStatus
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.model.trigger import specs_of
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.registry.changes import Change
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.shadow.comparison import Comparison, Final, finals_of
from sagaz_lab.runtime.shadow.dry_run import DryRun, Ledger, NoTally, Twins
from sagaz_lab.runtime.triggers.live_params import LiveParams
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers

QUEUE = 10_000
"""Events of a trigger that may wait for the shadow. It misses further ones, which are not compared."""

PATIENCE_S, PATIENCE_OF_ONE_S = 10.0, 0.1
"""Time limits for the shadow per batch and per event; beyond them the events are dead for it."""

CLOSE_S = 3.0

_TOLD = ("task", "engine", "store", "slow", "observer")
"""Kinds of a shadow's problems that are reported; others are differences, or the current revision's too."""


class Shadow:
    """The shadow of one saga. `current` is the revision beside it."""

    def __init__(
        self, life: Lifetime, triggers: Triggers, runner: Runner, change: Change, definition: SagaDefinition,
        store: Store,
    ) -> None:  # fmt: skip
        self.change = change
        self.definition = definition
        self.current = triggers.registry.current[definition.name]
        self.since = life.clock.now()
        self.comparison = Comparison()
        self.missed = 0
        self.ended = False
        self._life = life
        self._runner = runner
        self._context = copy_context()
        self._loop: asyncio.AbstractEventLoop | None = None
        silent = _silent(definition)
        registry = Registry(lambda *_: (), lambda _: None, life.clock.now)
        registry.current = MappingProxyType({silent.name: silent})
        self._ledger = Ledger(store, life.store, next(life.run_ids))
        self._twins = Twins(runner)
        tally, own = NoTally(), Lifetime(self._ledger, life.clock, self._report)
        self._triggers = Triggers(own, registry, _quiet(triggers.default), tally, triggers.slots.limit)
        self._observers = Observers(tally, self._report)
        self._own = Dispatcher(own, self._triggers, self._observers, DryRun(self._twins))
        self._tasks = own.tasks
        try:
            self._triggers.load(registry.current, registry.current)
        except DefinitionError:
            raise
        except Exception as error:
            raise DefinitionError(f"{definition.name}: the class cannot be instantiated: {describe(error)}") from error
        self._observers.add(_Observer(self))
        self._feeds = {
            name: _Feed(state, triggers.states.get(name), runner)
            for name, state in self._triggers.states.items()
            if _method(name) in self.current.triggers
        }

    @property
    def compared(self) -> Collection[str]:
        """The triggers that both revisions have."""
        return self._feeds.keys()

    def feed(self, live: TriggerState, part: int, deliveries: Sequence[Delivery]) -> None:
        """The current revision has taken these."""
        feed = self._feeds.get(live.name)
        if feed is None:
            return
        fit = deliveries[: max(0, QUEUE - feed.size)] if part < feed.parts else ()
        self.missed += len(deliveries) - len(fit)
        if not fit:
            return
        now = self._life.clock.now()
        for delivery in fit:
            self.comparison.expect(live.name, _id(delivery), now)
        feed.put(part, [_apart(delivery) for delivery in fit], live)
        if feed.task is None:
            self._loop = asyncio.get_running_loop()
            feed.task = self._context.run(self._tasks.start, self._work(feed), f"shadow of {live.name}")

    def live_decided(self, outcomes: DecidedOutcomes) -> None:
        """The current revision has decided these."""
        now = self._life.clock.now()
        for run_id in outcomes.contexts:
            self._twins.watch(run_id)
        for trigger, event_id, final in finals_of(outcomes):
            self.comparison.decided("current", trigger, event_id, final, now)

    def live_ended(self, run: Run) -> None:
        """A run of the current revision has ended."""
        self._twins.ended(run)

    def decided(self, trigger: str, event_id: str, final: Final) -> None:
        """The shadow has decided an event."""
        if final.kind != OutcomeKind.STARTED:
            self._twins.take(trigger, event_id)
        if not self.ended:
            self.comparison.decided("shadow", trigger, event_id, final, self._life.clock.now())

    async def _work(self, feed: _Feed) -> None:
        try:
            await self._seed(feed)
            while feed.queue:
                part, deliveries, live = feed.queue.popleft()
                if live is not None:
                    feed.follow(*live)
                    self._own.run_queue.release(feed.state)
                while deliveries:
                    room = await feed.room()
                    await self._decide(feed, part, deliveries[:room])
                    feed.size -= len(deliveries[:room])
                    deliveries = deliveries[room:]
        finally:
            feed.task = None

    async def _seed(self, feed: _Feed) -> None:
        """Copy the windows and live runs of the start, as if the revision had been made current."""
        waiting, feed.waiting = feed.waiting, ()
        if waiting:
            await self._ledger.accept(Acceptance(waiting=list(waiting)))
            await self._own.window_timers.restore([feed.state])
        runs, feed.runs = feed.runs, {}
        state, definition = feed.state, feed.state.compiled.definition
        for run_id, key in runs.items():
            if (run := self._runner.live.get(run_id)) is not None:
                pending = PendingRun(
                    run_id, definition.name, state.name, definition.revision, run.event, {}, 0.0, key=key
                )
                pending.status = RunStatus.RUNNING
                self._twins.watch(run_id)
                state.core.admission.occupy(pending)
                await self._ledger.accept(Acceptance(runs=[pending]))
                self._own.runner.launch_many([pending], definition, self._life.clock.now(), self._context)

    async def _decide(self, feed: _Feed, part: int, deliveries: Sequence[Delivery]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S + PATIENCE_OF_ONE_S * len(deliveries)):
                await self._own.take([(feed.state, part)], deliveries)
        except Exception as error:  # noqa: BLE001  never the current revision's fault
            for delivery in deliveries:
                self.decided(feed.state.name, _id(delivery), Final(OutcomeKind.DEAD.value, describe(error)))

    def caught_up(self) -> bool:
        """Whether nothing waits for it except what it has no room for."""
        return all(feed.task is None or feed.stuck for feed in self._feeds.values())

    def end(self) -> None:
        """It sees no more events; current work is abandoned soon."""
        self.ended = True
        if self._loop is not None and not self._loop.is_closed() and not self._life.closing:
            name = f"end of the shadow of {self.current.name}"
            self._loop.call_soon(lambda: self._life.tasks.start(self.close(), name))

    async def close(self) -> None:
        self.ended = True
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._own.close()

    def _report(self, kind: str, text: str) -> None:
        if not self.ended and kind.partition(":")[0] in _TOLD:
            self._life.report(f"shadow:{kind}", f"shadow of {self.current.name}: {text}")


class _Feed:
    """Events that the current trigger has taken, on their way to the shadow's."""

    def __init__(self, state: TriggerState, current: TriggerState | None, runner: Runner) -> None:
        self.state = state
        self.waiting: Sequence[WaitingEvent] = ()
        self.runs: Mapping[str, str | None] = {}
        self.parts = len(specs_of(state.compiled.trigger))
        self.queue: deque[tuple[int, list[Delivery], tuple[str, str] | None]] = deque()
        self.size = 0
        self.stuck = False
        self.task: asyncio.Task[Any] | None = None
        self._seen: tuple[Any, Any] | None = None
        if current is not None:
            self._take_over(current, runner.live.values())
        self.follow(None, None)

    def _take_over(self, live: TriggerState, runs: Iterable[Run]) -> None:
        """Copy the state at the start: open periods, the pace, windows, live runs."""
        state = self.state
        state.core.leading = deepcopy(live.core.leading)
        state.core.leading.configure(state.compiled.trigger.gates.debounce)
        state.core.admission.pace = deepcopy(live.core.admission.pace)
        self.waiting = () if live.core.windows is None else live.core.windows.events()
        turns = live.core.admission.turns()
        self.runs = {run.run_id: turns.get(run.run_id) for run in runs if run.trigger == live.name}

    def put(self, part: int, deliveries: list[Delivery], live: TriggerState) -> None:
        now = live.params.values, live.limits.values
        changed = self._seen is None or now[0] is not self._seen[0] or now[1] is not self._seen[1]
        self._seen = now
        self.queue.append((part, deliveries, (live.params.text(), live.limits.text()) if changed else None))
        self.size += len(deliveries)

    def follow(self, params: str | None, limits: str | None) -> None:
        """Follow the live params and limits, except those that the edited revision changed."""
        state = self.state
        state.params, before = LiveParams(state.name, state.params.defaults), state.limits
        state.limits = LiveParams(state.name, before.defaults)
        state.params.restore(params)
        state.limits.restore(limits)
        state.show_params()

    async def room(self) -> int:
        """How many events the shadow takes next, once it has room."""
        while (room := self.state.room()) <= 0:
            self.stuck = True
            await self.state.changed()
        self.stuck = False
        return room


class _Observer(Observer):
    """Observes the shadow's own decisions."""

    def __init__(self, shadow: Shadow) -> None:
        self._shadow = shadow

    def decided(self, outcomes: DecidedOutcomes) -> None:
        for trigger, event_id, final in finals_of(outcomes):
            self._shadow.decided(trigger, event_id, final)


def _silent(definition: SagaDefinition) -> SagaDefinition:
    """Without listeners and publications."""
    triggers = {
        method: replace(trigger, config=trigger.config and _quiet(trigger.config))
        for method, trigger in definition.triggers.items()
    }
    return replace(definition, listeners=(), hooks={}, config=definition.config and _quiet(definition.config),
                   triggers=MappingProxyType(triggers))  # fmt: skip


def _quiet(config: TriggerConfig) -> TriggerConfig:
    return replace(config, dead_letter_topic=None, persist_events=False)


def _method(trigger: str) -> str:
    return trigger.rpartition(".")[2]


def _id(delivery: Delivery) -> str:
    """The event's id in the decision loop."""
    given: Any = delivery.event.id
    return given if type(given) is str else "" if given is None else str(given)


def _apart(delivery: Delivery) -> Delivery:
    """The delivery with its own copy of the payload, which the method may change; uncopyable values are shared."""
    payload = payload_as_sent(delivery.event)
    if isinstance(payload, bytes | str | int | float | None):
        return delivery
    with suppress(BaseException):
        payload = deepcopy(payload)
    return delivery._replace(event=delivery.event.with_payload(payload))
