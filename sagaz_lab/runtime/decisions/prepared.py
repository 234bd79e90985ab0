"""Events ready to be decided: decoded, validated, and with their claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice, repeat
from typing import Any, NamedTuple

from sagaz_lab.abc import Member, Redriven, WaitingEvent
from sagaz_lab.model.awaiting import is_awaitable
from sagaz_lab.model.event import Alike, Deliveries, Delivery, Event, payload_as_sent, reader_of
from sagaz_lab.model.stopping import UserCode
from sagaz_lab.model.variables import Caller
from sagaz_lab.runtime.triggers.compiled import ID_LENGTH, CompiledTrigger
from sagaz_lab.runtime.triggers.decode import Decode, as_sent, id_text

ITSELF = object()


def same(payload: Any) -> Any:
    """Used when nothing is to be decoded."""
    return payload


Row = tuple[Event, Any, str | None, Event, str | None]
"""The event, the method's argument, the claim of its id, the event as sent, the claim of its declared key."""


class UnfitEvent(NamedTuple):
    """An event that cannot be decided."""

    before: int
    event: Event
    error: BaseException
    claim: str | None


class Prepared(NamedTuple):
    """Decidable events in parallel lists: the event, the method's argument (None: the event, for all), the claim of its
    id, the event as sent, the claim of its declared key (None: no keys at all).

    The user's code gets the first two and may mutate them; what is kept comes from `sent`, whose bytes `decode` still
    has to decode. The keys of a run are read from `keyed`, if set. `unfit` are undecidable events, each with the number
    of events before it, its error and the claim of its id. `shared`: `events` are as sent, so those whose payload the
    method has not read may be kept. `part` is the composite's part that delivered them. `whole`: they have passed their
    window. If one event stands for a window, `members` has those before it, `listed` the event with all payloads, and
    `window` those stored as waiting. `callers` fired the events, if several did.
    """

    events: Sequence[Event]
    subjects: Sequence[Any] | None
    claims: Sequence[str | None]
    sent: Sequence[Event]
    declared: Sequence[str | None] | None = None
    decode: Decode = same
    keyed: Any = None
    unfit: Sequence[UnfitEvent] = ()
    shared: bool = False
    window: Sequence[WaitingEvent] = ()
    members: Sequence[Member] = ()
    listed: Event | None = None
    part: int = 0
    whole: bool = False
    callers: Sequence[Caller] = ()

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Prepared:
        """From one row per event."""
        events, subjects, claims, sent, declared = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return cls(events, subjects, claims, sent, declared)

    def each(self, first: int, end: int) -> Iterator[tuple[int, Event, Any, str | None, str | None]]:
        """For this range, end excluded: the number, the event, the method's argument, and the claims."""
        subjects = repeat(ITSELF) if self.subjects is None else self.subjects
        declared = repeat(None) if self.declared is None else self.declared
        rows = zip(count(), self.events, subjects, self.claims, declared, strict=False)
        return rows if first == 0 and end == len(self.events) else islice(rows, first, end)

    def kept(self, i: int) -> Event:
        """The event to keep: as sent, whatever became of the method's copy."""
        return self.sent[i] if self.decode is same else as_sent(self.sent[i], self.decode)

    def fired_by(self, callers: Sequence[Caller]) -> Prepared:
        """One caller per delivery; the unfit ones are not among the events."""
        unfit = {it.before + i for i, it in enumerate(self.unfit)}
        return self._replace(callers=[caller for i, caller in enumerate(callers) if i not in unfit])

    def all_claims(self) -> list[str]:
        found = [claim for claim in self.claims if claim is not None]
        if self.declared is not None:
            found += [key for key in self.declared if key is not None]
        return found + [it.claim for it in self.unfit if it.claim is not None] if self.unfit else found


async def prepare(
    compiled: CompiledTrigger, deliveries: Sequence[Delivery], part: int, redriven: Mapping[str, Redriven]
) -> Prepared:
    """Decode, validate and read the claims."""
    decode, validate = compiled.decode, compiled.validate
    again = decode if isinstance(compiled.trigger.decode, str) else same
    plain = compiled.claim_key is None and compiled.trigger.composite is None and not redriven
    if plain and validate is None and (prepared := ready(deliveries)) is not None:
        return prepared
    rows: list[Row] = []
    unfit: list[UnfitEvent] = []
    code = UserCode()
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
                event = sent.with_payload(await code.awaited(payload) if is_awaitable(payload) else payload)
                sent = event if again is same else sent
            if event is sent:
                event = reader_of(sent)
            subject = event if validate is None else validate(event.payload)
            declared = compiled.declared(subject, part)
        except BaseException as error:
            if code.ends_by(error):
                raise
            unfit.append(UnfitEvent(len(rows), as_sent(sent, again), error, claim))
            continue
        rows.append((event, subject, claim, sent, declared))
    await code.withdraw()
    prepared = Prepared.of(rows)._replace(decode=again, unfit=unfit, part=part)
    return prepared if compiled.claim_key is not None else prepared._replace(declared=None)


def ready(deliveries: Sequence[Delivery]) -> Prepared | None:
    """Events that need no preparation and whose ids are their claims, as in most batches; checked for all at once."""
    sent: Sequence[Event]
    fresh: Sequence[bool]
    if type(deliveries) is Deliveries:
        sent, fresh = deliveries.events, (deliveries.fresh,) * len(deliveries)
        ids, payloads = sent.ids, sent.payloads
    elif deliveries:
        sent, _, fresh = zip(*deliveries, strict=True)
        ids, payloads = [event.id for event in sent], [payload_as_sent(event) for event in sent]
    else:
        return None
    if set(map(type, ids)) != {str} or bytes in set(map(type, payloads)):
        return None
    sizes = set(map(len, ids))
    # An id may not start like the claim of a declared key; a string below " " starts with a control character.
    if 0 in sizes or max(sizes) > ID_LENGTH or min(ids) < " ":
        return None
    claims = [None if new else id for new, id in zip(fresh, ids, strict=True)] if True in fresh else ids
    events = sent if type(sent) is Alike else [*map(reader_of, sent)]
    return Prepared(events, None, claims, sent, shared=True)


def events_of(deliveries: Sequence[Delivery]) -> Iterable[tuple[Event, bool]]:
    """Each event, and whether its id is fresh."""
    if type(deliveries) is Deliveries:
        return zip(deliveries.events, repeat(deliveries.fresh))
    return ((event, fresh) for event, _, fresh in deliveries)
