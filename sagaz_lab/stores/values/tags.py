"""Packs values into the journal's tagged objects and unpacks them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sagaz_lab.errors import ArtifactDamaged, DefinitionError, UnstorableValue
from sagaz_lab.model.run import Loadable
from sagaz_lab.stores.values.artifacts import LIBRARIES, RAW, Artifacts, codec_named, library, library_of
from sagaz_lab.stores.values.classes import address_of, find_class, restored, state_of

TAG = "$"
CLASS_TAGS = frozenset({"enum", "dataclass", "struct", "namedtuple", "pydantic"})
LATE = CLASS_TAGS | {"artifact"}
"""Tags that need files or user classes, unpacked on demand only."""

INLINE_BYTES = 4096
"""Longer bytes go to a file."""


MANY = 20_000
"""Containers with more items are packed in a thread: more would block the loop for over about 10 ms."""


class NeedsFiles(Exception):
    """The value needs a file or takes too long here. Never leaves the stores."""


class Packing:
    """Packs one value into JSON data."""

    def __init__(
        self, owner: str, key: str, artifacts: Artifacts | None, run_id: str, codec: Any, deepest: int
    ) -> None:
        self._owner = owner
        self._key = key
        self._artifacts = artifacts
        self._run_id = run_id
        self._codec = codec
        self._deepest = deepest

    def pack_all(self, value: Mapping[Any, Any]) -> Any:
        """Pack a mapping; errors name the key."""
        pairs = []
        for name, item in value.items():
            self._key = str(name)
            pairs.append((name, self.pack(item, self._deepest - 1)))
        return self._mapping(pairs, self._deepest - 1)

    def pack(self, value: Any, depth: int) -> Any:
        if depth < 0:
            raise self._refusal(value, f"nested more than {self._deepest} deep")
        kind = type(value)
        if kind in _PACKERS:
            return _PACKERS[kind](value)
        if self._artifacts is None and (kind is list or kind is dict) and len(value) > MANY:
            raise NeedsFiles
        if kind is list:
            return [self.pack(item, depth - 1) for item in value]
        if kind in _MAPPINGS:
            return self._mapping([(key, self.pack(item, depth - 1)) for key, item in value.items()], depth)
        if kind in _SEQUENCES:
            return {TAG: _SEQUENCES[kind], "v": [self.pack(item, depth - 1) for item in value]}
        if self._codec is not None and hasattr(self._codec, "accepts") and self._codec.accepts(value):
            return self._file(self._codec, value)
        if kind is bytes or kind is bytearray:
            return self._bytes(value, kind)
        if (found := state_of(value)) is not None:
            return self._object(value, *found, depth)
        if (root := library_of(kind)) is not None:
            return self._of_library(root, value)
        return self._of_base(value, depth)

    def _mapping(self, pairs: list[tuple[Any, Any]], depth: int) -> Any:
        if all(type(key) is str and key != TAG and _is_unicode(key) for key, _ in pairs):
            return dict(pairs)
        return {TAG: "dict", "v": [[self.pack(key, depth - 1), item] for key, item in pairs]}

    def _bytes(self, value: bytes | bytearray, kind: type) -> Any:
        if len(value) <= INLINE_BYTES:
            return {TAG: kind.__name__, "v": b64encode(value).decode()}
        packed = self._file(RAW, value)
        return packed if kind is bytes else {TAG: "bytearray_of", "v": packed}

    def _object(self, value: Any, tag: str, state: Any, depth: int) -> Any:
        kind = type(value)
        if "<locals>" in kind.__qualname__:
            return self._by_codec(
                value, f"its class {kind.__name__} is local to a function, where a resumed run cannot find it"
            )
        return {TAG: tag, "class": address_of(kind), "v": self.pack(state, depth - 1)}

    def _of_library(self, root: str, value: Any) -> Any:
        handler = library(root)
        if (inline := handler.inline(value)) is not None:
            return {TAG: root, **inline}
        for codec in handler.codecs:
            if codec.accepts(value):
                return self._file(codec, value)
        return self._by_codec(value)

    def _of_base(self, value: Any, depth: int) -> Any:
        if isinstance(value, PurePath):
            family = PureWindowsPath if isinstance(value, PureWindowsPath) else PurePosixPath
            return {TAG: "path", "kind": type(value).__name__, "v": _pack_str(str(value)), "family": family.__name__}
        if isinstance(value, Loadable) and (packed := getattr(value, "packed", None)) is not None:
            return packed  # stored before; unreadable or not loaded
        for base in _BASES:
            if isinstance(value, base):
                return self.pack(base(value), depth)
        return self._by_codec(value)

    def _by_codec(self, value: Any, why: str = "") -> Any:
        if self._codec is None:
            raise self._refusal(value, why)
        return self._file(codec_named("joblib") if self._codec == "joblib" else self._codec, value)

    def _file(self, codec: Any, value: Any) -> Any:
        if self._artifacts is None:
            raise NeedsFiles
        try:
            return {TAG: "artifact", **self._artifacts.write(self._run_id, self._key, codec, value)}
        except OSError:
            raise
        except BaseException as error:
            raise self._refusal(value, f"{type(error).__name__}: {error}") from error

    def _refusal(self, value: Any, why: str = "") -> UnstorableValue:
        return UnstorableValue(self._owner, self._key, value, why)


def unpack(packed: Any, artifacts: Artifacts | None, codec: Any = None) -> Any:
    """Unpack a value."""
    if type(packed) is list:
        return [unpack(item, artifacts, codec) for item in packed]
    if type(packed) is not dict:
        return packed
    tag = packed.get(TAG)
    if tag is None:
        return {key: unpack(item, artifacts, codec) for key, item in packed.items()}
    if tag == "artifact":
        if artifacts is None:
            raise ArtifactDamaged(f"the folder of {packed['path']} is unknown")
        return artifacts.read(packed, codec)
    if tag in LIBRARIES:
        return library(tag).restore(packed)
    if tag in _UNPACKERS:
        return _UNPACKERS[tag](packed)
    body = packed["v"]
    if tag == "dict":
        return {unpack(key, artifacts): unpack(item, artifacts, codec) for key, item in body}
    if tag in CLASS_TAGS:
        return restored(tag, find_class(packed["class"]), unpack(body, artifacts, codec))
    if tag in _REBUILD:
        return _REBUILD[tag](unpack(body, artifacts, codec))
    raise DefinitionError(f"a stored value has the tag {tag!r}, which this version does not know")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pack_str(value: str) -> Any:
    return value if _is_unicode(value) else {TAG: "str", "v": value.encode("unicode_escape").decode()}


def _unpack_str(packed: Any) -> str:
    return packed if type(packed) is str else packed["v"].encode().decode("unicode_escape")


def _pack_int(value: int) -> Any:
    # Hexadecimal has no digit limit in Python.
    return value if -(2**63) <= value < 2**64 else {TAG: "int", "v": hex(value)}


def _pack_float(value: float) -> Any:
    return value if value - value == 0.0 else {TAG: "float", "v": repr(value)}


def _pack_datetime(value: datetime) -> Any:
    # Always with the offset: a zone may have no name, or one unknown to the reader.
    packed: dict[str, Any] = {TAG: "datetime", "v": value.isoformat()}
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        packed["zone"] = zone.key
    if value.fold:
        packed["fold"] = 1
    return packed


def _unpack_datetime(packed: dict[str, Any]) -> datetime:
    value = datetime.fromisoformat(packed["v"]).replace(fold=packed.get("fold", 0))
    if "zone" not in packed:
        return value
    try:
        zone = ZoneInfo(packed["zone"])
    except (LookupError, ValueError, OSError):
        if value.tzinfo is None:  # an earlier version stored no offset
            raise
        return value
    local = value.replace(tzinfo=zone)
    # If the zone's rules have changed, the instant is kept, not the wall clock time.
    return local if value.tzinfo is None or local.utcoffset() == value.utcoffset() else value.astimezone(zone)


def _unpack_path(packed: dict[str, Any]) -> PurePath:
    kind = _PATHS.get(packed["kind"]) or _PATHS[packed["family"]]
    return kind(_unpack_str(packed["v"]))


def _pack_time(value: time) -> Any:
    packed: dict[str, Any] = {TAG: "time", "v": value.replace(fold=0).isoformat()}
    zone = value.tzinfo
    if isinstance(zone, ZoneInfo) and zone.key:
        packed |= {"v": value.replace(tzinfo=None, fold=0).isoformat(), "zone": zone.key}
    if value.fold:
        packed["fold"] = 1
    return packed


def _unpack_time(packed: dict[str, Any]) -> time:
    value = time.fromisoformat(packed["v"]).replace(fold=packed.get("fold", 0))
    return value.replace(tzinfo=ZoneInfo(packed["zone"])) if "zone" in packed else value


def _itself(value: Any) -> Any:
    return value


_BASES: tuple[Any, ...] = (dict, list, tuple, set, frozenset, str, int, float)
_MAPPINGS = frozenset({dict, MappingProxyType})
_SEQUENCES: dict[Any, str] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_REBUILD: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple, "set": set, "frozenset": frozenset, "bytearray_of": bytearray,
}  # fmt: skip
_PATHS: dict[str, Callable[[str], PurePath]] = {
    kind.__name__: kind for kind in (PurePosixPath, PureWindowsPath, type(Path()))
}

_PACKERS: dict[Any, Callable[[Any], Any]] = {
    bool: _itself,
    type(None): _itself,
    str: _pack_str,
    int: _pack_int,
    float: _pack_float,
    complex: lambda value: {TAG: "complex", "v": [_pack_float(value.real), _pack_float(value.imag)]},
    date: lambda value: {TAG: "date", "v": value.isoformat()},
    time: _pack_time,
    datetime: _pack_datetime,
    timedelta: lambda value: {TAG: "timedelta", "v": [value.days, value.seconds, value.microseconds]},
    UUID: lambda value: {TAG: "uuid", "v": value.hex},
    Decimal: lambda value: {TAG: "decimal", "v": str(value)},
}

_UNPACKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "str": _unpack_str,
    "int": lambda packed: int(packed["v"], 16),
    "float": lambda packed: float(packed["v"]),
    "complex": lambda packed: complex(*(unpack(part, None) for part in packed["v"])),
    "date": lambda packed: date.fromisoformat(packed["v"]),
    "time": _unpack_time,
    "datetime": _unpack_datetime,
    "timedelta": lambda packed: timedelta(*packed["v"]),
    "uuid": lambda packed: UUID(packed["v"]),
    "decimal": lambda packed: Decimal(packed["v"]),
    "bytes": lambda packed: b64decode(packed["v"]),
    "bytearray": lambda packed: bytearray(b64decode(packed["v"])),
    "path": _unpack_path,
}
