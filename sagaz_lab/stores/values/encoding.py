"""The journal's encoding: JSON, with tagged objects for other types.

`{"$": "date", "v": "2026-01-31"}` is a date. A user's mapping with the key "$" or with keys that are not strings is
stored as `{"$": "dict", "v": [[key, value], ...]}`. Plain values are written without a copy. Tables, arrays and long
bytes go to files; the tagged object has the file's name, size and sha256. A subclass of `dict`, `list`, `str`, `int` or
`float` without its own tag is restored as the plain type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from sagaz_lab.errors import SagazLabError, Unreadable, UnstorableValue, describe
from sagaz_lab.model.event import NO_HEADERS, Event, payload_as_sent
from sagaz_lab.model.given import headers_of
from sagaz_lab.model.run import Loadable
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.tags import LATE, MANY, TAG, NeedsFiles, Packing, unpack
from sagaz_lab.texts import masked

__all__ = [
    "ArtifactRef",
    "Damaged",
    "NeedsFiles",
    "decode",
    "decode_event",
    "decode_names",
    "encode",
    "encode_event",
    "encode_event_or_text",
    "encode_names",
    "encode_plain",
    "event_facts",
    "is_ref",
]

DEEPEST = 100
"""Maximum nesting, far below the parsers' limits."""

_to_json = msgspec.json.Encoder().encode
_from_json = msgspec.json.Decoder().decode
_TAG_JSON = b'"$"'
_SAFE = frozenset({str, int, bool, type(None)})


class ArtifactRef(Loadable):
    """A stored value that needs files or user classes, loaded on demand.

    `load` returns a new value each time. It raises `ArtifactDamaged` if a file is missing or changed, and
    `DefinitionError` if a notebook's class is not defined (yet).
    """

    __slots__ = ("_artifacts", "_packed")

    def __init__(self, packed: Any, artifacts: Artifacts | None) -> None:
        self._packed = packed
        self._artifacts = artifacts

    def load(self, codec: Any = None) -> Any:
        """Load the value. `codec` is the user's codec, if its class cannot be found by name."""
        try:
            return unpack(self._packed, self._artifacts, codec)
        except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            raise Unreadable(f"a stored value cannot be read: {describe(error)}") from error

    @property
    def packed(self) -> Any:
        """The stored form, which can be stored again without loading."""
        return self._packed

    @property
    def size(self) -> int:
        """Total bytes in files."""
        return sum(found["size"] for found in _tagged(self._packed) if found[TAG] == "artifact")

    def __repr__(self) -> str:
        kinds = ", ".join(sorted({found.get("codec") or found.get("class", "") for found in _tagged(self._packed)}))
        return f"ArtifactRef({kinds}, {self.size} bytes in files)"


class Damaged(Loadable):
    """Replaces an unreadable payload; `text` is its stored form."""

    __slots__ = ("text", "why")

    def __init__(self, text: str, why: str) -> None:
        self.text = text
        self.why = why

    def load(self) -> Any:
        raise Unreadable(self.why)

    def __repr__(self) -> str:
        return self.text


def is_ref(value: object) -> bool:
    """Whether it is a value that is not loaded yet."""
    return type(value) is ArtifactRef


def encode_plain(value: Any) -> bytes | None:
    """The value as JSON if it needs no tags; else None."""
    if not _is_plain(value, DEEPEST):
        return None
    try:
        return _to_json(value)
    except (ValueError, OverflowError):  # a lone surrogate or too large an int
        return None


def encode(
    value: Any, owner: str, key: str, artifacts: Artifacts | None = None, run_id: str = "", codec: Any = None
) -> bytes:
    """The value as JSON. `owner` and `key` name it in errors.

    Without `artifacts` it raises `NeedsFiles` for a value that is long or needs a file: then call it with them, in a
    thread. Raises `UnstorableValue`.
    """
    if (plain := encode_plain(value)) is not None:
        return plain
    packing = Packing(owner, key, artifacts, run_id, codec, DEEPEST)
    try:
        if isinstance(value, Mapping):
            return _to_json(packing.pack_all(value))
        return _to_json(packing.pack(value, DEEPEST))
    except RecursionError:
        raise UnstorableValue(owner, key, value, f"nested more than {DEEPEST} deep") from None
    except (NeedsFiles, SagazLabError, OSError, MemoryError):
        raise
    except BaseException as error:  # raised by a user class
        raise UnstorableValue(owner, key, value, describe(error)) from error


