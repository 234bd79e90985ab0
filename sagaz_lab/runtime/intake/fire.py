"""Events given by hand: they go through the same gates as a broker's delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from sagaz_lab.abc import DeadLetter, Delivery, Ending, Event, Redriven, Store
from sagaz_lab.errors import DefinitionError, TriggerPaused, UnknownName, Unreadable
from sagaz_lab.model.apart import apart
from sagaz_lab.model.given import event_with
from sagaz_lab.model.inside import caller_in, inside, place_in, waits_for_itself
from sagaz_lab.model.publishing import to_json
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
from sagaz_lab.model.trigger import SourceSpec, specs_of
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.preview import Preview
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.dispatch.exclusive import within_a_decision_of
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.publications import refuse_other_store
from sagaz_lab.runtime.outbox.refusals import is_refused
from sagaz_lab.runtime.triggers.compiled import claim_of
from sagaz_lab.runtime.triggers.dead_letters import is_letter_id, redriven_event, unreadable
from sagaz_lab.runtime.triggers.outcomes import ids_of, outcome_about
from sagaz_lab.runtime.triggers.state import Reader, TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers
from sagaz_lab.texts import masked

IN_OUTBOX = "in the outbox"
"""The outcome's reason of a dead publication that is put back."""

PAGE = 1000
"""Dead letters that are redriven together, as many as a source gives at a time."""

WAITS_S = 1.0
"""An action that has waited so long for an event of its own is reported: the two may wait for each other."""


