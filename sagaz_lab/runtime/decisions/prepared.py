"""Events that are ready to be decided: decoded, validated, and with their claims."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from sagaz_lab.abc import Refusal
from sagaz_lab.model.event import Alike, Deliveries, Delivery, Event, payload_as_sent, reader_of
from sagaz_lab.runtime.triggers.compiled import ID_LENGTH
from sagaz_lab.runtime.triggers.decode import Decode, as_sent

ITSELF = object()


def same(payload: Any) -> Any:
    """Instead of decoding."""
    return payload


class Prepared(NamedTuple):
    """One item each for every event that can be decided: the event, what the method gets (None: the event, for all of
    them), the claim of its id, the event as it was sent, the claim of its declared key (None: there is none, for all
    of them).

    The user's code gets the first two and may change them; what is kept is made from `sent`, where bytes are still to
    be decoded by `decode`. The keys of a run are read from `keyed`, if that is given. `unfit` are events that cannot be
    decided, each with its error and the claim of its id. `shared`: `events` were sent like this, so that those may be
    kept whose payload the method has not asked for.
    """

    events: Sequence[Event]
    subjects: Sequence[Any] | None
    claims: Sequence[str | None]
    sent: Sequence[Event]
    declared: Sequence[str | None] | None = None
    decode: Decode = same
    keyed: Any = None
    unfit: Sequence[tuple[Event, BaseException, str | None]] = ()
    shared: bool = False

    @classmethod
    def of(cls, rows: Sequence[tuple[Event, Any, str | None, Event, str | None]]) -> Prepared:
        """Of a row for each event."""
        events, subjects, claims, sent, declared = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        return cls(events, subjects, claims, sent, declared)

    def each(self) -> Iterator[tuple[int, Event, Any, str | None, str | None]]:
        """The number of each, the event, what the method gets, and its claims."""
        subjects, declared = self.subjects or repeat(ITSELF), self.declared or repeat(None)
        rows = zip(self.events, subjects, self.claims, declared, strict=False)
        for i, (event, subject, claim, key) in enumerate(rows):
            yield i, event, event if subject is ITSELF else subject, claim, key

    def kept(self, i: int) -> Event:
        """What is kept of an event: as it was sent, whatever was made of the method's own."""
        return self.sent[i] if self.decode is same else as_sent(self.sent[i], self.decode)

    def before_a_repeat(self, taken: Container[str]) -> int:
        """How many come before one that shares a claim with an earlier one; one that is `taken` is nobody's here."""
        asked = self.all_claims()
        if len(set(asked)) == len(asked):
            return len(self.events)
        seen: set[str] = set()
        for i, *_, claim, declared in self.each():
            mine = {own for own in (claim, declared) if own is not None}
            if not any(own in taken for own in mine):
                if not seen.isdisjoint(mine):
                    return i
                seen |= mine
        return len(self.events)

    def only(self, numbers: Sequence[int]) -> Prepared:
        """Those of these numbers."""
        if len(numbers) == len(self.events):
            return self
        return self._replace(
            events=[self.events[i] for i in numbers],
            subjects=None if self.subjects is None else [self.subjects[i] for i in numbers],
            claims=[self.claims[i] for i in numbers],
            sent=[self.sent[i] for i in numbers],
            declared=None if self.declared is None else [self.declared[i] for i in numbers],
        )

    def all_claims(self) -> list[str]:
        found = [claim for claim in self.claims if claim is not None]
        if self.declared is not None:
            found += [key for key in self.declared if key is not None]
        return found + [claim for _, _, claim in self.unfit if claim is not None] if self.unfit else found


def first_of(taken: Mapping[str, Refusal | str], claim: str | None, declared: str | None) -> Refusal | str:
    """Who has a claim of the event: what the store has comes first, and last what waits for another ("")."""
    found = [taken[mine] for mine in (claim, declared) if mine is not None and mine in taken]
    return next((it for it in found if not isinstance(it, str)), max(found, key=bool))


def ready(deliveries: Sequence[Delivery]) -> Prepared | None:
    """Events that need nothing done, whose ids are their claims: of all at once, as most batches are such."""
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
    # An id may not begin as a declared key's claim does; a text below " " begins with a control character.
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
