"""The decision loop: what one `receive` returned, for one trigger, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from time import perf_counter
from typing import Any, NamedTuple

from sagaz_lab.abc import HeldEvent, Member, Refusal, Store
from sagaz_lab.model.awaiting import awaited, is_awaitable
from sagaz_lab.model.event import OWN_FIELDS, Deliveries, Delivery, Event
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.stopping import OwnTask
from sagaz_lab.model.trigger import Skip
from sagaz_lab.runtime.compiled import ID_LENGTH, TriggerState, claim_of
from sagaz_lab.runtime.decided import RETURNED_NONE, TAKEN, Decided, taken_by
from sagaz_lab.runtime.tasks import Report
from sagaz_lab.runtime.tickets import Ticket
from sagaz_lab.runtime.window_policies import IN_PERIOD, Closing

SLOW_S = 0.05
"""Decisions that take longer are reported: the loop stands still meanwhile."""

_ITSELF = object()
_FILTERED, _DUPLICATE = OutcomeKind.FILTERED, OutcomeKind.DUPLICATE
_WAITING = RunStatus.WAITING
OVERLAP = "the run of an earlier tick still goes"


class _Prepared(NamedTuple):
    """One item each for every event that can be decided: the event, what the method gets (None: the event, for all of
    them), the claim."""

    events: Sequence[Event]
    subjects: Sequence[Any] | None
    claims: Sequence[str | None]

    def each(self) -> Iterator[tuple[Event, Any, str | None]]:
        for event, subject, claim in zip(self.events, self.subjects or repeat(_ITSELF), self.claims, strict=False):
            yield event, event if subject is _ITSELF else subject, claim


def _ready(deliveries: Sequence[Delivery]) -> _Prepared | None:
    """Events that need nothing done, whose ids are their claims: of all at once, as most batches are such."""
    events: Sequence[Event]
    fresh: Sequence[bool]
    if type(deliveries) is Deliveries:
        events, fresh = deliveries.events, (deliveries.fresh,) * len(deliveries)
        ids, payloads = deliveries.events.ids, deliveries.events.payloads
    elif deliveries:
        events, _, fresh = zip(*deliveries, strict=True)
        ids, payloads = [event.id for event in events], [event.payload for event in events]
    else:
        return None
    if set(map(type, ids)) != {str} or bytes in set(map(type, payloads)):
        return None
    sizes = set(map(len, ids))
    if 0 in sizes or max(sizes) > ID_LENGTH:
        return None
    claims = [None if new else id for new, id in zip(fresh, ids, strict=True)] if True in fresh else ids
    return _Prepared(events, None, claims)


def _events_of(deliveries: Sequence[Delivery]) -> Iterable[tuple[Event, bool]]:
    """Each event, and whether its id is fresh."""
    if type(deliveries) is Deliveries:
        return zip(deliveries.events, repeat(deliveries.fresh))
    return ((event, fresh) for event, _, fresh in deliveries)


def _id_text(id: Any) -> str:
    """The id that a source has given which is no text; "" makes a dead letter of the event."""
    try:
        return "" if id is None else str(id)
    except BaseException:
        return ""


def _plain(returned: Any, trigger: str) -> dict[str, Any]:
    """What a trigger method has returned, as the context of a run. Raises `TypeError`, and what a mapping raises."""
    if not isinstance(returned, Mapping):
        raise TypeError(
            f"{trigger} returned a {type(returned).__name__}; a trigger method returns a mapping, None or skip(...)"
        )
    return dict(returned)


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
            self._tell_slow(decided)
            if not state.told_hidden_fields and prepared.claims:
                self._tell_hidden(state, prepared.events[0])
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
            event = last.event
            if closing.together:
                event = event.with_payload([held.event.payload for held in fit])
            prepared = _Prepared([event], [subjects if closing.together else subjects[-1]], [last.claim])
            await self._judge(decided, prepared, {}, now)
            decided.spread(members, now)
            self._tell_slow(decided)
        decided.join(unfit)
        return decided

    async def decide_whole(self, state: TriggerState, events: Sequence[Event], now: float) -> Decided:
        """Runs the method on what has been through its window before: nothing waits there a second time.

        Of a window's list the run claims the key of the last event.
        """
        decided, compiled = Decided(state), state.compiled
        fit: list[tuple[Event, Any, str | None]] = []
        for event in events:
            try:
                subject = compiled.subject_of(event)
                last = subject[-1] if compiled.together and isinstance(subject, list) else subject
                claim = compiled.claim(last, event, compiled.part_of(event))
            except BaseException as error:
                decided.dead(event, error, now)
                continue
            fit.append((event, subject, claim))
        taken: dict[str, Refusal | str] = {}
        taken.update(await self._store.seen(state.name, [claim for _, _, claim in fit if claim], at=now))
        if fit:
            await self._judge(decided, _Prepared(*zip(*fit, strict=True)), taken, now)
        return decided

    async def decide_again(self, state: TriggerState, ticket: Ticket, now: float) -> Decided:
        """Runs the method of the revision that is current now on the event of a run that waits for its turn."""
        decided = Decided(state)
        assert ticket.event is not None
        try:
            prepared = _Prepared([ticket.event], [state.compiled.subject_of(ticket.event)], [None])
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
        plain = compiled.claim_key is None and compiled.trigger.composite is None
        if plain and validate is None and (ready := _ready(deliveries)) is not None:
            return ready
        events: list[Event] = []
        subjects: list[Any] = []
        claims: list[str | None] = []
        claim: str | None
        own_task = OwnTask()
        for raw, fresh in _events_of(deliveries):
            event = raw if type(raw.id) is str else raw.with_id(_id_text(raw.id))
            try:
                if type(raw.payload) is bytes:
                    payload = decode(raw.payload)
                    event = event.with_payload(await payload if is_awaitable(payload) else payload)
                subject = event if validate is None else validate(event.payload)
                claim = claim_of(event.id) if plain and not fresh else compiled.claim(subject, event, part, fresh=fresh)
            except BaseException as error:
                if own_task.ends_by(error):
                    raise
                decided.dead(event, error, now)
                continue
            events.append(event)
            subjects.append(subject)
            claims.append(claim)
        return _Prepared(events, subjects, claims)

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
        for event, given, claim in zip(prepared.events, subjects, prepared.claims, strict=False):
            if claim in taken:
                assert claim is not None
                decided.add(_DUPLICATE, taken_by(taken[claim]), event, now, count_as=TAKEN)
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
                decided.dead(event, error, now)
                continue
            if result is None:
                # The commonest case by far, so it is the shortest way.
                nones.append(event.id)
                if noted:
                    decided.note(event, _FILTERED, RETURNED_NONE, now)
            elif type(result) is Skip:
                decided.add(_FILTERED, result.reason, event, now, result.facts)
            else:
                self._start(decided, event, subject, claim, result, taken, now, until)
        if nones:
            decided.add_nones(nones, now)
        if prepared.claims:
            decided.measured(perf_counter() - begun, len(prepared.claims))

    def _start(
        self,
        decided: Decided,
        event: Event,
        subject: Any,
        claim: str | None,
        context: Any,
        taken: dict[str, Refusal | str],
        now: float,
        until: float,
    ) -> None:
        compiled = decided.state.compiled
        definition = compiled.definition
        if type(context) is not dict:
            try:
                context = _plain(context, decided.state.name)
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
                   claim, None if claim is None else until, compiled.claim_ends, key=key, pace_key=pace_key)
        )  # fmt: skip

    # --- gates ---

    def _lead(
        self, decided: Decided, prepared: _Prepared, taken: Mapping[str, Any], now: float, quiet: bool
    ) -> _Prepared:
        """What is left when that is filtered which falls into a period that an earlier event has opened."""
        state, steady = decided.state, self.steady()
        passed: list[tuple[Event, Any, str | None]] = []
        read = state.compiled.leading_key
        for event, subject, claim in prepared.each():
            if claim is None or claim not in taken:
                try:
                    key = None if read is None else read(subject)
                except BaseException as error:
                    decided.dead(event, error, now)
                    continue
                closes_in_s = state.leading.closes_in(key, steady)
                if closes_in_s > 0 if quiet else not state.leading.opens(key, steady, decided.periods):
                    facts = {"key": key, "closes_in_s": round(closes_in_s, 3)}
                    decided.add(_FILTERED, IN_PERIOD, event, now, facts)
                    continue
            passed.append((event, subject, claim))
        return _Prepared(*zip(*passed, strict=True)) if passed else _Prepared([], [], [])

    def _hold(
        self, decided: Decided, prepared: _Prepared, taken: dict[str, Refusal | str], part: int, now: float
    ) -> None:
        """Have them wait in their windows, once the store has them."""
        state, at = decided.state, self.steady()
        read = state.compiled.window_key
        for event, subject, claim in prepared.each():
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

    # --- reports ---

    def _tell_slow(self, decided: Decided) -> None:
        if decided.took_s > SLOW_S and not decided.state.compiled.is_async:
            name, took_ms = decided.state.name, decided.took_s * 1000
            what = "an event" if decided.events == 1 else f"{decided.events} events"
            self._report(
                f"slow:{name}",
                f"trigger {name} took {took_ms:.0f} ms for {what}, and the loop stood still; let an action do the work",
            )

    def _tell_hidden(self, state: TriggerState, event: Event) -> None:
        ours = state.compiled.trigger.spec.kind == "dead_letters" or "sagaz-id" in event.headers
        if isinstance(event.payload, Mapping) and not ours:
            state.told_hidden_fields = True
            try:
                hidden = sorted(OWN_FIELDS.intersection(event.payload))
            except BaseException:
                return
            if hidden:
                names = ", ".join(hidden)
                self._report(
                    "hidden",
                    f"{state.name}: the payload has fields that the event has too ({names}); "
                    f"event.{hidden[0]} is the event's own, event[{hidden[0]!r}] the payload's",
                )