class Firing:
    """Finds the triggers an event is for, and hands it to them."""

    def __init__(self, store: Store, life: Lifetime, triggers: Triggers, dispatcher: Dispatcher) -> None:
        self._store = store
        self._life = life
        self._triggers = triggers
        self._dispatcher = dispatcher

    async def fire(
        self, target: str, payload: Any, id: str | None, wait: bool, where: Mapping[str, Any]
    ) -> list[Outcome]:
        readers = self._targets(target, where)
        if wait:
            self._refuse_own_window(readers)
        for state, _ in readers:
            await self._room(state, "fire")
        state, part = readers[0]
        delivery = self._delivery(specs_of(state.compiled.trigger)[part], payload, id)
        with inside(self._life.tasks, f"the decision of an event fired to {target}"):
            decisions = await self._dispatcher.take(readers, [delivery], answered=True)
        given = [specs_of(state.compiled.trigger)[part] for state, part in readers]
        self._triggers.fired.update({spec.identity for spec in given if spec.traits.in_process})
        return [
            await self._outcome(state, decided, delivery.event.id, wait)
            for (state, _), decided in zip(readers, decisions, strict=True)
        ]

    async def _outcome(self, state: TriggerState, decided: Decided, event_id: str, wait: bool) -> Outcome:
        """What became of the event, with `wait` in the end."""
        entry = next(entry for entry in reversed(decided.entries) if event_id in ids_of(entry))
        outcome = outcome_about(entry, event_id)
        if not wait or outcome.kind is not OutcomeKind.WAITING:
            return outcome
        self._refuse_own(state)
        with self._told_if_long(state, f"which waits ({outcome.reason})"):
            return await asyncio.shield(decided.finals[0])

    def _refuse_own_window(self, readers: Sequence[Reader]) -> None:
        for state, _ in readers:
            if state.core.windows is not None:
                self._refuse_own(state)

    def _refuse_own(self, state: TriggerState) -> None:
        """What waits is decided when this decision is made."""
        if within_a_decision_of(state):
            place = place_in(self._life.tasks)
            caller = f"the decision of an event of {state.name}" if place is None else place.name
            raise waits_for_itself(f"fire() to {state.name}", caller, "fire it with wait=False")

    @contextmanager
    def _told_if_long(self, state: TriggerState, why: str) -> Iterator[None]:
        """If the Lab waits for whoever waits, as for an action, and that takes long, it is reported."""
        caller, watch = caller_in(self._life.tasks, self._dispatcher.runner.begun), None
        if caller is not None:
            watch = self._life.tasks.start(self._tell_later(caller, state, why), f"wait of {caller}")
        try:
            yield
        finally:
            if watch is not None:
                self._life.tasks.cancel(watch)

    async def _tell_later(self, caller: str, state: TriggerState, why: str) -> None:
        await self._life.clock.sleep(WAITS_S)
        self._life.report(
            f"waits:{caller.partition(' of run ')[0]}",
            f"{caller} has waited {WAITS_S:g} s for an event that it fired to {state.name}, {why}; if that waits for "
            "this to end, both wait for ever: fire it with wait=False, and not more than there is room for",
        )

    async def redrive(self, ids: str | Sequence[str], fix: Callable[[Any], Any] | None) -> list[Outcome]:
        """What became of those that are open. The trigger of each must be registered."""
        ids = _listed(ids)
        await self._refuse_unknown("redrive", ids)
        outcomes: list[Outcome] = []
        skipped = len(ids)
        for start in range(0, len(ids), PAGE):
            letters = await self._store.letters(ids[start : start + PAGE])
            skipped -= len(letters)
            if fix is None:
                letters = self._readable(letters)
            outcomes += await self._publish_again([letter for letter in letters if is_refused(letter)], fix)
            letters = [letter for letter in letters if not is_refused(letter)]
            for trigger in dict.fromkeys(letter.trigger for letter in letters):
                self._triggers.find(trigger)
            events: list[tuple[DeadLetter, Event]] = []
            try:
                for letter in letters:
                    events.append((letter, await redriven_event(letter, fix)))  # noqa: PERF401  keeps what it has
            finally:  # those before one that cannot be fixed are put back all the same
                outcomes += await self._put_back(events)
        self._tell_skipped("redrive", skipped)
        return outcomes

    async def _publish_again(self, letters: Sequence[DeadLetter], fix: Callable[[Any], Any] | None) -> list[Outcome]:
        """Publications that a broker refused go back into the outbox."""
        payloads: dict[str, bytes] = {}
        if fix is not None:
            for letter in letters:
                event = await redriven_event(letter, fix)
                payloads[letter.id] = to_json(event.payload, letter.id, event.source)
        ids = [letter.id for letter in letters]
        found = await self._store.settle_refused(ids, "redriven", "", payloads=payloads) if ids else ()
        self._life.published()
        now = self._life.clock.now()
        return [
            Outcome(OutcomeKind.WAITING, IN_OUTBOX, it.event.id, it.trigger, it.run_id or None, it.revision, now)
            for it in letters
            if it.id in found
        ]

    def _readable(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        found = []
        for letter in letters:
            if (error := unreadable(letter.event)) is None:
                found.append(letter)
                continue
            self._life.report(
                f"unreadable:{letter.id}",
                f"dead letter {letter.id} stays open: {error}; redrive it with fix=, which gets the stored text, "
                f"or lab.discard it",
            )
        return found

    async def discard(self, ids: str | Sequence[str], reason: str) -> int:
        """Returns how many were open. A held run that cannot be read is given up: nothing of it is undone."""
        listed = _listed(ids)
        if not (isinstance(reason, str) and reason.strip()):
            raise DefinitionError(f"discard: reason={reason!r} must be a text that says why")
        runs = [id for id in listed if not is_letter_id(id) and await self._give_up(id, reason)]
        return len(runs) + await self._discard_letters([id for id in listed if id not in runs], reason)

    async def _give_up(self, run_id: str, reason: str) -> bool:
        store = self._store
        stored = await store.load(run_id)
        if stored is None or stored.damage is None or stored.status is not RunStatus.HELD:
            return False
        ending = Ending(RunStatus.CANCELLED, Unreadable(f"{stored.damage}; discarded: {reason}"))
        await store.end(run_id, ending, attempt=stored.attempt, at=self._life.clock.now())
        return True

    async def _discard_letters(self, ids: Sequence[str], reason: str) -> int:
        await self._refuse_unknown("discard", ids)
        refused = await self._store.settle_refused(ids, "discarded", reason)
        self._life.published()  # perhaps what waited behind it
        count = len(refused) + await self._store.settle_letters(ids, "discarded", reason)
        self._tell_skipped("discard", len(set(ids)) - count)
        return count

    async def _refuse_unknown(self, verb: str, ids: Sequence[str]) -> None:
        """Raises `UnknownName` for what is no letter and never was one."""
        store = self._store
        if odd := [id for id in ids if not is_letter_id(id)]:
            known = {letter.id for letter in await store.letters(odd)}
            if never := [str(id) for id in odd if id not in known]:
                newest = [row[0] for row in store.rows("dead_letters", 10)[1]]
                raise UnknownName(verb, "open dead letter", ", ".join(never), newest)

    def _tell_skipped(self, verb: str, count: int) -> None:
        if count:
            text = f"{verb} skipped {count} that are no open dead letters any more: they were redriven or discarded"
            self._life.report("letters:skipped", text)

    async def _put_back(self, events: Sequence[tuple[DeadLetter, Event]]) -> list[Outcome]:
        """Those of one trigger are decided together, in one transaction as far as there is room."""
        found: dict[str, Outcome] = {}
        for group in _groups(events):
            state = self._triggers.find(group[0][0].trigger)
            taken = 0
            while taken < len(group):
                await self._room(state, "redrive")
                now = group[taken : taken + state.room()]
                taken += len(now)
                with inside(self._life.tasks, f"the decision of an event redriven to {state.name}"):
                    decisions = await self._decide_again(state, now)
                letter_of = {event.id: letter.id for letter, event in now}
                for entry in chain.from_iterable(decided.entries for decided in decisions):
                    for id in letter_of.keys() & ids_of(entry):
                        found[letter_of[id]] = outcome_about(entry, id)
        return [found[letter.id] for letter, _ in events if letter.id in found]

    async def _decide_again(self, state: TriggerState, letters: Sequence[tuple[DeadLetter, Event]]) -> list[Decided]:
        """Each letter is settled in the transaction that takes in what comes of its event.

        A run that failed has its event, or those of its window, decided as they are: they have waited before. An event
        that could not be decided comes as if it were new. Either takes over the claim of its id.
        """
        now = self._life.clock.now()
        redriven = {event.id: _redriven(state, letter, event, now) for letter, event in letters}
        whole = [event for letter, event in letters if letter.run_id is not None]
        decisions: list[Decided] = []
        if whole:
            mine = {event.id: redriven[event.id] for event in whole}
            decisions += await self._dispatcher.take_whole(state, whole, mine)
        by_part: dict[int, list[Delivery]] = {}
        for letter, event in letters:
            if letter.run_id is None:
                by_part.setdefault(state.compiled.part_of(event), []).append(Delivery(event, None, True))
        for part, deliveries in by_part.items():
            mine = {it.event.id: redriven[it.event.id] for it in deliveries}
            decisions += await self._dispatcher.take([(state, part)], deliveries, answered=True, redriven=mine)
        return decisions

    async def preview(self, trigger: str, payload: Any, id: str | None) -> Preview:
        state = self._triggers.find(trigger)
        delivery = self._delivery(state.compiled.trigger.spec, payload, id)
        with inside(self._life.tasks, f"the preview of {trigger}"):
            return await self._dispatcher.preview(state, delivery)

    async def forget(self, trigger: str, keys: Sequence[str | None]) -> int:
        """Free the claims and cooldowns of these keys, or (None) all, and let its pace and open periods begin anew."""
        state, freed = self._triggers.find(trigger), 0
        for key in keys:
            state.core.forget(key)
            self._dispatcher.run_queue.release(state)
            for claim in _claims_named(state, key):
                freed += await self._store.forget(trigger, claim)
        return freed

    async def _room(self, state: TriggerState, verb: str) -> None:
        """Returns when an event may be taken. Raises `TriggerPaused`: nobody knows when that would be."""
        refuse_other_store(state.compiled.definition, self._store)
        # Before the look at the room, so that nothing is awaited between that look and the decision.
        await self._triggers.barrier.lifted([state.compiled.definition.name])
        # Within a decision of the trigger there would be no room before its end.
        if state.room() > 0 or (within_a_decision_of(state) and not state.paused):
            return
        with self._told_if_long(state, "which has no room for it"):
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
        """Which part of a composite trigger is meant."""
        part, parts = where.get("part", 0), len(specs_of(state.compiled.trigger))
        if unknown := [name for name in where if name != "part"]:
            raise UnknownName(f"fire {state.name}", "option", unknown[0], ["part"])
        if type(part) is not int or not 0 <= part < parts:
            raise DefinitionError(f"fire {state.name}: part={part!r} must be a number from 0 to {parts - 1}")
        return part

    def _delivery(self, spec: SourceSpec, payload: Any, id: str | None) -> Delivery:
        """Of an event as it is, or of a new one; without an id it gets one that no other has."""
        if not (id is None or (isinstance(id, str) and id)):
            raise DefinitionError(f"fire: id={id!r} must be a text that is not empty")
        if isinstance(payload, Event):
            given = id or payload.id
            event = payload.with_payload(apart(payload.payload)).with_id(given or next(self._life.event_ids))
            return Delivery(event, None, not given)
        now = self._life.clock.shown()
        if spec.traits.scheduled and (payload is None or isinstance(payload, Mapping)):
            payload = {"scheduled_for": now, **(payload or {})}
        event = event_with(apart(payload), id or next(self._life.event_ids), str(spec), now)
        return Delivery(event, None, id is None)


def _redriven(state: TriggerState, letter: DeadLetter, event: Event, now: float) -> Redriven:
    compiled = state.compiled
    claim = compiled.id_claim(event, compiled.part_of(event)) if event.id else letter.id
    return Redriven(letter.id, state.name, claim or letter.id, letter.run_id, now + compiled.id_ttl_s)


def _claims_named(state: TriggerState, key: str | None) -> list[str | None]:
    """What a key or an id is claimed as: a long id as its hash, and in a composite behind the number of its part."""
    if not key:
        return [key]
    names = list(dict.fromkeys((key, claim_of(key))))
    if state.compiled.trigger.composite is None:
        return [*names]
    parts = range(len(specs_of(state.compiled.trigger)))
    return [*names, *(f"{part}:{name}" for part in parts for name in names)]


def _listed(ids: str | Sequence[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(ids)


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


def _groups(events: Sequence[tuple[DeadLetter, Event]]) -> list[list[tuple[DeadLetter, Event]]]:
    """Those of one trigger together, in their order; an event that died twice begins another group."""
    groups: list[list[tuple[DeadLetter, Event]]] = []
    last: dict[str, tuple[list[tuple[DeadLetter, Event]], set[str]]] = {}
    for letter, event in events:
        if letter.trigger not in last or event.id in last[letter.trigger][1]:
            last[letter.trigger] = ([], set())
            groups.append(last[letter.trigger][0])
        group, ids = last[letter.trigger]
        group.append((letter, event))
        ids.add(event.id)
    return groups
