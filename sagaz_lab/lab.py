"""The Lab: the composition root of registry, store, engine and sources, and the public interface."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from sagaz_lab import sources as package_sources
from sagaz_lab.abc import Clock, Engine, Event, Observer, Source, Store, current_host
from sagaz_lab.engines.local.engine import LocalEngine
from sagaz_lab.errors import DefinitionError
from sagaz_lab.hosting.assembly import Assembly, KeptParts
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.hosting.isolated import Isolated, on_its_loop
from sagaz_lab.hosting.loop_owner import LEAVE_S, LoopOwner
from sagaz_lab.hosting.opening import DEFAULT_STORE, LabStore, Opening, checked_engine, checked_option
from sagaz_lab.hosting.shadows import ShadowReport
from sagaz_lab.hosting.views import dashboard_widget
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.log import LogLine
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.model.run import Outcome, RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.spelled import possible_keys
from sagaz_lab.runtime.clock import SystemClock
from sagaz_lab.runtime.decisions.preview import Preview
from sagaz_lab.runtime.gates.admission import LIVE_RUNS
from sagaz_lab.runtime.registry.changes import Change, Diff
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.reports import Reports
from sagaz_lab.runtime.runs.run_view import RunView
from sagaz_lab.runtime.starting import Names, Start, checked_grace, checked_names
from sagaz_lab.runtime.status import Status, Why
from sagaz_lab.runtime.triggers.outcomes import Tally
from sagaz_lab.stores import open_store

ANYWHERE = ("activate", "start", "stop", "use", "on_report", "report", "register", "unregister", "rollback",
            "dashboard")  # fmt: skip
READING = ("runs", "steps", "events", "outcomes", "dead_letters", "revisions", "diff", "run")


@on_its_loop(but=ANYWHERE, reads=READING)
class Lab:
    """Registers sagas, triggers and runs them, and shows their state.

    `store` is an address ("memory", "sqlite:///lab.db", "postgresql://user@host/db") or a `Store`. `artifacts` is the
    folder of its artifact files (default: beside the store). `config` applies to triggers without one. `sources` maps
    further kinds of source to functions of (settings, surroundings). With `offline` only `fire` brings events.
    `max_live_runs` limits the concurrent runs of all triggers; the highest `priority` starts first. `threads` limits
    the concurrent plain `def` steps. Enter it with `async with`; otherwise the first awaited method opens it.
    """

    def __init__(
        self,
        store: str | Store | None = None, config: TriggerConfig | None = None, clock: Clock | None = None,
        sources: Mapping[str, Callable[..., Source]] | None = None, engine: Engine | None = None,
        offline: bool = False, max_live_runs: int = LIVE_RUNS, threads: int | None = None,
        artifacts: str | Path | None = None,
    ) -> None:  # fmt: skip
        self.config = checked_option("config", config, ("retry_delay_s",), "a TriggerConfig") or TriggerConfig()
        self.clock: Clock = checked_option("clock", clock, ("now", "monotonic"), "a Clock") or SystemClock()
        self._store = LabStore(store or DEFAULT_STORE, open_store, self.config.event_retention_days, artifacts)
        self._custom_engine = checked_engine(engine, threads)
        self._opens = Opening(package_sources, sources or {}, offline)
        self._loops, self._threads, self._reports = LoopOwner(), threads, Reports()
        there = self._loops.isolated.call_there
        self.registry = Registry(self._store.revisions, self._changed, self.clock.now, there)
        self._kept = KeptParts(
            clock=self.clock, config=self.config, max_live_runs=max_live_runs, registry=self.registry,
            connections=self._opens, report=self.report, call_there=there, open_store=open_store,
        )  # fmt: skip
        self._handle: Handle | None = None
        self._forgetting: asyncio.Task[int] | None = None
        self._tokens: list[Any] = []
        self._build()

    def _build(self) -> None:
        """Build the parts of one opening, for any loop. Outcomes and counts survive."""
        engine = self._custom_engine or LocalEngine(self.clock, self._threads, self.report)
        parts = Assembly(self._kept, self.store, engine)
        self._life, self._triggers, self._service = parts.life, parts.triggers, parts.service
        self._firing, self._redriving = parts.firing, parts.redriving
        self._views, self.shadows = parts.views, parts.shadows

    @property
    def store(self) -> Store:
        return self._store.store

    @property
    def sagas(self) -> Mapping[str, SagaDefinition]:
        """Current definitions by saga name."""
        return self.registry.current

    def register(self, saga: type[Saga]) -> None:
        """Make the class the current revision of its name. Raises `SagaConflict`."""
        self.registry.register(saga)

    def shadow(self, saga: type[Saga]) -> ShadowReport:
        """Let this class decide new events alongside the current revision of its name. It runs no action."""
        return self.shadows.begin(saga)[0]

    def unregister(self, name: str) -> None:
        self.registry.unregister(name)

    def revisions(self, saga: str) -> Any:
        """A DataFrame of the saga's revisions, newest first: number, at, current, code."""
        return self._views.revisions(saga, self.registry)

    def rollback(self, saga: str, number: int) -> Change:
        """Make an earlier revision from this process current again."""
        return self.registry.rollback(saga, number)

    def diff(self, saga: str, old: int, new: int) -> Diff:
        """The difference between the code of two revisions. Raises `UnknownName`."""
        return self.registry.diff(saga, old, new)

    def _changed(self, changes: Sequence[Change]) -> None:
        if self.is_open:
            self._service.changed(changes)

    @contextmanager
    def activate(self) -> Iterator[Self]:
        """Make this the current Lab: classes defined in the block register here."""
        token = current_host.set(self)
        try:
            yield self
        finally:
            current_host.reset(token)

    async def __aenter__(self) -> Self:
        await self.open()
        self._tokens.append(current_host.set(self))
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(ValueError):  # exited in another context, where it was never current
            current_host.reset(self._tokens.pop())
        await self.stop()

    @property
    def is_open(self) -> bool:
        return self._loops.is_open

    @property
    def isolated(self) -> Isolated:
        """The thread of an isolated Lab; without one the Lab lives on its callers' loop."""
        return self._loops.isolated

    async def open(self) -> None:
        """Open the store and accept `fire`. Raises `StoreError`. Idempotent."""
        if self._loops.loop is not asyncio.get_running_loop():
            await self._loops.open(self._open, self._forget_loop)

    async def _open(self) -> None:
        if self._life.closing:
            self._build()
        await self._service.open()

    def _forget_loop(self) -> None:
        """Its loop is gone, with all tasks. Interrupted runs are resumed from the store."""
        self._handle = None
        self._store.forget()
        self._build()

    def start(
        self, only: Names = None, hold: bool = False, resume: str = "all", isolated: bool = False,
        fresh: bool = False, skip_failed: bool = False,
    ) -> Handle:  # fmt: skip
        """Start the sources of all triggers, or of `only` these sagas or triggers. Returns at once.

        Await the handle until every source is connected. If one fails to connect, it raises and nothing is started;
        with `skip_failed` the others are started and `handle.failed` names the failed ones. `resume` selects which
        runs of a crashed process to resume: "all", the "last" of each saga, or "none". With `hold`, triggered runs
        that begin from now on, until a start without it, are held when they fail, as with `on_failure="hold"`. With
        `isolated` the Lab lives on its own thread until it is stopped and keeps running while a cell blocks the
        kernel. `fresh` first forgets all keys, cooldowns and windows.
        """
        how = Start(checked_names(self.sagas, only, resume), hold, resume, fresh, skip_failed)
        self._loops.move(isolated, self._lives, self._leave)
        self._handle = Handle(self, self._loops.start, partial(self._start, how))
        return self._handle

    async def use(self, store: str | Store) -> None:
        """Stop, then switch to another store; sagas stay, counts restart. On a `StoreError` nothing has changed."""
        self._service.refuse_inside("use()")
        there = await self._store.look(store)
        await self.stop()
        self._store.move(store, there)
        self._kept.tally = Tally()
        self._build()

    def _lives(self) -> bool:
        starting = self._handle is not None and self._handle.is_starting
        return starting or (self.is_open and (self._service.started or self._service.dispatcher.busy()))

    def _leave(self) -> Coroutine[Any, Any, None]:
        """Close the service on this loop; another loop gets a new one."""
        service, self._handle = self._service, None
        self._build()
        return service.stop(LEAVE_S)

    async def _start(self, how: Start, reads: Callable[[], None]) -> None:
        await self._loops.open(self._open, self._forget_loop)
        await self._service.start(how, reads)

    async def drain(self) -> None:
        """Wait until finite sources have ended and only retries remain. Raises `RunError` in a saga's code."""
        self._service.refuse_inside("drain()")
        if self._handle is not None:
            await self._handle.reads()
        if self.is_open:
            await self._service.drain()

    async def stop(self, grace_s: float = 10.0) -> None:
        """Stop the sources, give live runs `grace_s` seconds to finish, close the store. Idempotent.

        The next start resumes unfinished runs, a run that awaits this among them.
        """
        await self._loops.stop(partial(self._stop, checked_grace(grace_s)))

    async def _stop(self, grace_s: float) -> None:
        handle, self._handle = self._handle, None
        try:
            await self._service.stop(grace_s)
        finally:
            if handle is not None:
                handle.ended()

    async def fire(
        self, target: str, payload: Any = None, id: str | None = None, wait: bool = True, **where: Any
    ) -> list[Outcome]:
        """Send an event to the trigger "saga.method", or to all triggers of the source `target` with these settings.

        It passes the same gates as a broker's delivery. Returns when each outcome is final; with `wait=False` an
        outcome may be `waiting`. Raises `UnknownName` if no trigger matches.
        """
        await self.open()
        if self._forgetting is not None:
            await self._forgetting
            self._forgetting = None
        return await self._firing.fire(target, payload, id, wait, where)

    async def preview(self, trigger: str, payload: Any, id: str | None = None) -> Preview:
        """Each gate's verdict on this event. Stores nothing and starts nothing."""
        await self.open()
        return await self._firing.preview(trigger, payload, id)

    def why(self, event_id: str) -> Why:
        """The event's outcome, for each trigger that received it."""
        return self._views.why(event_id)

    def pause(self, trigger: str) -> None:
        """Stop taking events for this trigger. A shared source then pauses for all of its triggers."""
        self._triggers.load(self.sagas)
        self._triggers.find(trigger).pause()

    def resume(self, trigger: str) -> None:
        """Undo `pause`."""
        self._triggers.find(trigger).resume()

    async def params(self, trigger: str, history: bool = False) -> Any:
        """The trigger's current params; with `history` a list of the last 100 changes, newest first."""
        await self.open()
        return await self._service.params.of(self._triggers.find(trigger), history)

    async def set_params(self, trigger: str, /, **values: Any) -> None:
        """Change params from the trigger's next event on, durably. Raises `UnknownName`, `DefinitionError`."""
        await self.open()
        await self._service.params.change(self._triggers.find(trigger), values)

    async def set_limits(self, trigger: str, /, **values: Any) -> Mapping[str, Any]:
        """Change `max_concurrent_sagas` or `rate_limit_per_second` at once; returns both.

        Lasts until the cell sets another value. None is the option's default. Raises `UnknownName`, `DefinitionError`.
        """
        await self.open()
        return await self._service.limit(self._triggers.find(trigger), values)

    def forget(self, trigger: str, key: Any = None) -> Awaitable[int]:
        """Free the claim and cooldown of this key, or of all keys, so that it can start a run again.

        A string also matches the value it spells: "5" frees "5" and 5. The trigger's rate and open windows restart.
        Applies to every later `fire`; await it for the number of freed claims.
        """
        self._triggers.load(self.sagas)
        name, keys = self._triggers.find(trigger).name, [None] if key is None else possible_keys(key)

        async def forget() -> int:
            await self.open()
            return await self._firing.forget(name, keys)

        self._forgetting = self._life.tasks.start(forget(), f"forget {name}")
        return self._forgetting

    async def redrive(self, ids: str | Sequence[str], fix: Callable[[Any], Any] | None = None) -> list[Outcome]:
        """Put dead letters back in their original order; the current revision decides them. Returns the outcomes.

        Redrives in batches of 1,000: pass the oldest first. Skips settled ones. `fix` maps the payload to the one to
        use; if it raises, the redrive stops and that dead letter stays open. Raises `UnknownName` for an unknown id
        or a missing trigger.
        """
        await self.open()
        return await self._redriving.redrive(ids, fix)

    async def discard(self, ids: str | Sequence[str], reason: str) -> int:
        """Close dead letters without a redrive; returns how many were open."""
        await self.open()
        return await self._redriving.discard(ids, reason)

    async def run_saga(
        self, saga: Saga, context: Mapping[str, Any], run_id: str | None = None, event: Event | None = None
    ) -> SagaContext:
        """Run it once, without a trigger. Compensates on failure or cancellation. Raises the action's error."""
        definition = type(saga).__definition__
        if definition is None:
            raise DefinitionError(f"{type(saga).__qualname__} is abstract: it cannot be run")
        await self.open()
        return await self._service.runner.run_to_its_end(saga, definition, context, run_id, event)

    async def resume_run(self, run_id: str, from_action: str | None = None, *, foreground: bool = True) -> RunStatus:
        """Resume a held run from its failed action (or `from_action`) with the current revision.

        Also resumes a crashed process's run, which keeps its turn. `foreground`: its output goes to the calling cell.
        """
        await self.open()
        return await self._service.recovery.resume(run_id, from_action, foreground=foreground)

    async def compensate_run(self, run_id: str, *, foreground: bool = True) -> RunStatus:
        """Undo a held, partially committed or crashed run; cancel a running or waiting one."""
        await self.open()
        return await self._service.recovery.compensate(run_id, foreground=foreground)

    def status(self) -> Status:
        """The Lab's current state."""
        service, isolated = self._service, self._loops.isolated.loop is not None
        pumps, started = service.intake.pumps.values(), service.started_names()
        return self._views.status(self.sagas, pumps, started, self._reports.texts(), service.away, isolated)

    def counters(self) -> dict[str, dict[str, int]]:
        """For each trigger: received = started + filtered + duplicate + dropped + dead + waiting + deciding."""
        return {name: counters.as_dict() for name, counters in self._kept.tally.counters.items()}

    def context(self, run_id: str) -> SagaContext:
        """The context of a run: live while it runs here, else a copy of its last state. Raises `RunError`."""
        return self._views.context(run_id)

    def run(self, run_id: str) -> RunView:
        """A live or ended run with its steps. Raises `RunError` if the id is unknown."""
        return self._views.run(run_id)

    def logs(self) -> dict[str, list[LogLine]]:
        """Log lines in memory by run id, newest last: all live runs and the last 100 ended ones."""
        return self._kept.logs.with_those_of(self._service.runner.live.values())

    def runs(self, limit: int | None = 10_000) -> Any:
        """A DataFrame of the runs, newest first."""
        return self._views.frame("runs", limit)

    def steps(self, limit: int | None = 10_000) -> Any:
        """A DataFrame with a row for each trial of an action or compensation, newest first."""
        return self._views.frame("steps", limit)

    def outcomes(self, limit: int | None = 10_000) -> Any:
        """A DataFrame of outcomes, newest first. Filtered events appear only in the process that filtered them."""
        return self._views.outcomes(limit)

    def events(self, limit: int | None = 10_000) -> Any:
        """A DataFrame of the stored events, newest first."""
        return self._views.frame("events", limit)

    def dead_letters(self, by: str | None = None, limit: int | None = 10_000, before: str | None = None) -> Any:
        """A DataFrame of open dead letters older than `before`, newest first, or one row per cause."""
        return self._views.dead_letters(by, limit, before)

    def dashboard(self) -> Any:
        """The live dashboard widget. Raises `SourceNotReady` if its libraries are missing."""
        return dashboard_widget(self)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Show the observer all that flows from now on, also after a stop. Returns a function that removes it."""
        return self._kept.observing.add(observer)

    def on_report(self, listener: Callable[[str, str], Any]) -> Callable[[], None]:
        """Call the listener with the kind and text of every background problem. Returns a function that removes it."""
        return self._reports.listen(listener)

    def report(self, kind: str, text: str) -> None:
        """Report a background problem: log it, keep it for `status()`, call the listeners."""
        self._reports.tell(kind, text)
