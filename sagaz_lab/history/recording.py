"""The recording source: rows of a file or of in-memory data as events, in order.

A row becomes the payload. A table with the columns of `Lab.events()` (`RECORDED`) yields the events it lists, each with
its payload. For the formats of the field `timestamp` see `times`.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from sagaz_lab.abc import Delivery, Event, Outcomes, SourceTraits, Surroundings
from sagaz_lab.errors import EndOfSource, SourceNotReady
from sagaz_lab.history import lines, tables
from sagaz_lab.history.times import read_time
from sagaz_lab.model.event import NO_HEADERS, payload_as_sent
from sagaz_lab.model.options import Placed
from sagaz_lab.model.source_traits import TRAITS
from sagaz_lab.sources.unsettled import Unsettled, pop_first
from sagaz_lab.texts import logger_of

logger = logger_of(__name__)

RECORDED = frozenset({"event_id", "source", "key", "timestamp", "payload"})
_SOON_S = 1e-6  # shorter waits are lost in rounding
AHEAD = 100  # rows converted in advance when paced by `speed`


class RecordingSource:
    """Delivers each row once, then raises `EndOfSource`; nacked rows come again.

    One object is one opening of the recording: when entered again it continues where it was. Ids are new per opening;
    with `keep_ids` they come from the field `id`, else from the file's path and the row number.
    """

    traits: ClassVar[SourceTraits] = TRAITS["recording"]

    def __init__(
        self, *, surroundings: Surroundings, path: str | os.PathLike[str] | None = None, data: Any = None,
        id: str | None = None, key: str | None = None, timestamp: str | None = None, keep_ids: bool = False,
        speed: float | None = None,
    ) -> None:  # fmt: skip
        self.name = f"recording {'' if path is None else path}".strip()
        self._path = None if path is None else Path(Placed(path).absolute)
        self._origin = None if self._path is None else self._path.resolve()  # resolve links now, since they may change
        self._data = data
        self._fields = _FieldNames(id, key, timestamp)
        self._keep_ids = keep_ids
        self._whole = False  # a row is only the payload
        self._speed = speed
        self._clock = surroundings.clock
        self._report = surroundings.report
        self._opening = secrets.token_hex(4)
        self._rows: Iterator[Any] | None = None
        self._shape: Callable[[int, Any], _Shaped] | None = None
        self._numbers = count(1)
        self._ahead: deque[Delivery] = deque()
        self._unsettled = Unsettled(self._clock)
        self._pace: tuple[float, float] | None = None
        self._warned: set[str] = set()

    async def __aenter__(self) -> Self:
        self._pace = None
        if self._rows is None:
            self._rows = self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._unsettled.left()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        if deliveries := self._unsettled.take(limit):
            return deliveries
        if self._speed is not None:
            deliveries = await self._read_paced(limit, self._speed)
        elif deliveries := self._read(limit):
            self._unsettled.add(deliveries)
        if not deliveries:
            raise EndOfSource(self.name)
        return deliveries

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        self._unsettled.settle(deliveries)

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        self._unsettled.give_back(deliveries)

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        """No-op: no other consumer takes them."""

    # --- pace ---

    async def _read_paced(self, limit: int, speed: float) -> list[Delivery]:
        """Wait for the first due delivery or a nacked one; returns all that are due."""
        ahead = self._ahead
        if not ahead:
            ahead.extend(self._read(AHEAD))
        while ahead:
            recorded = ahead[0].event.timestamp.timestamp()
            now = self._clock.monotonic()
            if self._pace is None:
                self._pace = now, recorded
            started, first = self._pace
            wait_s = started + (recorded - first) / speed - now
            if wait_s <= _SOON_S:
                deliveries = pop_first(ahead, _due(islice(ahead, limit), first + (now - started) * speed))
                self._unsettled.add(deliveries)
                return deliveries
            await self._unsettled.wait(wait_s)
            if again := self._unsettled.take(limit):
                return again
        return []

    # --- rows ---

    def _open(self) -> Iterator[Any]:
        if self._path is None:
            rows = _listed(self._data)
        elif not self._path.is_file():
            raise SourceNotReady(f"{self.name}: no file {self._path}")
        elif self._path.suffix == ".parquet":
            reader = tables()
            try:
                rows = reader.parquet_rows(self._path)
            except (OSError, ValueError) as error:
                raise SourceNotReady(f"{self.name}: {self._path} cannot be read: {error}") from error
        else:
            rows = lines.read(self._path)
        return iter(rows)

    def _read(self, limit: int) -> list[Delivery]:
        assert self._rows is not None, "enter the source before receiving"
        try:
            rows = list(islice(self._rows, limit))
        except (OSError, ValueError) as error:
            raise SourceNotReady(f"{self.name}: reading failed: {error}") from error
        if not rows:
            return []
        shape = self._shape or self._shape_of(rows)
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        opening, keep_ids = self._opening, self._keep_ids
        numbered = zip(rows, self._numbers, strict=False)
        if self._whole:
            return [
                Delivery(Event(row, f"r-{opening}-{number}", self.name, None, NO_HEADERS, now), number, True)
                for row, number in numbered
            ]
        deliveries: list[Delivery] = []
        add = deliveries.append
        for row, number in numbered:
            payload, given, source, key, headers, timestamp = shape(number, row)
            id = f"r-{opening}-{number}" if given is None else given if keep_ids else f"{given}~{opening}"
            add(Delivery(Event(payload, id, source, key, headers, timestamp or now), number, given is None))
        return deliveries

    def _shape_of(self, rows: Sequence[Any]) -> Callable[[int, Any], _Shaped]:
        """Choose how rows become events, by the first readable row."""
        first = next((row for row in rows if isinstance(row, dict | Event)), None)
        if first is None:
            return self._row
        fields = self._fields
        listed = isinstance(first, Event) or (first.keys() >= RECORDED and fields == _FieldNames())
        if self._speed is not None and not listed and fields.timestamp is None:
            raise SourceNotReady(f"{self.name}: speed= needs timestamp=, the field with the events' times")
        if self._keep_ids and not listed and fields.id is None and self._path is None:
            raise SourceNotReady(f"{self.name}: keep_ids=True needs id=, the field with the events' ids")
        self._whole = not (listed or self._keep_ids) and fields == _FieldNames()
        if listed:
            self._shape = self._event if isinstance(first, Event) else self._recorded
        else:
            self._shape = self._row
        return self._shape

    def _event(self, number: int, row: Any) -> _Shaped:
        if not isinstance(row, Event):
            return self._row(number, row)
        return payload_as_sent(row), row.id, row.source, row.key, row.headers, row.timestamp

    def _recorded(self, number: int, row: Any) -> _Shaped:
        if not (isinstance(row, dict) and row.keys() >= RECORDED):
            return self._row(number, row)
        payload, headers = row["payload"], row.get("headers")
        if isinstance(payload, str) and self._path is not None and self._path.suffix == ".parquet":
            payload = payload.encode()  # a column has one type, so this string is the undecoded payload
        return (
            payload, _text(row["event_id"]), row["source"] or self.name, _text(row["key"]),
            headers if isinstance(headers, Mapping) else NO_HEADERS, self._moment(number, row["timestamp"]),
        )  # fmt: skip

    def _row(self, number: int, row: Any) -> _Shaped:
        fields = self._fields
        found = row if isinstance(row, dict) else {}
        id = None if fields.id is None else _text(found.get(fields.id))
        if id is None and self._keep_ids and self._path is not None:
            id = f"{self._origin}#{number}"
        key = None if fields.key is None else _text(found.get(fields.key))
        moment = None if fields.timestamp is None else self._moment(number, found.get(fields.timestamp))
        return row, id, self.name, key, NO_HEADERS, moment

    def _moment(self, number: int, value: Any) -> datetime | None:
        moment, field = read_time(value), self._fields.timestamp or "timestamp"
        if moment is None:
            if value is None or value == "":
                self._warn_once("a row has no time in %r; the current time is used", field)
            else:
                self._report_unreadable(number, field, value)
            return None
        if moment.tzinfo is None:
            self._warn_once("times without a zone, such as %s, are read as UTC", moment)
            return moment.replace(tzinfo=UTC)
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)

    def _report_unreadable(self, number: int, field: str, value: Any) -> None:
        """Report the first unreadable time only."""
        if field not in self._warned:
            self._warned.add(field)
            text = f"{field!r} of row {number} is {repr(value)[:80]}, not a readable time"
            forms = "(ISO 8601, RFC 2822, a number); such rows get the current time"
            self._report(f"{self.name}:{field}", f"{self.name}: {text} {forms}")

    def _warn_once(self, what: str, fact: object) -> None:
        """Log each kind of warning once."""
        if what not in self._warned:
            self._warned.add(what)
            logger.warning("%s: %s", self.name, what % (fact,))


class _FieldNames(NamedTuple):
    id: str | None = None
    key: str | None = None
    timestamp: str | None = None


# payload, id, source, key, headers, timestamp
_Shaped = tuple[Any, str | None, str, str | None, Mapping[str, str], datetime | None]


def _listed(data: Any) -> Iterable[Any]:
    if not isinstance(data, list | tuple):
        try:
            rows: Iterable[Any] = tables().rows_of(data)
        except (TypeError, ValueError) as error:
            raise SourceNotReady(f"recording data: {error}") from error
        return rows
    for place, row in enumerate(data):
        if not isinstance(row, Event | Mapping):
            raise SourceNotReady(f"recording data: item {place} is a {type(row).__qualname__}, not a mapping or Event")
    return (row if isinstance(row, Event) else _plain_row(row) for row in data)


_PLAIN = frozenset({str, int, bool, bytes, type(None)})


def _plain_row(row: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: value if type(value) in _PLAIN else _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return _plain_row(value)
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if type(value).__module__.partition(".")[0] in ("numpy", "pandas"):
        return tables().plain(value)
    return None if isinstance(value, float) and value != value else value


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def _due(ahead: Iterable[Delivery], reached: float) -> int:
    """The number of leading deliveries that are due, at least one."""
    return max(1, sum(1 for _ in takewhile(lambda delivery: delivery.event.timestamp.timestamp() <= reached, ahead)))
