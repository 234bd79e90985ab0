"""The decision loop: what one `receive` returned, for one trigger, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count, repeat
from time import perf_counter
from typing import Any, NamedTuple

from sagaz_lab.abc import HeldEvent, Member, Refusal, Store
from sagaz_lab.model.apart import UNCHANGING, apart_event, copier
from sagaz_lab.model.awaiting import awaited, is_awaitable
from sagaz_lab.model.event import Alike, Deliveries, Delivery, Event
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.model.trigger import Skip
from sagaz_lab.runtime.compiled import ID_LENGTH, TriggerState, claim_of
from sagaz_lab.runtime.context import as_context
from sagaz_lab.runtime.decided import RETURNED_NONE, TAKEN, Decided, taken_by
from sagaz_lab.runtime.decode import Decode, as_sent, id_text
from sagaz_lab.runtime.notices import tell_hidden, tell_slow
from sagaz_lab.runtime.tasks import Report
from sagaz_lab.runtime.tickets import Ticket
from sagaz_lab.runtime.window_policies import IN_PERIOD, Closing

_ITSELF = object()
_are_unchanging = UNCHANGING.issuperset
_FILTERED, _DUPLICATE = OutcomeKind.FILTERED, OutcomeKind.DUPLICATE
_WAITING = RunStatus.WAITING
OVERLAP = "the run of an earlier tick still goes"


def _same(payload: Any) -> Any:
    return payload


class _Prepared(NamedTuple):
    """One item each for every event that can be decided: the event, what the method gets (None: the event, for all of
    them), the claim, and the event as it was sent.

    The user's code gets the first two and may change them; what is kept is made from the last, where bytes are still
    to be decoded by `decode`. The keys of a run are read from `keyed`, if that is given.
    """

    events: Sequence[Event]
    subjects: Sequence[Any] | None
    claims: Sequence[str | None]
    sent: Sequence[Event]
    decode: Decode = _same
    keyed: Any = None

    def each(self) -> Iterator[tuple[Event, Any, str | None, int]]:
        subjects = self.subjects or repeat(_ITSELF)
        for i, (event, subject, claim) in enumerate(zip(self.events, subjects, self.claims, strict=False)):
            yield event, event if subject is _ITSELF else subject, claim, i

    def kept(self, i: int) -> Event:
        """What is kept of an event: as it was sent, whatever was made of the method's own."""
        return self.sent[i] if self.decode is _same else as_sent(self.sent[i], self.decode)


def _rows(rows: Sequence[tuple[Event, Any, str | None, Event]]) -> _Prepared:
    events, subjects, claims, sent = zip(*rows, strict=True) if rows else ((), (), (), ())
    return _Prepared(events, subjects, claims, sent)


def _ready(deliveries: Sequence[Delivery]) -> _Prepared | None:
    """Events that need nothing done, whose ids are their claims: of all at once, as most batches are such."""
    sent: Sequence[Event]
    fresh: Sequence[bool]
    if type(deliveries) is Deliveries:
        sent, fresh = deliveries.events, (deliveries.fresh,) * len(deliveries)
        ids, payloads = sent.ids, sent.payloads
    elif deliveries:
        sent, _, fresh = zip(*deliveries, strict=True)
        ids, payloads = [event.id for event in sent], [event.payload for event in sent]
    else:
        return None
    if set(map(type, ids)) != {str} or bytes in set(map(type, payloads)):
        return None
    sizes = set(map(len, ids))
    if 0 in sizes or max(sizes) > ID_LENGTH:
        return None
    claims = [None if new else id for new, id in zip(fresh, ids, strict=True)] if True in fresh else ids
    events = sent.copied(copier(payloads)) if type(sent) is Alike else [*map(apart_event, sent)]
    return _Prepared(events, None, claims, sent)


def _events_of(deliveries: Sequence[Delivery]) -> Iterable[tuple[Event, bool]]:
    """Each event, and whether its id is fresh."""
    if type(deliveries) is Deliveries:
        return zip(deliveries.events, repeat(deliveries.fresh))
    return ((event, fresh) for event, _, fresh in deliveries)


