"""The runs that live in this process, each in a task of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sagaz_lab.abc import Acceptance, Engine, Event
from sagaz_lab.errors import DefinitionError, LeaseLost, NotBuilt, RunError, describe
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import Run, RunStatus
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.runtime.admission import Ticket
from sagaz_lab.runtime.attempt import Attempt
from sagaz_lab.runtime.compiled import has_outbox
from sagaz_lab.runtime.context import context_of

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatcher import Dispatcher

logger = logging.getLogger("sagaz_lab")


CLOSE_S = 3.0
"""How long runs that are abandoned may take to end."""


class Runner:
    """Launches attempts and gives their slots back."""

    def __init__(self, dispatcher: Dispatcher, engine: Engine) -> None:
        self._dispatcher = dispatcher
        self._engine = engine
        self._instances: dict[str, tuple[SagaDefinition, Saga]] = {}
        self.live: dict[str, Run] = {}
        self.idle = asyncio.Event()

    def instance(self, definition: SagaDefinition) -> Saga:
        """One object of each revision's class; runs keep no state in it."""
        known = self._instances.get(definition.name)
        if known is None or known[0] is not definition:
            try:
                known = (definition, definition.cls())
            except TypeError as error:
                raise DefinitionError(
                    f"{definition.name}: the class must be made without arguments: {error}"
                ) from error
            self._instances[definition.name] = known
        return known[1]

    def launch(self, ticket: Ticket, definition: SagaDefinition, now: float, instance: Saga | None = None) -> Run:
        """Start an attempt that the store has as running."""
        run = Run(
            ticket.run_id,
            definition,
            instance or self.instance(definition),
            context_of(ticket),
            trigger=ticket.trigger,
            attempt=ticket.attempt,
            started_at=now,
            history=ticket.history,
            compensate_only=ticket.compensate_only,
        )
        self.live[ticket.run_id] = run
        run.task = asyncio.get_running_loop().create_task(self._execute(run, ticket))
        return run

    async def run_alone(
        self,
        saga: Saga,
        definition: SagaDefinition,
        context: Mapping[str, Any],
        run_id: str | None,
        event: Event | None,
    ) -> Run:
        """Accept and launch a run that no trigger asked for."""
        if has_outbox(definition):
            raise NotBuilt(f"{definition.name} has an OutboxSagaListener, but this version has no outbox")
        dispatcher, now = self._dispatcher, self._dispatcher.clock.now()
        name, revision = definition.name, definition.revision
        ticket = Ticket(run_id or next(dispatcher.run_ids), name, None, revision, event, context, now)
        ticket.status = RunStatus.RUNNING
        ticket.started = definition.plan.roots
        refused = await dispatcher.store.accept(Acceptance(runs=[ticket]))
        if refusal := refused.get(ticket.run_id):
            raise refusal.error or RunError(f"there is a run {ticket.run_id!r} already")
        return self.launch(ticket, definition, now, saga)

    async def _execute(self, run: Run, ticket: Ticket) -> None:
        """Runs the attempt. It owns its errors: whatever is not the saga's own is reported."""
        hooks = run.definition.hooks
        attempt = Attempt(self._dispatcher, run, ticket)
        try:
            if "on_saga_start" in hooks:
                await tell(hooks["on_saga_start"], run.definition.name, run.run_id, run.ctx)
            await self._engine.execute(run, attempt)
        except asyncio.CancelledError:
            pass  # abandoned: the store says how to go on
        except LeaseLost as error:
            self._dispatcher.report("lease", f"run {run.run_id} goes on in another process: {describe(error)}")
        except BaseException as error:
            logger.exception("run %s", run.run_id)
            self._dispatcher.report(
                "engine", f"run {run.run_id} was abandoned by an error of the engine: {describe(error)}"
            )
        finally:
            self._ended(run, ticket, attempt.retry_in_s)

    def _ended(self, run: Run, ticket: Ticket, retry_in_s: float | None) -> None:
        del self.live[run.run_id]
        dispatcher = self._dispatcher
        state = dispatcher.states.get(ticket.trigger or "")
        if state is not None:
            state.admission.leave(ticket.key, keep_turn=retry_in_s is not None)
            if state.admission.waiting:
                dispatcher.turns.release(state)
            else:
                state.wake()
        if retry_in_s is not None and not dispatcher.closing:
            dispatcher.turns.retry_later(ticket, retry_in_s)
        if not self.live:
            self.idle.set()

    async def close(self) -> None:
        """Abandon what still runs: the store says how to go on."""
        tasks = [run.task for run in self.live.values() if run.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_S)
            if left:
                self._dispatcher.report("stop", f"{len(left)} run(s) did not let themselves be stopped")
        self._engine.close()
