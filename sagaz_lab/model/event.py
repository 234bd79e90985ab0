"""Event: a fact from outside, identified by source and id. Delivery: one hand-over of an event."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, KeysView, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

from sagaz_lab.model.apart import UNCHANGING, apart, register_container

NO_HEADERS: MappingProxyType[str, str] = MappingProxyType({})


def _read_only(headers: Mapping[str, str]) -> MappingProxyType[str, str]:
    """Shared, read-only headers. A dict subclass, such as a case-insensitive one, keeps its class."""
    if not headers:
        return NO_HEADERS
    if type(headers) is dict:
        return MappingProxyType(headers.copy())
    return MappingProxyType(copy(headers) if isinstance(headers, dict) else dict(headers))


class _EventSlots:
    """The slots of an event, still writable."""

    __slots__ = ("_read", "_sent", "attempt", "headers", "id", "key", "source", "timestamp")

    _sent: Any  # shared by all readers; mutable values are never handed out
    _read: Any  # the same, until its reader asks for a mutable value: then the reader's copy
    id: str
    source: str
    key: str | None
    headers: MappingProxyType[str, str]
    timestamp: datetime
    attempt: int


class Event(_EventSlots):
    """A fact from outside. Read-only.

    A reader may change the payload in place: each reader has a private copy, made when it first reads a container.
    The headers are immutable.

    `id` and `source` identify it; a redelivery keeps both and increments `attempt`, which starts at 1. `payload` is
    decoded; `key` is the source's ordering key, if any; `timestamp` is aware, in UTC. `event["x"]` always reads the
    payload; `event.x` reads it if the event has no field of that name; `event.message_id` defaults to the id.

    If the payload is a mapping, the event reads like one: `event.get(name)`, `name in event`, `len(event)`,
    `for name in event`, `dict(event)`, `{**event}`. Otherwise these raise `TypeError`.
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
        # Each delivery creates an event: filling writable slots, then switching the class, costs half of a frozen
        # dataclass.
        event = _EventSlots()
        event._sent = event._read = payload
        event.id = id
        event.source = source
        event.key = key
        event.headers = headers if type(headers) is MappingProxyType else _read_only(headers)
        event.timestamp = timestamp or datetime.now(UTC)
        event.attempt = attempt
        event.__class__ = cls
        return event  # type: ignore[return-value]

    @property
    def payload(self) -> Any:
        """The decoded payload; the reader's own copy."""
        read = self._read
        if read is self._sent and type(read) not in UNCHANGING:
            read = apart(read)
            object.__setattr__(self, "_read", read)
        return read

    def with_payload(self, payload: Any) -> Event:
        """The same event with its payload decoded."""
        return Event(payload, self.id, self.source, self.key, self.headers, self.timestamp, self.attempt)

    def with_id(self, id: str) -> Event:
        """The same event under another id."""
        return Event(self._sent, id, self.source, self.key, self.headers, self.timestamp, self.attempt)

    def __getitem__(self, name: Any) -> Any:
        value = self._read[name]
        return value if type(value) in UNCHANGING else self.payload[name]

    def get(self, name: Any, default: Any = None) -> Any:
        value = self._mapping().get(name, default)
        return value if type(value) in UNCHANGING or value is default else self.payload[name]

    def keys(self) -> KeysView[Any]:
        self._mapping()
        keys: KeysView[Any] = self.payload.keys()
        return keys

    def __iter__(self) -> Iterator[Any]:
        return iter(self.payload if isinstance(self._read, list | tuple) else self._mapping())

    def __len__(self) -> int:
        return len(self._read if isinstance(self._read, list | tuple) else self._mapping())

    def __bool__(self) -> bool:
        return True

    def _mapping(self) -> Mapping[Any, Any]:
        """The payload as a mapping, for names and plain values."""
        if isinstance(self._read, Mapping):
            return self._read
        kind = type(self._read).__name__
        raise TypeError(f"the event reads like a mapping only if its payload is one; it is a {kind}: event.payload")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        payload = self._read
        if isinstance(payload, Mapping):
            try:
                return self[name]
            except KeyError:
                if name in ("items", "values"):
                    return getattr(self.payload, name)
                if name == "message_id":
                    return self.id
                fields = ", ".join(map(str, list(payload)[:20])) or "none"
                raise AttributeError(f"the event has no field {name!r}; its payload has: {fields}") from None
        payload = self.payload
        return getattr(payload, name, self.id) if name == "message_id" else getattr(payload, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an event is read-only; {name!r} cannot be set")

    def __contains__(self, name: object) -> bool:
        return name in (self._read if isinstance(self._read, Container) else self._mapping())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return (self.source, self.id, self._read) == (other.source, other.id, other._read)

    def __hash__(self) -> int:
        return hash((self.source, self.id))

    def __reduce__(self) -> tuple[Any, ...]:
        fields = (self._read, self.id, self.source, self.key, self.headers.copy(), self.timestamp, self.attempt)
        return Event, fields

    def __repr__(self) -> str:
        shown = repr(self._read)
        return f"Event({self.source} {self.id}, {shown if len(shown) <= 120 else shown[:117] + '...'})"


OWN_FIELDS = frozenset((*_EventSlots.__slots__, "payload", "get", "keys"))


def payload_as_sent(event: Event) -> Any:
    """The shared payload, for callers that neither change it nor hand it to user code."""
    return event._sent


def is_as_sent(event: Event) -> bool:
    """Whether no reader has a private copy yet, so that others may share this event."""
    return event._read is event._sent


def reader_of(event: Event) -> Event:
    """The same event for another reader, with its own copy of the payload on first use."""
    payload = event._sent
    if type(payload) in UNCHANGING:
        return event
    return Event(payload, event.id, event.source, event.key, event.headers, event.timestamp, event.attempt)


register_container(Event, reader_of)


def next_attempt(event: Event) -> Event:
    """The same event, redelivered."""
    attempt = event.attempt + 1
    return Event(event._sent, event.id, event.source, event.key, event.headers, event.timestamp, attempt)


class Delivery(NamedTuple):
    """One hand-over of an event by a source, to be settled with `ack` or `nack`.

    `token` is opaque to everyone but the source. `fresh`: the id was generated for this delivery, so it cannot be a
    duplicate.
    """

    event: Event
    token: Any = None
    fresh: bool = False


class Alike(Sequence[Event]):
    """Events that differ in payload and id only, each created on access.

    Most events are filtered: created one by one as they are decided, they never reach the garbage collector.
    """

    __slots__ = ("_source", "_timestamp", "ids", "payloads")

    def __init__(self, payloads: list[Any], ids: list[str], source: str, timestamp: datetime) -> None:
        if len(payloads) != len(ids):
            raise ValueError(f"{len(payloads)} payloads and {len(ids)} ids: each event needs one of each")
        self.payloads = payloads
        self.ids = ids
        self._source = source
        self._timestamp = timestamp

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Event]:
        source, timestamp = self._source, self._timestamp
        for payload, id in zip(self.payloads, self.ids, strict=True):
            event = _EventSlots()
            event._sent = event._read = payload
            event.id = id
            event.source = source
            event.key = None
            event.headers = NO_HEADERS
            event.timestamp = timestamp
            event.attempt = 1
            event.__class__ = Event
            yield event  # type: ignore[misc]

    def __getitem__(self, index: Any) -> Any:
        if type(index) is slice:
            return Alike(self.payloads[index], self.ids[index], self._source, self._timestamp)
        event = _EventSlots()
        event._sent = event._read = self.payloads[index]
        event.id = self.ids[index]
        event.source = self._source
        event.key = None
        event.headers = NO_HEADERS
        event.timestamp = self._timestamp
        event.attempt = 1
        event.__class__ = Event
        return event


class Deliveries(Sequence[Delivery]):
    """Deliveries of `Alike` events, without tokens."""

    __slots__ = ("events", "fresh")

    def __init__(self, events: Alike, fresh: bool) -> None:
        self.events = events
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[Delivery]:
        return (Delivery(event, None, self.fresh) for event in self.events)

    def __getitem__(self, index: Any) -> Any:
        events = self.events[index]
        return Deliveries(events, self.fresh) if isinstance(events, Alike) else Delivery(events, None, self.fresh)


def deliveries(
    payloads: Iterable[Any], ids: Iterable[str], source: str, timestamp: datetime, *, fresh: bool = False
) -> Sequence[Delivery]:
    """Deliveries of events without keys, headers and tokens, far cheaper than creating each by itself.

    `payloads` and `ids` are parallel; `timestamp` is the batch's arrival. Raises `ValueError` if the lengths differ.
    """
    return Deliveries(Alike(list(payloads), list(ids), source, timestamp), fresh)
