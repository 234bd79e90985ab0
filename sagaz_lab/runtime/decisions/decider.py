"""The decision loop: what one `receive` returned, for one trigger, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, repeat
from time import perf_counter
from typing import Any

from sagaz_lab.abc import HeldEvent, IntakeStore, Member, Redriven, Refusal
from sagaz_lab.errors import MissingKey
from sagaz_lab.model.apart import UNCHANGING
from sagaz_lab.model.awaiting import awaited, is_awaitable
from sagaz_lab.model.event import Delivery, Event, is_as_sent, payload_as_sent, reader_of
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.model.trigger import Skip
from sagaz_lab.model.variables import in_own_context
from sagaz_lab.runtime.decisions.decided import RETURNED_NONE, Decided
from sagaz_lab.runtime.decisions.first_gates import hold, lead
from sagaz_lab.runtime.decisions.hints import tell_hidden, tell_slow
from sagaz_lab.runtime.decisions.prepared import ITSELF, Prepared, events_of, ready, same
from sagaz_lab.runtime.decisions.returned import as_context
from sagaz_lab.runtime.gates.pending_run import NOTHING, PendingRun
from sagaz_lab.runtime.gates.window_policies import Closing
from sagaz_lab.runtime.tasks import Report
from sagaz_lab.runtime.triggers.compiled import CompiledTrigger, TriggerState
from sagaz_lab.runtime.triggers.decode import as_sent, id_text

_are_unchanging = UNCHANGING.issuperset
_AT_ONCE = frozenset({type(None), Skip, dict})
"""What most methods return: nothing of it is to be awaited."""
_FILTERED = OutcomeKind.FILTERED
_WAITING = RunStatus.WAITING
OVERLAP = "the run of an earlier tick still goes"


class Decider:
    """Decides batches of deliveries, and what has waited. `steady` gives a time that is never set back."""

    def __init__(self, store: IntakeStore, run_ids: Iterator[str], report: Report, steady: Callable[[], float]) -> None:
        self._store = store
        self._run_ids = run_ids
        self._report = report
        self.steady = steady

    @in_own_context
    async def decide(
        self, state: TriggerState, deliveries: Sequence[Delivery], now: float, *, part: int = 0, quiet: bool = False,
        redriven: Mapping[str, Redriven] = NOTHING,
    ) -> Decided:  # fmt: skip
        """Runs the trigger method on each event, or has it wait in its window; `quiet`: nobody is told."""
        decided = Decided(state, redriven)
        compiled = state.compiled
        hooks = {} if quiet else compiled.definition.hooks
        if received := hooks.get("on_trigger_received"):
            for delivery in deliveries:
                await tell(received, compiled.definition.name, delivery.event.source, delivery.event)
        prepared = await self._prepare(decided, deliveries, part)
        taken = await self._taken(decided, prepared, now)
        for event, error, claim in prepared.unfit:
            decided.bury(event, error, claim, taken, now)
        await self._pass(decided, prepared, taken, part, now, quiet=quiet)
        if decided.behind is not None:
            decided.redriven = decided.behind.keep_letters(redriven)
        if not quiet:
            tell_slow(self._report, decided)
            if not state.told_hidden_fields and prepared.claims:
                tell_hidden(self._report, state, prepared.events[0])
        return decided

    @in_own_context
    async def decide_window(self, state: TriggerState, closing: Closing, now: float) -> Decided:
        """Runs the method on what a window held: on all together, or on the last event. Its claims are its own."""
        decided, unfit = Decided(state), Decided(state)
        compiled = state.compiled
        fit: list[HeldEvent] = []
        subjects: list[Any] = []
        for held in closing.events:
            try:
                subjects.append(compiled.subject_of_one(held.event))
                fit.append(held)
            except BaseException as error:
                unfit.dead(held.event, error, now, held.claim)
        if fit:
            last, members = fit[-1], [Member(held.event, held.claim, held.declared) for held in fit[:-1]]
            listed, keyed = last.event, None
            if closing.together:
                listed = listed.with_payload([payload_as_sent(held.event) for held in fit])
                if compiled.concurrency_key is not None or compiled.pace_key is not None:
                    keyed = [compiled.subject_of_one(held.event) for held in fit]
            subject = subjects if closing.together else subjects[-1]
            events, sent = [reader_of(listed)], [last.event]
            prepared = Prepared(events, [subject], [last.claim], sent, [last.declared], keyed=keyed)
            await self._judge(decided, prepared, {}, now)
            for pending in decided.starts if closing.together else ():
                pending.event, pending.alone = listed, last.event
            decided.spread(members, now)
            decided.with_run = fit if decided.starts else []
            tell_slow(self._report, decided)
        decided.join(unfit)
        return decided

    @in_own_context
    async def decide_whole(
        self, state: TriggerState, events: Sequence[Event], now: float, redriven: Mapping[str, Redriven]
    ) -> Decided:
        """Runs the method on what has been through its window before: nothing waits there a second time.

        Of a window's list the run claims the id and the key of the last event. What still starts no run leaves a letter
        that is the run's again.
        """
        decided, compiled = Decided(state, redriven), state.compiled
        decided.of_runs = {id: letter.run_id for id, letter in redriven.items() if letter.run_id is not None}
        fit: list[tuple[Event, Any, str | None, Event, str | None]] = []
        for event in events:
            claim = redriven[event.id].claim
            try:
                subject = compiled.subject_of(event)
                last = subject[-1] if compiled.together and isinstance(subject, list) else subject
                declared = compiled.declared(last, compiled.part_of(event))
            except BaseException as error:
                decided.dead(event, error, now, claim)
                continue
            fit.append((reader_of(event), subject, claim, event, declared))
        if fit:
            prepared = Prepared.of(fit)
            await self._judge(decided, prepared, await self._taken(decided, prepared, now), now)
            if decided.behind is not None:
                decided.redriven = decided.behind.keep_letters(redriven)
        return decided

    @in_own_context
    async def decide_prepared(self, decided: Decided, prepared: Prepared, part: int, now: float, *, rest: bool) -> None:
        """Decides what has waited for an event before it to be decided: one that passed with it, or `rest`."""
        taken = await self._taken(decided, prepared, now)
        if rest:
            await self._pass(decided, prepared, taken, part, now)
        else:
            await self._judge(decided, prepared, taken, now)

    async def _pass(
        self, decided: Decided, prepared: Prepared, taken: dict[str, Refusal | str], part: int, now: float, *,
        quiet: bool = False,
    ) -> None:  # fmt: skip
        """All gates; of a trigger with a window no more than may be decided together."""
        state = decided.state
        if state.compiled.policy is not None or state.leading.active:
            together = prepared.before_a_repeat(taken)
            if together < len(prepared.events):
                decided.leave(prepared, together, part)
                prepared = prepared.only(range(together))
        if state.leading.active:
            prepared = lead(decided, prepared, taken, self.steady(), now, quiet=quiet)
        if state.compiled.policy is not None:
            hold(decided, prepared, taken, part, self.steady(), now, self._run_ids)
            return
        try:
            await self._judge(decided, prepared, taken, now)
        except BaseException:
            state.leading.take_back(decided.periods)
            raise

    @in_own_context
    async def decide_again(self, state: TriggerState, pending: PendingRun, now: float) -> Decided:
        """Runs the method of the revision that is current now on the event of a run that waits for its turn."""
        decided, compiled, event = Decided(state), state.compiled, pending.event
        assert event is not None
        # What was taken up after a restart comes without its claims, and a window's list without the events of it.
        claim = pending.claim or self._id_claim(compiled, event, compiled.part_of(event))
        alone = pending.alone or event
        if alone is event and isinstance(event.payload, list):
            decided.of_runs = {event.id: pending.run_id}
        try:
            subject, keyed = compiled.subject_of(event), compiled.subject_of(event)
            prepared = Prepared([reader_of(event)], [subject], [claim], [alone], keyed=keyed)
        except BaseException as error:
            decided.dead(alone, error, now, claim)
        else:
            await self._run_methods(decided, prepared, {}, now)
        decided.spread(pending.members, now)
        return decided

    async def _taken(self, decided: Decided, prepared: Prepared, now: float) -> dict[str, Refusal | str]:
        """Which claims others have. What a dead letter or its run has is free for the letter's own event."""
        taken: dict[str, Refusal | str] = {}
        if asked := prepared.all_claims():
            found = await self._store.seen(decided.state.name, asked, at=now)
            taken.update(found)
            for letter, _, claim, run_id, _ in decided.redriven.values():
                refusal = found.get(claim)
                if refusal is not None and (refusal.letter == letter or refusal.first_run == run_id is not None):
                    del taken[claim]
        return taken

    def _id_claim(self, compiled: CompiledTrigger, event: Event, part: int) -> str | None:
        try:
            return compiled.id_claim(event, part)
        except MissingKey:
            return None

    async def _prepare(self, decided: Decided, deliveries: Sequence[Delivery], part: int) -> Prepared:
        """Decode, validate and read the claims."""
        compiled, redriven = decided.state.compiled, decided.redriven
        decode, validate = compiled.decode, compiled.validate
        again = decode if isinstance(compiled.trigger.decode, str) else same
        plain = compiled.claim_key is None and compiled.trigger.composite is None and not redriven
        if plain and validate is None and (prepared := ready(deliveries)) is not None:
            return prepared
        rows: list[tuple[Event, Any, str | None, Event, str | None]] = []
        unfit: list[tuple[Event, BaseException, str | None]] = []
        own_task = OwnTask()
        for raw, fresh in events_of(deliveries):
            sent = raw if type(raw.id) is str else raw.with_id(id_text(raw.id))
            if compiled.trigger.composite is not None:
                sent = compiled.of_part(sent, part)
            claim = redriven[sent.id].claim if redriven else None
            try:
                if not fresh:
                    claim = compiled.id_claim(sent, part)
                event = sent
                if type(data := payload_as_sent(raw)) is bytes:
                    payload = decode(data)
                    event = sent.with_payload(await payload if is_awaitable(payload) else payload)
                    sent = event if again is same else sent
                if event is sent:
                    event = reader_of(sent)
                subject = event if validate is None else validate(event.payload)
                declared = compiled.declared(subject, part)
            except BaseException as error:
                if own_task.ends_by(error):
                    raise
                unfit.append((as_sent(sent, again), error, claim))
                continue
            rows.append((event, subject, claim, sent, declared))
        prepared = Prepared.of(rows)._replace(decode=again, unfit=unfit)
        return prepared if compiled.claim_key is not None else prepared._replace(declared=None)

    async def _judge(self, decided: Decided, prepared: Prepared, taken: dict[str, Refusal | str], now: float) -> None:
        """The method, and the cooldown of what it lets through."""
        await self._run_methods(decided, prepared, taken, now)
        cooldown_s = decided.state.compiled.cooldown_s
        if cooldown_s is not None and decided.starts:
            await self._cool(decided, cooldown_s, now)

    async def _run_methods(
        self, decided: Decided, prepared: Prepared, taken: dict[str, Refusal | str], now: float
    ) -> None:
        compiled = decided.state.compiled
        method, is_async, wants_event = compiled.method, compiled.is_async, compiled.wants_event
        noted = compiled.config.persist_events or "on_trigger_filtered" in compiled.definition.hooks
        nones: list[str] = []
        own_task = OwnTask()
        begun = perf_counter()
        subjects = repeat(ITSELF) if prepared.subjects is None else prepared.subjects
        keys = repeat(None) if prepared.declared is None else prepared.declared
        rows = zip(prepared.events, subjects, prepared.claims, keys, count(), strict=False)
        for event, given, claim, declared, i in rows:
            if claim in taken or (declared is not None and declared in taken):
                decided.taken(taken, (claim, declared), prepared, i, now)
                continue
            subject = event if given is ITSELF else given
            try:
                result = method(subject, event) if wants_event else method(subject)
                if is_async:
                    result = await result
                    method = compiled.method  # its params may have changed meanwhile
                if type(result) not in _AT_ONCE and is_awaitable(result):
                    waiting = perf_counter()
                    result = await awaited(result)
                    method = compiled.method
                    begun += perf_counter() - waiting  # the loop did not stand still
            except BaseException as error:
                if own_task.ends_by(error):
                    raise
                decided.bury(prepared.kept(i), error, claim, taken, now)
                continue
            if result is None:
                # The commonest case by far, so it is the shortest way.
                nones.append(event.id)
                if noted:
                    decided.note(prepared.kept(i), _FILTERED, RETURNED_NONE, now)
            elif type(result) is Skip:
                decided.add(_FILTERED, result.reason, prepared.kept(i) if noted else event, now, result.facts)
            else:
                self._start(decided, prepared, i, event, result, taken, now)
        if nones:
            decided.add_nones(nones, now)
        if prepared.claims:
            decided.measured(perf_counter() - begun, len(prepared.claims))

    def _start(
        self,
        decided: Decided,
        prepared: Prepared,
        i: int,
        event: Event,
        returned: Any,
        taken: dict[str, Refusal | str],
        now: float,
    ) -> None:
        compiled = decided.state.compiled
        definition = compiled.definition
        if not (prepared.shared and is_as_sent(event)):
            event = prepared.kept(i)
        claim = prepared.claims[i]
        flat = type(returned) is dict and _are_unchanging(map(type, returned.values()))
        try:
            context = returned.copy() if flat else as_context(returned, decided.state.name)
        except BaseException as error:
            decided.bury(event, error, claim, taken, now)
            return
        key = pace_key = None
        if not compiled.ungated:
            admission = decided.state.admission
            if compiled.overlap == "skip" and (admission.in_flight or admission.waiting or decided.starts):
                decided.add(_FILTERED, OVERLAP, event, now)
                return
            try:
                if compiled.concurrency_key is not None or compiled.pace_key is not None:
                    subject = compiled.subject_of(event) if prepared.keyed is None else prepared.keyed
                    key = None if compiled.concurrency_key is None else compiled.concurrency_key(subject)
                    pace_key = None if compiled.pace_key is None else compiled.pace_key(subject)
            except BaseException as error:
                decided.bury(event, error, claim, taken, now)
                return
        run_id = next(self._run_ids)
        if claim is not None:
            taken[claim] = run_id
        pending = PendingRun(run_id, definition.name, decided.state.name, definition.revision, event, context, now,
                             flat, _WAITING, claim, None if claim is None else now + compiled.id_ttl_s)  # fmt: skip
        if key is not None or pace_key is not None:
            pending.key, pending.pace_key = key, pace_key
        if prepared.declared is not None and (declared := prepared.declared[i]) is not None:
            taken[declared] = run_id
            pending.declared, pending.declared_until = declared, now + compiled.claim_ttl_s
            pending.declared_ends = compiled.claim_ends
        decided.starts.append(pending)

    # --- gates ---

    async def _cool(self, decided: Decided, cooldown_s: float, now: float) -> None:
        """Filter what would start while its key is cooling down, but by the run of its own dead letter."""
        keys = list({pending.key or "" for pending in decided.starts})
        cooling = dict(await self._store.cooling(decided.state.name, keys, at=now))
        starts, decided.starts = decided.starts, []
        for pending in starts:
            key = pending.key or ""
            assert pending.event is not None
            redriven = decided.redriven.get(pending.event.id)
            if key in cooling and (redriven is None or redriven.run_id != cooling[key].first_run):
                decided.cooling(cooling[key], pending.event, pending.key, now)
                continue
            pending.cooldown = (key, now + cooldown_s)
            decided.starts.append(pending)
