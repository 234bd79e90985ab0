"""Fired events: they pass the same gates as a broker's deliveries."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sagaz_lab.abc import Delivery, Event, Store
from sagaz_lab.errors import DefinitionError, TriggerPaused, UnknownName
from sagaz_lab.model.apart import apart
from sagaz_lab.model.given import event_with
from sagaz_lab.model.inside import caller_in, inside, place_in, waits_for_itself
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.model.trigger import SourceSpec, specs_of
from sagaz_lab.runtime.decisions.preview import Preview
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.dispatch.exclusive import open_decision_of
from sagaz_lab.runtime.intake.fire_queue import Answer, FireQueue
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.triggers.compiled import claim_of
from sagaz_lab.runtime.triggers.state import Reader, TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers
from sagaz_lab.texts import masked

WAITS_S = 1.0
"""An action that waits this long for an event it fired is reported: the two may wait for each other."""


class Firing:
    """Finds the triggers for an event, and hands it to them."""

    def __init__(self, store: Store, life: Lifetime, triggers: Triggers, dispatcher: Dispatcher) -> None:
        self._store = store
        self._life = life
        self._triggers = triggers
        self._dispatcher = dispatcher
        self._queue = FireQueue(life, dispatcher, self.room, self._reporting_if_long)

    async def fire(
        self, target: str, payload: Any, id: str | None, wait: bool, where: Mapping[str, Any]
    ) -> list[Outcome]:
        readers = self._targets(target, where)
        if wait:
            self._refuse_own_window(readers)
        for state, _ in readers:
            await self.room(state, "fire")
        state, part = readers[0]
        delivery = self._delivery(specs_of(state.compiled.trigger)[part], payload, id)
        with inside(self._life.tasks, f"the decision of an event fired to {target}"):
            answers = await self._queue.take(readers, delivery)
        given = [specs_of(state.compiled.trigger)[part] for state, part in readers]
        self._triggers.fired.update({spec.identity for spec in given if spec.traits.in_process})
        return [await self._outcome(state, answer, wait) for (state, _), answer in zip(readers, answers, strict=True)]

    async def _outcome(self, state: TriggerState, answer: Answer, wait: bool) -> Outcome:
        """The event's outcome; with `wait`, the final one."""
        outcome, final = answer
        if not wait or outcome.kind is not OutcomeKind.WAITING:
            return outcome
        self._refuse_own(state)
        if final is None:
            return outcome
        with self._reporting_if_long(state, f"which waits ({outcome.reason})"):
            return await asyncio.shield(final)

    def _refuse_own_window(self, readers: Sequence[Reader]) -> None:
        for state, _ in readers:
            if state.core.windows is not None:
                self._refuse_own(state)

    def _refuse_own(self, state: TriggerState) -> None:
        """A waiting event is decided only after this decision."""
        if open_decision_of(state) is not None:
            place = place_in(self._life.tasks)
            caller = f"the decision of an event of {state.name}" if place is None else place.name
            raise waits_for_itself(f"fire() to {state.name}", caller, "fire it with wait=False")

    @contextmanager
    def _reporting_if_long(self, state: TriggerState, why: str) -> Iterator[None]:
        """Report a long wait of a caller that the Lab waits for, such as an action."""
        caller, watch = caller_in(self._life.tasks, self._dispatcher.runner.begun), None
        if caller is not None:
            watch = self._life.tasks.start(self._report_later(caller, state, why), f"wait of {caller}")
        try:
            yield
        finally:
            if watch is not None:
                self._life.tasks.cancel(watch)

    async def _report_later(self, caller: str, state: TriggerState, why: str) -> None:
        await self._life.clock.sleep(WAITS_S)
        self._life.report(
            f"waits:{caller.partition(' of run ')[0]}",
            f"{caller} has waited {WAITS_S:g} s for an event that it fired to {state.name}, {why}; if that waits for "
            "this to end, both wait for ever: fire it with wait=False, and no more than there is room for",
        )

    async def preview(self, trigger: str, payload: Any, id: str | None) -> Preview:
        state = self._triggers.find(trigger)
        delivery = self._delivery(state.compiled.trigger.spec, payload, id)
        with inside(self._life.tasks, f"the preview of {trigger}"):
            return await self._dispatcher.preview(state, delivery)

    async def forget(self, trigger: str, keys: Sequence[str | None]) -> int:
        """Free the claims and cooldowns of these keys, or (None) all, and reset the trigger's pace and open periods."""
        state, freed = self._triggers.find(trigger), 0
        for key in keys:
            state.core.forget(key)
            self._dispatcher.run_queue.release(state)
            for claim in _claims_named(state, key):
                freed += await self._store.forget(trigger, claim)
        return freed

    async def room(self, state: TriggerState, verb: str) -> None:
        """Returns when an event may be taken. Raises `TriggerPaused`, since a pause has no known end."""
        refuse_other_store(state.compiled.definition, self._store)
        # First, so that nothing is awaited between the check for room and the decision.
        await self._triggers.barrier.lifted([state.compiled.definition.name])
        # Within a decision of the trigger there would be no room before its end.
        if state.room() > 0 or (open_decision_of(state) is not None and not state.paused):
            return
        with self._reporting_if_long(state, "which has no room for it"):
            while state.room() <= 0:
                self._life.refuse_closing()
                if state.paused:
                    name = state.name
                    cure = f"lab.resume({name!r}), or %triggers resume {name}, comes first"
                    raise TriggerPaused(f"{verb}: {name} is paused and takes no event; {cure}")
                await state.changed()

    def _targets(self, target: str, where: Mapping[str, Any]) -> list[Reader]:
        states = [state for state in self._triggers.states.values() if not state.removed]
        for state in states:
            if state.name == target:
                return [(state, self._part(state, where))]
        found = [
            (state, part)
            for state in states
            for part, spec in enumerate(specs_of(state.compiled.trigger))
            if _reads(spec, target, where)
        ]
        if found:
            return found
        raise _unknown(target, where, states)

    def _part(self, state: TriggerState, where: Mapping[str, Any]) -> int:
        """The part of a composite trigger that is meant."""
        part, parts = where.get("part", 0), len(specs_of(state.compiled.trigger))
        if unknown := [name for name in where if name != "part"]:
            raise UnknownName(f"fire {state.name}", "option", unknown[0], ["part"])
        if type(part) is not int or not 0 <= part < parts:
            raise DefinitionError(f"fire {state.name}: part={part!r} must be a number from 0 to {parts - 1}")
        return part

    def _delivery(self, spec: SourceSpec, payload: Any, id: str | None) -> Delivery:
        """The delivery of a given or a new event; without an id it gets a unique one."""
        if not (id is None or (isinstance(id, str) and id)):
            raise DefinitionError(f"fire: id={id!r} must be a non-empty string")
        if isinstance(payload, Event):
            given = id or payload.id
            event = payload.with_payload(apart(payload.payload)).with_id(given or next(self._life.event_ids))
            return Delivery(event, None, not given)
        now = self._life.clock.shown()
        if spec.traits.scheduled and (payload is None or isinstance(payload, Mapping)):
            payload = {"scheduled_for": now, **(payload or {})}
        event = event_with(apart(payload), id or next(self._life.event_ids), str(spec), now)
        return Delivery(event, None, id is None)


