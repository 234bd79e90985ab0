"""Event: a fact from outside, known by its source and id. Delivery: one hand-over of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_new_tuple = tuple.__new__


class _Fields:
    """The slots of an event, still open for writing."""

    __slots__ = ("attempt", "headers", "id", "key", "payload", "source", "timestamp")

    id: str
    source: str
    payload: Any
    key: str | None
    headers: Mapping[str, str]
    timestamp: datetime
    attempt: int


class Event(_Fields):
    """A fact from outside. Read-only.

    `id` and `source` identify it; a redelivery keeps both and raises `attempt` (1 at first).
    `payload` is what was sent, decoded; `key` is the source's own ordering key, if it has one;
    `timestamp` is aware, in UTC. `event["x"]` always reads the payload; `event.x` reads it where
    the event has no field of that name.
    """

    __slots__ = ()

    def __new__(
        cls,
        payload: Any = None,
        id: str = "",
        source: str = "memory",
        key: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        timestamp: datetime | None = None,
        attempt: int = 1,
    ) -> Event:
        # Filling open slots and then closing them costs half of what a frozen dataclass does,
        # and one event is made for each delivery.
        event = _Fields()
        event.payload = payload
        event.id = id
        event.source = source
        event.key = key
        event.headers = headers
        event.timestamp = timestamp or datetime.now(UTC)
        event.attempt = attempt
        event.__class__ = cls
        return event  # type: ignore[return-value]

    def with_payload(self, payload: Any) -> Event:
        """The same event with another payload: the decoded one."""
        return Event(payload, self.id, self.source, self.key, self.headers, self.timestamp, self.attempt)

    def with_id(self, id: str) -> Event:
        """The same event under another id."""
        return Event(self.payload, id, self.source, self.key, self.headers, self.timestamp, self.attempt)

    def __getitem__(self, name: Any) -> Any:
        return self.payload[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        payload = self.payload
        if isinstance(payload, Mapping):
            try:
                return payload[name]
            except KeyError:
                fields = ", ".join(map(str, list(payload)[:20])) or "none"
                raise AttributeError(f"the event has no field {name!r}; its payload has: {fields}") from None
        return getattr(payload, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an event is read-only; {name!r} cannot be set")

    def __contains__(self, name: object) -> bool:
        return name in self.payload

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.source, self.id, self.payload) == (other.source, other.id, other.payload)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self.payload, self.id, self.source, self.key, dict(self.headers), self.timestamp, self.attempt)
        return Event, fields

    def __repr__(self) -> str:
        shown = repr(self.payload)
        return f"Event({self.source} {self.id}, {shown if len(shown) <= 120 else shown[:117] + '...'})"


OWN_FIELDS = frozenset(_Fields.__slots__)


def next_attempt(event: Event) -> Event:
    """The same event, delivered once more."""
    attempt = event.attempt + 1
    return Event(event.payload, event.id, event.source, event.key, event.headers, event.timestamp, attempt)


class Delivery(NamedTuple):
    """One hand-over of an event by a source, to be settled with `ack` or `nack`.

    `token` is the source's own. `fresh` says that the id was made for this very delivery, so no
    earlier one can have had it.
    """

    event: Event
    token: Any = None
    fresh: bool = False


def deliveries(
    payloads: Iterable[Any], ids: Iterable[str], source: str, timestamp: datetime, *, fresh: bool = False
) -> list[Delivery]:
    """Many deliveries of events without keys, headers and tokens, at a third of the cost of making each by itself.

    `payloads` and `ids` go together; `timestamp` is when the batch came.
    """
    events = []
    for payload, id in zip(payloads, ids, strict=True):
        event = _Fields()
        event.payload = payload
        event.id = id
        event.source = source
        event.key = None
        event.headers = NO_HEADERS
        event.timestamp = timestamp
        event.attempt = 1
        event.__class__ = Event
        events.append(event)
    return list(map(_new_tuple, repeat(Delivery), zip(events, repeat(None), repeat(fresh))))