def decode(text: bytes | None, artifacts: Artifacts | None) -> Any:
    """The value; parts that need files or user classes are `ArtifactRef`."""
    if text is None:
        return None
    text = _as_bytes(text)
    value = _from_json(text)
    if _TAG_JSON not in text:
        return value
    if type(value) is dict:
        if TAG not in value:
            return {key: _part(item, artifacts) for key, item in value.items()}
        if value[TAG] == "dict":
            return {unpack(key, artifacts): _part(item, artifacts) for key, item in value["v"]}
    return _part(value, artifacts)


def encode_names(names: Sequence[str]) -> str:
    """The names of actions as JSON; "" without names."""
    return _to_json(names).decode() if names else ""


def decode_names(text: str) -> Sequence[str]:
    return _from_json(text) if text else ()


def encode_event(event: Event, owner: str, artifacts: Artifacts | None = None, run_id: str = "") -> bytes:
    """The event as JSON. Raises as `encode` does."""
    return encode(event_facts(event), owner, "payload", artifacts, run_id)


def event_facts(event: Event) -> list[Any]:
    """The stored fields of an event, the payload last."""
    headers = dict(event.headers) if event.headers else None
    source = masked(event.source) if "://" in event.source else event.source  # a source whose name contains an address
    return [event.id, source, event.key, headers, event.timestamp.isoformat(), event.attempt, payload_as_sent(event)]


def encode_event_or_text(event: Event, artifacts: Artifacts | None, folder: str) -> bytes:
    """`encode_event`, but an unstorable payload becomes its `repr`, so that the event is kept."""
    try:
        return encode_event(event, "event", artifacts, folder)
    except UnstorableValue:
        return encode_event(event.with_payload(_shown(payload_as_sent(event))), "event", artifacts, folder)


def _shown(payload: Any) -> str:
    try:
        return repr(payload)[:10_000]
    except BaseException as error:  # noqa: BLE001  raised by a user class
        return f"<unprintable {type(payload).__name__}: {describe(error)}>"


def decode_event(
    text: bytes | None, artifacts: Artifacts | None, *, load: bool = True, id: str | None = None
) -> Event | None:
    """The event. Its payload stays an `ArtifactRef` without `load`, or if its class or file is missing.

    An unreadable event has a `Damaged` payload and the id `id`.
    """
    if text is None:
        return None
    try:
        return _event_from(text, artifacts, load)
    except Exception as error:  # noqa: BLE001  # damaged values may raise anything
        shown = text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else str(text)
        return Event(Damaged(shown, f"the stored event cannot be read: {describe(error)}"), id or _id_in(shown))


def _event_from(text: bytes, artifacts: Artifacts | None, load: bool) -> Event:
    text = _as_bytes(text)
    facts = _from_json(text)
    if _TAG_JSON in text:
        payload = _part(facts.pop(), artifacts)
        if load and is_ref(payload):
            with suppress(SagazLabError):
                payload = payload.load()
        *rest, headers, at, attempt = unpack(facts, artifacts)
        facts = [*rest, headers and headers_of(payload, headers), at, attempt, payload]
    id, source, key, headers, timestamp, attempt, payload = facts
    if not (isinstance(id, str) and isinstance(source, str) and isinstance(attempt, int)):
        raise TypeError("its id, source or attempt is invalid")
    return Event(payload, id, source, key, headers or NO_HEADERS, datetime.fromisoformat(timestamp), attempt)


def _as_bytes(text: bytes | str) -> bytes:
    """A value repaired by hand may be text."""
    return text.encode() if isinstance(text, str) else text


def _id_in(text: str) -> str:
    """The id at the beginning of a stored event, as far as it is readable."""
    begun = text.removeprefix('["')
    return begun.partition('"')[0] if begun != text else ""


def _is_plain(value: Any, depth: int) -> bool:
    """Whether it is plain JSON data. Strings and ints are checked by the encoder."""
    kind = type(value)
    if kind in _SAFE:
        return True
    if kind is float:
        return bool(value - value == 0.0)
    if depth == 0 or ((kind is dict or kind is list) and len(value) > MANY):
        return False
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or key == TAG:
                return False
            if type(item) not in _SAFE and not _is_plain(item, depth - 1):
                return False
        return True
    if kind is list:
        return all(type(item) in _SAFE or _is_plain(item, depth - 1) for item in value)
    return False


def _part(packed: Any, artifacts: Artifacts | None) -> Any:
    if any(found[TAG] in LATE for found in _tagged(packed)):
        return ArtifactRef(packed, artifacts)
    try:
        return unpack(packed, artifacts)
    except Exception:  # noqa: BLE001  # damaged or without its library: raised on access
        return ArtifactRef(packed, artifacts)


def _tagged(packed: Any) -> Iterator[dict[str, Any]]:
    waiting = [packed]
    while waiting:
        item = waiting.pop()
        if type(item) is dict:
            if TAG in item:
                yield item
            waiting += item.values()
        elif type(item) is list:
            waiting += item
