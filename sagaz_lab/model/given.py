"""The payload types of some sources, for firing such events by hand and for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from sagaz_lab.errors import DecodeError
from sagaz_lab.model.apart import register_container
from sagaz_lab.model.event import NO_HEADERS, Event


class _ByName:
    """Its fields can also be read by key, as in any payload."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        if name not in type(self).__dataclass_fields__:  # type: ignore[attr-defined]
            raise KeyError(name)
        return getattr(self, name)


class Headers(dict[str, str]):
    """HTTP headers: names are stored in lower case and looked up in any case."""

    __slots__ = ()

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)

    def copy(self) -> Headers:
        return Headers(self)


@dataclass(frozen=True, slots=True)
class WebhookRequest(_ByName):
    """A webhook request. `body` is stored as bytes: a string is encoded, any other value becomes JSON.

    Names in `headers` are stored in lower case and looked up in any case.
    """

    body: Any = b""
    path_params: Mapping[str, str] = field(default_factory=dict)
    query_params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    path: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.body, bytes):
            text = self.body.encode() if isinstance(self.body, str) else msgspec.json.encode(self.body)
            object.__setattr__(self, "body", text)
        object.__setattr__(self, "headers", Headers(self.headers))

    def json(self) -> Any:
        """The decoded body. Raises `DecodeError` if it is not JSON."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(f"the body is not JSON: {error}; it starts with {self.body[:80]!r}") from None


def _own_request(value: WebhookRequest) -> WebhookRequest:
    path_params, query_params, headers = dict(value.path_params), dict(value.query_params), dict(value.headers)
    return replace(value, path_params=path_params, query_params=query_params, headers=headers)


register_container(WebhookRequest, _own_request)


@dataclass(frozen=True, slots=True)
class FileEvent(_ByName):
    """A file was created, modified or deleted. `size` is in bytes."""

    path: str
    size: int = 0
    event_type: str = "created"

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.fspath(self.path))


@dataclass(frozen=True, slots=True)
class Tick(_ByName):
    """A tick of a schedule: when it fired and when it was due (default: the same). Both are aware."""

    timestamp: datetime | None = None
    scheduled_for: datetime | None = None

    def __post_init__(self) -> None:
        came = self.timestamp or self.scheduled_for or datetime.now(UTC)
        object.__setattr__(self, "timestamp", came)
        object.__setattr__(self, "scheduled_for", self.scheduled_for or came)


def headers_of(payload: Any, headers: Mapping[str, str]) -> Mapping[str, str]:
    """The event's headers; a webhook request's are looked up in any case."""
    return Headers(headers) if isinstance(payload, WebhookRequest) else headers


def event_with(payload: Any, id: str, source: str, timestamp: datetime) -> Event:
    """The event a source would create from this payload, with a request's headers and a tick's time."""
    headers: Mapping[str, str] = NO_HEADERS
    if isinstance(payload, WebhookRequest):
        headers = payload.headers
    elif isinstance(payload, Tick) and payload.timestamp is not None:
        timestamp = payload.timestamp
    return Event(payload, id, source, headers=headers, timestamp=timestamp)