def _claims_named(state: TriggerState, key: str | None) -> list[str | None]:
    """The claims of a key or an id: a long id is hashed, and in a composite each part has its prefix."""
    if not key:
        return [key]
    names = list(dict.fromkeys((key, claim_of(key))))
    if state.compiled.trigger.composite is None:
        return [*names]
    parts = range(len(specs_of(state.compiled.trigger)))
    return [*names, *(f"{part}:{name}" for part in parts for name in names)]


def _reads(spec: SourceSpec, kind: str, where: Mapping[str, Any]) -> bool:
    return spec.kind == kind and all(name in spec.settings and spec.settings[name] == v for name, v in where.items())


def _unknown(target: str, where: Mapping[str, Any], states: Sequence[TriggerState]) -> UnknownName:
    """Why no trigger would take it: the name is wrong, or a setting of the source's."""
    specs = [spec for state in states for spec in specs_of(state.compiled.trigger)]
    of_kind = [spec for spec in specs if spec.kind == target]
    if not of_kind:
        known = {*(state.name for state in states), *(spec.kind for spec in specs)}
        return UnknownName("fire", "trigger or source", target, known)
    settings = {name for spec in of_kind for name in spec.settings}
    if unknown := [name for name in where if name not in settings]:
        return UnknownName(f"fire {target}", "setting", unknown[0], settings)
    read = {_settings({name: spec.settings.get(name) for name in where}) for spec in of_kind}
    return UnknownName(f"fire {target}", "trigger with", _settings(where), read)


def _settings(where: Mapping[str, Any]) -> str:
    return masked(", ".join(f"{name}={value!r}" for name, value in where.items()))
