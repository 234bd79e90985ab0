"""Event: a fact from outside, known by its source and id. Delivery: one hand-over of it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, KeysView, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


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
    the event has no field of that name; `event.message_id` is the id where the payload has none.

    Where the payload is a mapping, the event reads like one: `event.get(name)`, `name in event`, `len(event)`,
    `for name in event`, `dict(event)`, `{**event}`. With another payload these raise `TypeError`.
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

    def get(self, name: Any, default: Any = None) -> Any:
        """The payload's value of this name."""
        return self._mapping().get(name, default)

    def keys(self) -> KeysView[Any]:
        """The payload's names."""
        return self._mapping().keys()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.payload if isinstance(self.payload, list | tuple) else self._mapping())

    def __len__(self) -> int:
        return len(self.payload if isinstance(self.payload, list | tuple) else self._mapping())

    def __bool__(self) -> bool:
        return True

    def _mapping(self) -> Mapping[Any, Any]:
        if isinstance(self.payload, Mapping):
            return self.payload
        kind = type(self.payload).__name__
        raise TypeError(f"the event reads like a mapping only if its payload is one; it is a {kind}: event.payload")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        payload = self.payload
        if isinstance(payload, Mapping):
            try:
                return payload[name]
            except KeyError:
                if name in ("items", "values"):
                    return getattr(payload, name)
                if name == "message_id":
                    return self.id
                fields = ", ".join(map(str, list(payload)[:20])) or "none"
                raise AttributeError(f"the event has no field {name!r}; its payload has: {fields}") from None
        return getattr(payload, name, self.id) if name == "message_id" else getattr(payload, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an event is read-only; {name!r} cannot be set")

    def __contains__(self, name: object) -> bool:
        return name in (self.payload if isinstance(self.payload, Container) else self._mapping())

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


OWN_FIELDS = frozenset((*_Fields.__slots__, "get", "keys"))


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


class Alike(Sequence[Event]):
    """Events that differ by payload and id only, each made anew whenever it is asked for.

    Most events are filtered: made one by one as they are decided, they come and go without the garbage collector. So do
    the payloads that `copy` makes as they are iterated.
    """

    __slots__ = ("_copy", "_source", "_timestamp", "ids", "payloads")

    def __init__(self, payloads: list[Any], ids: list[str], source: str, timestamp: datetime) -> None:
        if len(payloads) != len(ids):
            raise ValueError(f"{len(payloads)} payloads and {len(ids)} ids: each event has one of either")
        self.payloads = payloads
        self.ids = ids
        self._source = source
        self._timestamp = timestamp
        self._copy: Callable[[Any], Any] | None = None

    def copied(self, copy: Callable[[Any], Any]) -> Alike:
        """The same events, each with a copy of its payload."""
        events = Alike(self.payloads, self.ids, self._source, self._timestamp)
        events._copy = copy
        return events

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[Event]:
        source, timestamp = self._source, self._timestamp
        payloads = self.payloads if self._copy is None else map(self._copy, self.payloads)
        for payload, id in zip(payloads, self.ids, strict=True):
            event = _Fields()
            event.payload = payload
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
            events = Alike(self.payloads[index], self.ids[index], self._source, self._timestamp)
            events._copy = self._copy
            return events
        payload = self.payloads[index]
        event = _Fields()
        event.payload = payload if self._copy is None else self._copy(payload)
        event.id = self.ids[index]
        event.source = self._source
        event.key = None
        event.headers = NO_HEADERS
        event.timestamp = self._timestamp
        event.attempt = 1
        event.__class__ = Event
        return event


class Deliveries(Sequence[Delivery]):
    """Deliveries of such events, without tokens."""

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
    """Many deliveries of events without keys, headers and tokens, at a fraction of the cost of making each by itself.

    `payloads` and `ids` go together; `timestamp` is when the batch came. Raises `ValueError` if one has more than the
    other.
    """
    return Deliveries(Alike(list(payloads), list(ids), source, timestamp), fresh)