class Decider:
    """Decides batches of deliveries, and what has waited. `steady` gives a time that is never set back."""

    def __init__(self, store: Store, run_ids: Iterator[str], report: Report, steady: Callable[[], float]) -> None:
        self._store = store
        self._run_ids = run_ids
        self._report = report
        self.steady = steady

    async def decide(
        self, state: TriggerState, deliveries: Sequence[Delivery], now: float, *, part: int = 0, quiet: bool = False
    ) -> Decided:
        """Runs the trigger method on each event, or has it wait in its window; `quiet`: nobody is told."""
        decided = Decided(state)
        compiled = state.compiled
        hooks = {} if quiet else compiled.definition.hooks
        if received := hooks.get("on_trigger_received"):
            for delivery in deliveries:
                await tell(received, compiled.definition.name, delivery.event.source, delivery.event)
        prepared = await self._prepare(decided, deliveries, now, part)
        taken: dict[str, Refusal | str] = {}
        if asked := [claim for claim in prepared.claims if claim is not None]:
            taken.update(await self._store.seen(state.name, asked, at=now))
        if state.leading.active:
            prepared = self._lead(decided, prepared, taken, now, quiet)
        if compiled.policy is not None:
            self._hold(decided, prepared, taken, part, now)
        else:
            try:
                await self._judge(decided, prepared, taken, now)
            except BaseException:
                state.leading.take_back(decided.periods)
                raise
        if not quiet:
            tell_slow(self._report, decided)
            if not state.told_hidden_fields and prepared.claims:
                tell_hidden(self._report, state, prepared.events[0])
        return decided

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
                unfit.dead(held.event, error, now)
        if fit:
            last, members = fit[-1], [Member(held.event, held.claim) for held in fit[:-1]]
            event, keyed = last.event, None
            if closing.together:
                event = event.with_payload([held.event.payload for held in fit])
                if compiled.concurrency_key is not None or compiled.pace_key is not None:
                    keyed = [compiled.subject_of_one(held.event) for held in fit]
            subject = subjects if closing.together else subjects[-1]
            prepared = _Prepared([apart_event(event)], [subject], [last.claim], [event], keyed=keyed)
            await self._judge(decided, prepared, {}, now)
            decided.spread(members, now)
            tell_slow(self._report, decided)
        decided.join(unfit)
        return decided

    async def decide_whole(self, state: TriggerState, events: Sequence[Event], now: float) -> Decided:
        """Runs the method on what has been through its window before: nothing waits there a second time.

        Of a window's list the run claims the key of the last event.
        """
        decided, compiled = Decided(state), state.compiled
        fit: list[tuple[Event, Any, str | None, Event]] = []
        for event in events:
            try:
                subject = compiled.subject_of(event)
                last = subject[-1] if compiled.together and isinstance(subject, list) else subject
                claim = compiled.claim(last, event, compiled.part_of(event))
            except BaseException as error:
                decided.dead(event, error, now)
                continue
            fit.append((apart_event(event), subject, claim, event))
        taken: dict[str, Refusal | str] = {}
        taken.update(await self._store.seen(state.name, [claim for _, _, claim, _ in fit if claim], at=now))
        if fit:
            await self._judge(decided, _rows(fit), taken, now)
        return decided

    async def decide_again(self, state: TriggerState, ticket: Ticket, now: float) -> Decided:
        """Runs the method of the revision that is current now on the event of a run that waits for its turn."""
        decided = Decided(state)
        assert ticket.event is not None
        try:
            event = ticket.event
            prepared = _Prepared([apart_event(event)], [state.compiled.subject_of(event)], [None], [event])
        except BaseException as error:
            decided.dead(ticket.event, error, now)
        else:
            await self._run_methods(decided, prepared, {}, now)
        decided.spread(ticket.members, now)
        return decided

    async def _prepare(self, decided: Decided, deliveries: Sequence[Delivery], now: float, part: int) -> _Prepared:
        """Decode, validate and read the claims."""
        compiled = decided.state.compiled
        decode, validate = compiled.decode, compiled.validate
        again = decode if isinstance(compiled.trigger.decode, str) else _same
        plain = compiled.claim_key is None and compiled.trigger.composite is None
        if plain and validate is None and (ready := _ready(deliveries)) is not None:
            return ready
        events: list[Event] = []
        subjects: list[Any] = []
        claims: list[str | None] = []
        kept: list[Event] = []
        claim: str | None
        own_task = OwnTask()
        for raw, fresh in _events_of(deliveries):
            sent = raw if type(raw.id) is str else raw.with_id(id_text(raw.id))
            try:
                event = sent
                if type(raw.payload) is bytes:
                    payload = decode(raw.payload)
                    event = sent.with_payload(await payload if is_awaitable(payload) else payload)
                    sent = event if again is _same else sent
                if event is sent:
                    event = apart_event(sent)
                subject = event if validate is None else validate(event.payload)
                claim = claim_of(event.id) if plain and not fresh else compiled.claim(subject, event, part, fresh=fresh)
            except BaseException as error:
                if own_task.ends_by(error):
                    raise
                decided.dead(as_sent(sent, again), error, now)
                continue
            events.append(event)
            subjects.append(subject)
            claims.append(claim)
            kept.append(sent)
        return _Prepared(events, subjects, claims, kept, again)

    async def _judge(self, decided: Decided, prepared: _Prepared, taken: dict[str, Refusal | str], now: float) -> None:
        """The method, and the cooldown of what it lets through."""
        await self._run_methods(decided, prepared, taken, now)
        cooldown_s = decided.state.compiled.cooldown_s
        if cooldown_s is not None and decided.starts:
            await self._cool(decided, cooldown_s, now)

    async def _run_methods(
        self,
        decided: Decided,
        prepared: _Prepared,
        taken: dict[str, Refusal | str],
        now: float,
    ) -> None:
        compiled = decided.state.compiled
        method, is_async, wants_event = compiled.method, compiled.is_async, compiled.wants_event
        noted = compiled.config.persist_events or "on_trigger_filtered" in compiled.definition.hooks
        nones: list[str] = []
        own_task = OwnTask()
        until, begun = now + compiled.claim_ttl_s, perf_counter()
        subjects = repeat(_ITSELF) if prepared.subjects is None else prepared.subjects
        for event, given, claim, i in zip(prepared.events, subjects, prepared.claims, count(), strict=False):
            if claim in taken:
                assert claim is not None
                decided.add(_DUPLICATE, taken_by(taken[claim]), prepared.kept(i), now, count_as=TAKEN)
                continue
            subject = event if given is _ITSELF else given
            try:
                result = method(subject, event) if wants_event else method(subject)
                if is_async:
                    result = await result
                    method = compiled.method  # its params may have changed meanwhile
                if result is not None and type(result) is not Skip and is_awaitable(result):
                    waiting = perf_counter()
                    result = await awaited(result)
                    method = compiled.method
                    begun += perf_counter() - waiting  # the loop did not stand still
            except BaseException as error:
                if own_task.ends_by(error):
                    raise
                decided.dead(prepared.kept(i), error, now)
                continue
            if result is None:
                # The commonest case by far, so it is the shortest way.
                nones.append(event.id)
                if noted:
                    decided.note(prepared.kept(i), _FILTERED, RETURNED_NONE, now)
            elif type(result) is Skip:
                kept = prepared.kept(i) if noted else event
                decided.add(_FILTERED, result.reason, kept, now, result.facts)
            else:
                self._start(decided, prepared, i, claim, result, taken, now, until)
        if nones:
            decided.add_nones(nones, now)
        if prepared.claims:
            decided.measured(perf_counter() - begun, len(prepared.claims))

    def _start(
        self,
        decided: Decided,
        prepared: _Prepared,
        i: int,
        claim: str | None,
        returned: Any,
        taken: dict[str, Refusal | str],
        now: float,
        until: float,
    ) -> None:
        compiled = decided.state.compiled
        definition = compiled.definition
        event = prepared.sent[i] if prepared.decode is _same else prepared.kept(i)
        flat = type(returned) is dict and _are_unchanging(map(type, returned.values()))
        try:
            context = returned.copy() if flat else as_context(returned, decided.state.name)
        except BaseException as error:
            decided.dead(event, error, now)
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
                decided.dead(event, error, now)
                return
        run_id = next(self._run_ids)
        if claim is not None:
            taken[claim] = run_id
        decided.starts.append(
            Ticket(run_id, definition.name, decided.state.name, definition.revision, event, context, now, _WAITING,
                   claim, None if claim is None else until, compiled.claim_ends, key=key, pace_key=pace_key, flat=flat)
        )  # fmt: skip

    # --- gates ---

    def _lead(
        self, decided: Decided, prepared: _Prepared, taken: Mapping[str, Any], now: float, quiet: bool
    ) -> _Prepared:
        """What is left when that is filtered which falls into a period that an earlier event has opened."""
        state, steady = decided.state, self.steady()
        passed: list[tuple[Event, Any, str | None, Event]] = []
        read = state.compiled.leading_key
        for event, subject, claim, i in prepared.each():
            if claim is None or claim not in taken:
                try:
                    key = None if read is None else read(subject)
                except BaseException as error:
                    decided.dead(prepared.kept(i), error, now)
                    continue
                closes_in_s = state.leading.closes_in(key, steady)
                if closes_in_s > 0 if quiet else not state.leading.opens(key, steady, decided.periods):
                    facts = {"key": key, "closes_in_s": round(closes_in_s, 3)}
                    decided.add(_FILTERED, IN_PERIOD, prepared.kept(i), now, facts)
                    continue
            passed.append((event, subject, claim, prepared.sent[i]))
        return _rows(passed)._replace(decode=prepared.decode)

    def _hold(
        self, decided: Decided, prepared: _Prepared, taken: dict[str, Refusal | str], part: int, now: float
    ) -> None:
        """Have them wait in their windows, once the store has them."""
        state, at = decided.state, self.steady()
        read = state.compiled.window_key
        for _, subject, claim, i in prepared.each():
            event = prepared.kept(i)
            if claim is not None and claim in taken:
                decided.add(_DUPLICATE, taken_by(taken[claim]), event, now, count_as=TAKEN)
                continue
            try:
                key = None if read is None else read(subject)
            except BaseException as error:
                decided.dead(event, error, now)
                continue
            if claim is not None:
                taken[claim] = Refusal()
            id = next(self._run_ids).replace("r-", "h-", 1)
            decided.held.append(HeldEvent(id, state.name, key, part, event, claim, at))

    async def _cool(self, decided: Decided, cooldown_s: float, now: float) -> None:
        """Filter what would start while its key is cooling down."""
        keys = list({ticket.key or "" for ticket in decided.starts})
        cooling = dict(await self._store.cooling(decided.state.name, keys, at=now))
        starts, decided.starts = decided.starts, []
        for ticket in starts:
            key = ticket.key or ""
            if key in cooling:
                assert ticket.event is not None
                decided.cooling(cooling[key], ticket.event, ticket.key, now)
                continue
            ticket.cooldown = (key, now + cooldown_s)
            decided.starts.append(ticket)
