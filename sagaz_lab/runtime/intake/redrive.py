"""Redriving dead letters, to be decided again, and discarding them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

from sagaz_lab.abc import DeadLetter, Delivery, Ending, Event, Redriven, Store
from sagaz_lab.errors import DefinitionError, UnknownName, Unreadable
from sagaz_lab.model.inside import inside
from sagaz_lab.model.publishing import to_json
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher
from sagaz_lab.runtime.intake.ports import Room
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.outbox.refusals import is_refused
from sagaz_lab.runtime.triggers.dead_letters import is_letter_id, redriven_event, unreadable
from sagaz_lab.runtime.triggers.outcomes import ids_of, outcome_about
from sagaz_lab.runtime.triggers.state import TriggerState
from sagaz_lab.runtime.triggers.triggers import Triggers

IN_OUTBOX = "in the outbox"
"""The outcome's reason of a redriven publication."""

PAGE = 1000
"""Dead letters redriven together, as many as a source delivers at a time."""


class Redriving:
    """Settles open dead letters on request."""

    def __init__(self, store: Store, life: Lifetime, triggers: Triggers, dispatcher: Dispatcher, room: Room) -> None:
        self._store = store
        self._life = life
        self._triggers = triggers
        self._dispatcher = dispatcher
        self._room = room

    async def redrive(self, ids: str | Sequence[str], fix: Callable[[Any], Any] | None) -> list[Outcome]:
        """The outcomes of the open ones. The trigger of each must be registered."""
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
            finally:  # those before one that cannot be fixed are redriven all the same
                outcomes += await self._put_back(events)
        self._report_skipped("redrive", skipped)
        return outcomes

    async def _publish_again(self, letters: Sequence[DeadLetter], fix: Callable[[Any], Any] | None) -> list[Outcome]:
        """Publications that a broker refused return to the outbox."""
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
        """Returns how many were open. An unreadable held run is given up without compensation."""
        listed = _listed(ids)
        if not (isinstance(reason, str) and reason.strip()):
            raise DefinitionError(f"discard: reason={reason!r} must be a string that gives the reason")
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
        self._life.published()  # publications behind it may proceed
        count = len(refused) + await self._store.settle_letters(ids, "discarded", reason)
        self._report_skipped("discard", len(set(ids)) - count)
        return count

    async def _refuse_unknown(self, verb: str, ids: Sequence[str]) -> None:
        """Raises `UnknownName` for anything that was never a dead letter."""
        store = self._store
        if odd := [id for id in ids if not is_letter_id(id)]:
            known = {letter.id for letter in await store.letters(odd)}
            if never := [str(id) for id in odd if id not in known]:
                newest = [row[0] for row in store.rows("dead_letters", 10)[1]]
                raise UnknownName(verb, "open dead letter", ", ".join(never), newest)

    def _report_skipped(self, verb: str, count: int) -> None:
        if count:
            text = f"{verb} skipped {count} that are no longer open: they were redriven or discarded"
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
        """Each letter is settled in the transaction that stores its event's decision.

        The events of a failed run are decided as they are: they have passed their window. An event that could not be
        decided counts as new. Either takes over the claim of its id.
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


def _redriven(state: TriggerState, letter: DeadLetter, event: Event, now: float) -> Redriven:
    compiled = state.compiled
    claim = compiled.id_claim(event, compiled.part_of(event)) if event.id else letter.id
    return Redriven(letter.id, state.name, claim or letter.id, letter.run_id, now + compiled.id_ttl_s)


def _listed(ids: str | Sequence[str]) -> list[str]:
    return [ids] if isinstance(ids, str) else list(ids)


def _groups(events: Sequence[tuple[DeadLetter, Event]]) -> list[list[tuple[DeadLetter, Event]]]:
    """Group by trigger, in order; an event that died twice begins another group."""
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
