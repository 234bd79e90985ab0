"""The options of each kind of source, validated without its library."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any, Self

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.code import function_text
from sagaz_lab.model.content import content_digest
from sagaz_lab.model.redis_address import redis_address
from sagaz_lab.texts import HIDDEN, is_secret, masked, masked_address, secrets_of_address

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a kind of source. `check` returns the problem with a value, or None."""

    about: str
    check: Callable[[Any], str | None]
    required: bool = False
    default: Any = None


def text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "must be a non-empty string"


def flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be True or False"


def anything(_: Any) -> str | None:
    return None


def callable_value(value: Any) -> str | None:
    return None if callable(value) else "must be callable"


def at_least(low: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return None if whole and value >= low else f"must be a whole number, {low} or more"

    return check


def one_of(*values: str) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        return None if value in values else f"must be one of: {', '.join(values)}"

    return check


def matching(pattern: str, what: str) -> Callable[[Any], str | None]:
    compiled = re.compile(pattern)

    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and compiled.fullmatch(value) else f"must be {what}"

    return check


def speed(value: Any) -> str | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if number and 0 < value < float("inf") else "must be a number greater than 0"


def keywords(value: Any) -> str | None:
    names = isinstance(value, Mapping) and all(isinstance(name, str) for name in value)
    return None if names else "must be a mapping with string keys"


def recording_path(value: Any) -> str | None:
    known = isinstance(value, str | os.PathLike) and os.fspath(value).endswith((".parquet", ".jsonl"))
    return None if known else "must be a path that ends in .parquet or .jsonl"


class Address(str):
    """An address whose `repr` hides its credentials."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(self.masked)

    @property
    def masked(self) -> str:
        return masked_address(self)


class Secret(str):
    """A credential, hidden by `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(HIDDEN)


def guarded(name: str, value: Any) -> Any:
    """Wrap the option's value so that no `repr` shows its credentials."""
    if isinstance(value, str):
        if is_secret(name):
            return Secret(value)
        return Address(value) if secrets_of_address(value) else value
    if type(value) is dict:
        return {key: guarded(str(key), item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(guarded(name, item) for item in value)
    return value


def secrets_in(value: Any) -> set[str]:
    """The credentials in guarded settings."""
    if isinstance(value, Secret):
        return {str(value)}
    if isinstance(value, Address):
        return secrets_of_address(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    return set().union(*map(secrets_in, value)) if isinstance(value, list | tuple) else set()


class Placed(str):
    """A path as written, resolved at definition: a later change of directory does not affect it."""

    __slots__ = ("absolute",)
    absolute: str

    def __new__(cls, path: str | os.PathLike[str]) -> Self:
        placed = super().__new__(cls, os.fspath(path))
        placed.absolute = path.absolute if isinstance(path, Placed) else os.path.abspath(placed)
        return placed

    def __reduce__(self) -> tuple[type[Placed], tuple[str]]:
        return Placed, (self.absolute,)


class Loaded:
    """A check whose library is imported when the first trigger of its kind is defined."""

    def __init__(self, target: str) -> None:
        self._module, self._name = target.split(":")

    def __call__(self, value: Any) -> str | None:
        found: str | None = getattr(import_module(self._module), self._name)(value)
        return found


_NAME = "a name of up to 249 letters, digits, '.', '_' and '-'"
topic = matching(r"[A-Za-z0-9._-]{1,249}", _NAME)

START_FROM = Option("where a group without an offset starts", one_of("earliest", "latest"), default="earliest")

KINDS: Mapping[str, Mapping[str, Option]] = {
    "memory": {
        "topic": Option("fed by lab.fire", text),
    },
    "recording": {
        "path": Option("a .parquet or .jsonl file, relative to where the class was defined", recording_path),
        "data": Option("a DataFrame (a named index is a field), or a list of mappings or events", anything),
        "id": Option("the field with the event's id", text),
        "key": Option("the field with the ordering key", text),
        "timestamp": Option("the field with the event's time: ISO 8601, RFC 2822, or a number (s, ms, µs, ns)", text),
        "keep_ids": Option("use the recorded ids; a second reading then yields duplicates", flag, default=False),
        "speed": Option("a multiple of real time; without it as fast as possible", speed),
    },
    "redis": {
        "stream": Option("the stream's key", text, required=True),
        "consumer_group": Option("default: private to this store", text),
        "consumer": Option("this consumer's stable name; default: private to this store and trigger", text),
        "url": Option("redis://host:port/db; default: $REDIS_URL, else localhost", redis_address),
        "field": Option("the entry's field with the payload; without it `payload`, else all fields", text),
        "start_from": START_FROM,
        "claim_idle_ms": Option("take over entries left unsettled this long", at_least(1000), default=60_000),
    },
    "cron": {
        "schedule": Option(
            "a cron expression or an alias such as @daily; a sixth field is seconds",
            Loaded("sagaz_lab.model.schedule:check"),
            True,
        ),
        "timezone": Option("an IANA name", Loaded("sagaz_lab.model.schedule:check_zone"), default="UTC"),
        "missed": Option("ticks missed while stopped", one_of("last", "all", "none"), default="last"),
        "missed_cap": Option("the limit of missed ticks with missed='all'", at_least(1), default=100),
        "overlap": Option("a tick while the previous run is live", one_of("skip", "queue", "allow"), default="skip"),
    },
    "dead_letters": {
        "trigger": Option("only dead letters of this trigger, saga.method", text),
        "saga": Option("only dead letters of this saga", text),
    },
    "kafka": {
        "topic": Option("the topic", topic, required=True),
        "group_id": Option("default: private to this store", text),
        "bootstrap_servers": Option("host:port,...", text),
        "start_from": START_FROM,
    },
    "rabbitmq": {
        "queue": Option("the queue", text, required=True),
        "exchange": Option("the exchange the queue is bound to", text),
        "routing_key": Option("the binding", text),
        "url": Option("amqp://...", text),
    },
    "pulsar": {
        "topic": Option("the topic", text, required=True),
        "subscription": Option("default: private to this store", text),
        "url": Option("pulsar://...", text),
    },
    "sqs": {
        "queue_url": Option("the queue's address", matching(r"https?://\S+", "an http(s) address"), required=True),
        "visibility_timeout": Option("seconds", at_least(1)),
    },
    "webhook": {
        "path": Option("the route, with {parameters}", matching(r"/\S*", "a path that starts with '/'"), required=True),
        "method": Option("the HTTP method", one_of("GET", "POST", "PUT", "PATCH", "DELETE"), default="POST"),
        "auth": Option("how callers authenticate", one_of("bearer", "hmac", "standard-webhooks")),
    },
    "file": {
        "path": Option("the folder to watch", text, required=True),
        "pattern": Option("such as *.csv", text, default="*"),
        "event_type": Option("what happened", one_of("created", "modified", "deleted"), default="created"),
    },
    "custom": {
        "factory": Option("returns a Source", callable_value, required=True),
        "settings": Option("keyword arguments for the factory", keywords),
    },
}


def check_settings(owner: str, kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with defaults. Raises `DefinitionError` naming `owner`, the option and the nearest valid one."""
    if kind not in KINDS:
        if kind in (others := third_party_kinds()):
            return {name: guarded(name, value) for name, value in given.items()}  # its class checks them
        raise UnknownName(owner, "source", kind, (*KINDS, *others))
    options = KINDS[kind]
    for name in given:
        if name not in options:
            raise UnknownName(owner, f"{kind} option", name, options)
    settings = {name: given.get(name, option.default) for name, option in options.items()}
    settings = {name: value if name == "data" else guarded(name, value) for name, value in settings.items()}
    if isinstance(settings.get("url"), str):
        settings["url"] = Address(settings["url"])
    for name, option in options.items():
        if settings[name] is None:
            if option.required:
                raise DefinitionError(f"{owner}: source={kind!r} needs {name}= ({option.about})")
            continue
        if wrong := option.check(settings[name]):
            raise DefinitionError(f"{owner}: {masked(f'{name}={settings[name]!r}')} {wrong}")
    if kind == "recording" and settings["path"] is not None:
        settings["path"] = Placed(settings["path"])
    if kind == "recording" and (settings["path"] is None) == (settings["data"] is None):
        raise DefinitionError(f"{owner}: source='recording' needs either path= or data=")
    return settings


def third_party_kinds() -> Mapping[str, EntryPoint]:
    """Kinds of source from other packages. Entry points are read when an unknown kind is used."""
    points = import_module("importlib.metadata").entry_points(group="sagaz_lab.sources")
    return {point.name: point for point in points if point.name not in KINDS}


def identity(kind: str, settings: Mapping[str, Any], owner: str = "") -> str:
    """A text that is equal for settings that can share a consumer. It contains no password.

    In-memory data is never shared: each owner reads it from the start.
    """
    data = settings.get("data") if kind == "recording" else None
    if data is None:
        return f"{kind}:{json.dumps(_comparable(settings))}"
    content = content_digest(data)
    told = _by_identity(data) if content is None else f"{type(data).__qualname__} {content} of {owner}"
    return f"{kind}:{json.dumps(_comparable({**settings, 'data': told}))}"


def has_data_by_identity(kind: str, settings: Mapping[str, Any], identity: str) -> bool:
    """Whether the data could not be compared by content: then only the same object is equal."""
    data = settings.get("data") if kind == "recording" else None
    return data is not None and json.dumps(_by_identity(data)) in identity


def _comparable(value: Any) -> Any:
    if isinstance(value, Address | Secret):
        shown = value.masked if isinstance(value, Address) else HIDDEN
        return f"{shown} {sha256(value.encode(errors='surrogatepass')).hexdigest()[:12]}"
    if isinstance(value, Placed):
        return value.absolute
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(name): _comparable(value[name]) for name in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_comparable(item) for item in value]
    if isinstance(value, FunctionType):  # redefined with each run of its cell; equal as long as its code is
        text = function_text(value, _by_identity)
        return f"{value.__qualname__} {sha256(text.encode(errors='surrogatepass')).hexdigest()[:12]}"
    return _by_identity(value)


def _by_identity(value: Any) -> str:
    return f"{type(value).__qualname__}@{id(value):x}"
