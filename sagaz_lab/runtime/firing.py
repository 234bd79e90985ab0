"""Events given by hand: they go through the same gates as a broker's delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sagaz_lab.abc import Delivery, Event
from sagaz_lab.errors import LabClosed, UnknownName
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.model.trigger import SourceSpec
from sagaz_lab.runtime.compiled import TriggerState
from sagaz_lab.runtime.dispatcher import Dispatcher
from sagaz_lab.runtime.explain import Preview, preview
from sagaz_lab.runtime.outcomes import outcome as outcome_of


class Firing:
    """Finds the triggers an event is for, and hands it to them."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    async def fire(
        self, target: str, payload: Any, id: str | None, wait: bool, where: Mapping[str, Any]
    ) -> list[Outcome]:
        states = self._targets(target, where)
        for state in states:
            await self._room(state)
        delivery = self._delivery(states[0].compiled.trigger.spec, payload, id)
        decisions = await self._dispatcher.take(states, [delivery], answered=True)
        outcomes = []
        for decided in decisions:
            outcome = outcome_of(decided.entries[-1])
            if wait and outcome.kind is OutcomeKind.HELD and (final := decided.starts[0].final):
                outcome = await asyncio.shield(final)
            outcomes.append(outcome)
        return outcomes

    async def redrive(self, ids: Sequence[str], fix: Callable[[Any], Any] | None) -> list[Outcome]:
        store, outcomes = self._dispatcher.store, []
        for letter in await store.letters(ids):
            state = self.state(letter.trigger)
            await self._room(state)
            event = letter.event if fix is None else letter.event.with_payload(fix(letter.event.payload))
            # A letter's claim is its dead run's, which lets it start again; a letter without a run has none.
            decisions = await self._dispatcher.take(
                [state], [Delivery(event, None, letter.run_id is None)], answered=True
            )
            await store.settle_letters([letter.id], "redriven", "")
            outcomes.append(outcome_of(decisions[0].entries[-1]))
        return outcomes

    async def preview(self, trigger: str, payload: Any, id: str | None) -> Preview:
        dispatcher, state = self._dispatcher, self.state(trigger)
        delivery = self._delivery(state.compiled.trigger.spec, payload, id)
        now, moment = dispatcher.clock.now(), dispatcher.clock.monotonic()
        return await preview(dispatcher.decider, state, delivery, now, moment)

    def state(self, trigger: str) -> TriggerState:
        """The trigger's state. Raises `UnknownName` with the nearest one."""
        states = self._dispatcher.states
        if trigger not in states or states[trigger].removed:
            raise UnknownName("lab", "trigger", trigger, [s.name for s in states.values() if not s.removed])
        return states[trigger]

    async def _room(self, state: TriggerState) -> None:
        state.compiled.refuse_unbuilt()
        while state.room() <= 0:
            if self._dispatcher.closing:
                raise LabClosed("the Lab is closing; the event was not taken")
            await state.changed()

    def _targets(self, target: str, where: Mapping[str, Any]) -> list[TriggerState]:
        states = [state for state in self._dispatcher.states.values() if not state.removed]
        if found := [state for state in states if state.name == target]:
            return found
        if found := [state for state in states if _reads(state.compiled.trigger.spec, target, where)]:
            return found
        asked = target + "".join(f", {name}={value!r}" for name, value in where.items())
        known = [state.name for state in states] + sorted({state.compiled.trigger.spec.kind for state in states})
        raise UnknownName("fire", "trigger or source", asked, known)

    def _delivery(self, spec: SourceSpec, payload: Any, id: str | None) -> Delivery:
        """Of an event as it is, or of a new one; without an id it gets one that no other has."""
        if not (id is None or (isinstance(id, str) and id)):
            raise ValueError(f"fire: id={id!r} must be a text that is not empty")
        if isinstance(payload, Event):
            given = id or payload.id
            return Delivery(payload.with_id(given or next(self._dispatcher.event_ids)), None, not given)
        now = datetime.fromtimestamp(self._dispatcher.clock.now(), UTC)
        if spec.kind == "cron" and (payload is None or isinstance(payload, Mapping)):
            payload = {"scheduled_for": now, **(payload or {})}
        event = Event(payload, id or next(self._dispatcher.event_ids), str(spec), timestamp=now)
        return Delivery(event, None, id is None)


def _reads(spec: SourceSpec, kind: str, where: Mapping[str, Any]) -> bool:
    return spec.kind == kind and all(name in spec.settings and spec.settings[name] == v for name, v in where.items())
