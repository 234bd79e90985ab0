"""The decision loop: what one `receive` returned, for one trigger, in one pass."""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any, NamedTuple

from sagaz_lab.abc import Acceptance, DeadLetter, Refusal, Store
from sagaz_lab.errors import DecisionError, QueueFull, describe
from sagaz_lab.model.event import OWN_FIELDS, Delivery, Event
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind
from sagaz_lab.model.trigger import Skip
from sagaz_lab.runtime.admission import Ticket
from sagaz_lab.runtime.compiled import TriggerState, claim_of
from sagaz_lab.runtime.outcomes import Entry

logger = logging.getLogger("sagaz_lab")

SLOW_S = 0.05
"""A decision that takes longer is reported: the loop stands still meanwhile."""

_FILTERED, _DUPLICATE, _DEAD = OutcomeKind.FILTERED, OutcomeKind.DUPLICATE, OutcomeKind.DEAD
RETURNED_NONE = "returned None"
TAKEN = "its key is taken"
OVERLAP = "the run of an earlier tick still goes"
QUEUE_FULL = "the queue is full"


class Decided:
    """What the loop made of a batch; nothing of it holds until the store has taken it."""

    __slots__ = ("dropped", "entries", "kept", "letters", "reasons", "slowest_s", "starts", "state")

    def __init__(self, state: TriggerState) -> None:
        self.state = state
        self.entries: list[Entry] = []
        self.starts: list[Ticket] = []
        self.letters: list[DeadLetter] = []
        self.dropped: list[Event] = []
        self.kept: list[tuple[Event, str, str, str]] = []
        self.reasons: dict[tuple[str, str], int] = {}
        self.slowest_s = 0.0

    def add(
        self,
        kind: OutcomeKind,
        reason: str,
        event: Event,
        at: float,
        facts: Mapping[str, Any] | None = None,
        count_as: str | None = None,
    ) -> None:
        compiled = self.state.compiled
        self.entries.append(
            (kind.value, reason, event.id, self.state.name, None, compiled.definition.revision, at, facts)
        )
        key = (kind.value, count_as or reason)
        self.reasons[key] = self.reasons.get(key, 0) + 1
        if compiled.config.persist_events:
            self.kept.append((event, self.state.name, kind.value, reason))

    def dead(self, event: Event, error: BaseException, at: float) -> None:
        letter = dead_letter(self.state, event, error, at)
        self.letters.append(letter)
        self.add(_DEAD, letter.error, event, at, count_as=letter.cause)

    def overflow(self, ticket: Ticket, at: float, *, rejected: bool) -> None:
        """The queue is full: the newest event is dropped, or rejected to the dead letters."""
        assert ticket.event is not None
        if rejected:
            self.dead(
                ticket.event,
                QueueFull(f"{self.state.name}: {QUEUE_FULL} ({self.state.admission.size} events wait)"),
                at,
            )
        else:
            self.dropped.append(ticket.event)
            self.add(OutcomeKind.DROPPED, QUEUE_FULL, ticket.event, at)


def dead_letter(
    state: TriggerState, event: Event, error: BaseException, at: float, *, attempts: int = 1, run_id: str | None = None
) -> DeadLetter:
    definition = state.compiled.definition
    return DeadLetter(
        id=f"d-{os.urandom(6).hex()}",
        event=event,
        trigger=state.name,
        saga=definition.name,
        cause=cause_of(error),
        error=describe(error),
        traceback=text_of(error),
        attempts=attempts,
        revision=definition.revision,
        at=at,
        run_id=run_id,
    )


def cause_of(error: BaseException) -> str:
    """The error's class and the place in the user's code that raised it: like letters have one cause."""
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "/sagaz_lab/" not in frame.filename.replace("\\", "/"):
            place = f" in {frame.name}:{frame.lineno}"
    return type(error).__name__ + place


def text_of(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))[-20_000:]
    except Exception as broken:
        return f"{describe(error)} (its traceback cannot be shown: {describe(broken)})"


class _Prepared(NamedTuple):
    """One item each for every event that can be decided: the event, what the method gets, the claim."""

    events: list[Event]
    subjects: list[Any]
    claims: list[str | None]


