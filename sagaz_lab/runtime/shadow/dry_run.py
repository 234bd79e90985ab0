"""A shadow's engine and store: nothing executes, and little is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, ClassVar

from msgspec.structs import replace

from sagaz_lab.abc import (
    Acceptance,
    Attempt,
    Ending,
    EngineTraits,
    IntakeStore,
    NewRun,
    Refusal,
    Spent,
    Store,
    StoreTraits,
)
from sagaz_lab.model.awaiting import waited
from sagaz_lab.model.run import RESTARTABLE, Run, RunStatus
from sagaz_lab.model.stopping import uncancel
from sagaz_lab.runtime.gates.pending_run import NOTHING
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.triggers.outcomes import Tally

WATCHED = 10_000
"""Ended live runs kept for a shadow; the oldest are dropped first."""


class Twins:
    """The ends of live runs whose events a shadow decides too."""

    def __init__(self, live: Runner) -> None:
        self._live = live
        self._ends: dict[tuple[str, str], asyncio.Future[RunStatus]] = {}
        self._running: dict[str, asyncio.Future[RunStatus]] = {}

    def watch(self, run_id: str) -> None:
        """A live run begins, now or once launched."""
        if not self._watch(run_id):
            asyncio.get_running_loop().call_soon(self._watch, run_id)

    def _watch(self, run_id: str) -> bool:
        run = self._live.live.get(run_id)
        if run is None or run.event is None:
            return False
        end = self._running[run_id] = asyncio.get_running_loop().create_future()
        self._ends[run.trigger or "", run.event.id] = end
        if len(self._ends) > WATCHED:
            del self._ends[next(iter(self._ends))]
        return True

    def ended(self, run: Run) -> None:
        """A live run has ended."""
        end = self._running.pop(run.run_id, None)
        if end is not None and not end.done():
            end.set_result(run.status)

    def take(self, trigger: str, event_id: str) -> asyncio.Future[RunStatus] | None:
        """The end of the live run that this event started, if any; returned once."""
        return self._ends.pop((trigger, event_id), None)


class DryRun:
    """An engine without calls. A run lasts as long as the live run of the same event, with the same success or failure;
    without such a run it completes at once.
    """

    traits: ClassVar[EngineTraits] = EngineTraits()

    def __init__(self, twins: Twins) -> None:
        self._twins = twins
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def launch(self, runs: Iterable[Attempt]) -> None:
        for run in runs:
            task = asyncio.get_running_loop().create_task(self._execute(run))
            self._tasks[run.run_id] = task
            task.add_done_callback(partial(self._close, run))

    def _close(self, run: Attempt, task: asyncio.Task[None]) -> None:
        del self._tasks[run.run_id]
        run.close(asyncio.CancelledError() if task.cancelled() else task.exception())

    def attach(self, run: Attempt) -> bool:
        return False

    def cancel(self, run_id: str) -> None:
        if (task := self._tasks.get(run_id)) is not None:
            task.cancel()

    def abandon(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def close(self) -> None:
        self.abandon()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _execute(self, run: Attempt) -> None:
        status = RunStatus.COMPLETED
        run.begun = True
        try:
            if run.event is not None and (end := self._twins.take(run.trigger or "", run.event.id)) is not None:
                status = RunStatus.CANCELLED if await end in RESTARTABLE else status
        except asyncio.CancelledError:
            if not run.cancelling:
                raise
            await uncancel()
        run.stopping = True
        await waited(run.end(Ending(RunStatus.CANCELLED if run.cancelling else status)))


class Ledger:
    """A store for a shadow's claims and cooldowns, which also honours those of earlier live runs.

    `own` is a store in memory for everything else; it gets no events or contexts. `live` is only read. `began` is a run
    id of the live sequence, drawn when the shadow began.
    """

    traits: ClassVar[StoreTraits] = StoreTraits(survives=False, awaited=False, any_thread=False)

    def __init__(self, own: Store, live: IntakeStore, began: str) -> None:
        self._own = own
        self.url = own.url
        self.heartbeat, self.lease_held, self.lease_lost = own.heartbeat, own.lease_held, own.lease_lost
        self.waiting, self.append, self.end, self.load = own.waiting, own.append, own.end, own.load
        self._live = live
        self._process, _, number = began.rpartition("-")
        self._number = int(number)

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        found = await self._live.seen(trigger, claims, at=at)
        return {**self._earlier(found), **await self._own.seen(trigger, claims, at=at)}

    async def cooling(self, trigger: str, *, at: float) -> Mapping[str, Refusal]:
        found = await self._live.cooling(trigger, at=at)
        return {**self._earlier(found), **await self._own.cooling(trigger, at=at)}

    def _earlier(self, found: Mapping[str, Refusal]) -> dict[str, Refusal]:
        return {name: refusal for name, refusal in found.items() if self._is_earlier(refusal.first_run)}

    def _is_earlier(self, run_id: str | None) -> bool:
        """Another process's run counts too: it also refuses the current revision."""
        if run_id is None:
            return False
        process, _, number = run_id.rpartition("-")
        return process != self._process or not number.isdigit() or int(number) <= self._number

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        runs = [_bare(run) for run in batch.runs]
        # Of a dead letter, only the arrival of its event is kept.
        dead = [Spent(it.trigger, it.claim, it.claim_until or 0.0) for it in batch.dead if it.claim is not None]
        return await self._own.accept(replace(batch, runs=runs, dead=[], spent=[*batch.spent, *dead], redriven=[]))

    async def begin(self, run_id: str, *, revision: int, attempt: int, started: Sequence[str], at: float,
                    context: Any = None, cooldown: tuple[str, float] | None = None) -> None:  # fmt: skip
        await self._own.begin(
            run_id, revision=revision, attempt=attempt, started=started, at=at, context=None, cooldown=cooldown
        )


def _bare(run: NewRun) -> NewRun:
    bare = copy(run)
    bare.event, bare.context = None, NOTHING
    return bare


class NoTally(Tally):
    """Counts without keeping outcomes, which are compared as they come."""

    def keep(self, entries: object) -> None:
        pass