class Decider:
    """Decides batches of deliveries."""

    def __init__(self, store: Store, run_ids: Any, report: Any) -> None:
        self._store = store
        self._run_ids = run_ids
        self._report = report

    async def decide(
        self, state: TriggerState, deliveries: Sequence[Delivery], now: float, *, quiet: bool = False, own: str = ""
    ) -> Decided:
        """Runs the trigger method on each; `quiet`: nobody is told. A claim of the run `own` counts as free."""
        decided = Decided(state)
        compiled = state.compiled
        hooks = {} if quiet else compiled.definition.hooks
        if received := hooks.get("on_trigger_received"):
            for delivery in deliveries:
                await tell(received, compiled.definition.name, delivery.event.source, delivery.event)
        prepared = self._prepare(decided, deliveries, now)
        taken: dict[str, Refusal | str] = {}
        if asked := [(state.name, claim) for claim in prepared.claims if claim is not None]:
            seen = await self._store.seen(asked, at=now)
            taken = {claim: refusal for (_, claim), refusal in seen.items() if refusal.first_run != own}
        await self._run_methods(decided, prepared, taken, now, hooks.get("on_trigger_filtered", ()))
        if quiet:
            return decided
        if decided.slowest_s > SLOW_S:
            self._report(
                f"slow:{state.name}",
                f"trigger {state.name} took {decided.slowest_s * 1000:.0f} ms for an event, and the loop stood still; "
                "let an action do the work",
            )
        if not state.told_hidden_fields and prepared.events:
            self._tell_hidden(state, prepared.events[0])
        return decided

    def _prepare(self, decided: Decided, deliveries: Sequence[Delivery], now: float) -> _Prepared:
        """Decode, validate and read the claims."""
        compiled = decided.state.compiled
        decode, validate, claim_key = compiled.decode, compiled.validate, compiled.claim_key
        prepared = _Prepared([], [], [])
        events, subjects, claims = prepared
        claim: str | None
        for raw, _, fresh in deliveries:
            event = raw if type(raw.id) is str else raw.with_id("" if raw.id is None else str(raw.id))
            try:
                if type(raw.payload) is bytes:
                    event = event.with_payload(decode(raw.payload))
                subject = event if validate is None else validate(event.payload)
                if claim_key is not None:
                    claim = claim_key(subject)
                elif fresh:
                    claim = None
                else:
                    claim = claim_of(event.id)
            except Exception as error:
                decided.dead(event, error, now)
                continue
            events.append(event)
            subjects.append(subject)
            claims.append(claim)
        return prepared

    async def _run_methods(
        self,
        decided: Decided,
        prepared: _Prepared,
        taken: dict[str, Refusal | str],
        now: float,
        filtered_hooks: Sequence[Callable[..., Any]],
    ) -> None:
        state = decided.state
        compiled = state.compiled
        method, is_async, wants_event = compiled.method, compiled.is_async, compiled.wants_event
        name, revision, keep = state.name, compiled.definition.revision, compiled.config.persist_events
        nones: list[str] = []
        before = perf_counter()
        for event, subject, claim in zip(*prepared, strict=True):
            if claim is not None and claim in taken:
                decided.add(_DUPLICATE, taken_by(taken[claim]), event, now, count_as=TAKEN)
                continue
            try:
                result = method(subject, event) if wants_event else method(subject)
                if is_async:
                    result = await result
            except asyncio.CancelledError:
                raise
            except BaseException as error:
                decided.dead(event, error, now)
                continue
            if (after := perf_counter()) - before > SLOW_S and not is_async:
                decided.slowest_s = max(decided.slowest_s, after - before)
            before = after
            if result is None:
                # The commonest case by far, so it is the shortest way.
                nones.append(event.id)
                if keep:
                    decided.kept.append((event, name, "filtered", RETURNED_NONE))
            elif type(result) is Skip:
                decided.add(_FILTERED, result.reason, event, now, result.facts)
            else:
                self._start(decided, event, subject, claim, result, taken, now)
                continue
            if filtered_hooks:
                reason = RETURNED_NONE if result is None else result.reason
                await tell(filtered_hooks, compiled.definition.name, event, reason)
                before = perf_counter()
        if nones:
            ids = nones[0] if len(nones) == 1 else tuple(nones)
            decided.entries.append(("filtered", RETURNED_NONE, ids, name, None, revision, now, None))
            decided.reasons["filtered", RETURNED_NONE] = len(nones)

    def _start(
        self,
        decided: Decided,
        event: Event,
        subject: Any,
        claim: str | None,
        context: Any,
        taken: dict[str, Refusal | str],
        now: float,
    ) -> None:
        compiled = decided.state.compiled
        definition = compiled.definition
        if type(context) is not dict and not isinstance(context, Mapping):
            decided.dead(
                event,
                TypeError(
                    f"{decided.state.name} returned a {type(context).__name__}; "
                    "a trigger method returns a mapping, None or skip(...)"
                ),
                now,
            )
            return
        admission = decided.state.admission
        if compiled.overlap == "skip" and (admission.in_flight or admission.waiting or decided.starts):
            decided.add(_FILTERED, OVERLAP, event, now)
            return
        key = None
        if compiled.concurrency_key is not None:
            try:
                key = compiled.concurrency_key(subject)
            except DecisionError as error:
                decided.dead(event, error, now)
                return
        until = None if claim is None else now + compiled.claim_ttl_s
        ticket = Ticket(
            next(self._run_ids),
            definition.name,
            decided.state.name,
            definition.revision,
            event,
            context,
            now,
            key,
            claim,
            until,
        )
        if claim is not None:
            taken[claim] = ticket.run_id
        decided.starts.append(ticket)

    def _tell_hidden(self, state: TriggerState, event: Event) -> None:
        if isinstance(event.payload, Mapping):
            state.told_hidden_fields = True
            if hidden := sorted(OWN_FIELDS.intersection(event.payload)):
                names = ", ".join(hidden)
                self._report(
                    "hidden",
                    f"{state.name}: the payload has fields that the event has too ({names}); "
                    f"event.{hidden[0]} is the event's own, event[{hidden[0]!r}] the payload's",
                )


def taken_by(first: Refusal | str) -> str:
    """The reason of a duplicate, which names the first run and the cure."""
    run = f"{first.first_run} ({first.first_status})" if isinstance(first, Refusal) else first
    return f"its key is taken by run {run}; lab.forget(trigger, key) frees it"


def acceptance(decisions: Sequence[Decided]) -> Acceptance:
    """All that one transaction takes in."""
    batch = Acceptance()
    kept: list[tuple[Event, str, str, str]] = []
    for decided in decisions:
        batch.runs += decided.starts
        batch.dead += decided.letters
        kept += decided.kept
    batch.kept = kept
    return batch
