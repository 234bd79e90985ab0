"""Triggers: methods that turn an event into a run's context or skip it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeVar

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.decorated import put_mark, refuse_other_than_function
from sagaz_lab.model.event import Event
from sagaz_lab.model.keys import refuse_long_name
from sagaz_lab.model.options import KINDS, check_settings, guarded, identity
from sagaz_lab.model.params import Param, Scalar, checked_params, checked_ranges
from sagaz_lab.model.policy import Batch, Debounce, Duration, Key, Throttle, TriggerConfig, seconds
from sagaz_lab.model.signatures import accepts, positional
from sagaz_lab.model.source_traits import NO_TRAITS, TRAITS, SourceTraits, lacks, traits_of
from sagaz_lab.texts import masked

F = TypeVar("F", bound=Callable[..., Any])
MARK = "__sagaz_trigger__"

"""The methods of a `Source`."""


class Skip:
    """The result of `skip`: the event starts no run, for a countable reason."""

    __slots__ = ("facts", "reason")

    def __init__(self, reason: str, facts: Mapping[str, Any]) -> None:
        self.reason = reason
        self.facts = facts

    def __repr__(self) -> str:
        facts = "".join(f", {name}={value!r}" for name, value in self.facts.items())
        return f"skip({self.reason!r}{facts})"


def skip(reason: str, **facts: Any) -> Skip:
    """Return it from a trigger method to filter the event.

    Keep `reason` constant and pass numbers as `facts`, so that reasons can be counted.
    """
    if not reason or not isinstance(reason, str):
        raise TypeError(f"skip() takes the reason as a string, not {reason!r}")
    return Skip(reason, facts)


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """The events a trigger receives: a kind of source and its settings.

    `traits` are the kind's, as far as they are known before the source is opened.
    """

    kind: str
    settings: Mapping[str, Any]
    identity: str = field(compare=False, default="")
    traits: SourceTraits = field(compare=False, default=NO_TRAITS)

    def __str__(self) -> str:
        shown = next((str(v) for n, v in self.settings.items() if v is not None and n in _SHOWN), "")
        return f"{self.kind} {masked(shown)}".strip()

    @property
    def divided(self) -> tuple[str, ...] | None:
        """The resource that it would split with sources of other settings, such as a stream's consumer group."""
        if self.kind not in _GROUPS:
            return None
        stream, group, server = (str(self.settings.get(name) or "") for name in _GROUPS[self.kind])
        return self.kind, stream, group, server


_GROUPS = {
    "redis": ("stream", "consumer_group", "url"),
    "kafka": ("topic", "group_id", "bootstrap_servers"),
    "pulsar": ("topic", "subscription", "url"),
}

_SHOWN = ("topic", "stream", "queue", "schedule", "path", "queue_url", "source")


@dataclass(frozen=True, slots=True)
class Composite:
    """Several sources as one; created by `all_of`, `any_of`, `sequence` and `absent`."""

    how: Literal["all_of", "any_of", "sequence", "absent"]
    parts: tuple[SourceSpec, ...]
    after: SourceSpec | None = None
    within_s: float | None = None

    def __post_init__(self) -> None:
        parts = self.parts if self.after is None else (*self.parts, self.after)
        schedules: dict[tuple[str, str], SourceSpec] = {}
        for spec in (spec for spec in parts if spec.kind == "cron"):
            schedule = (" ".join(spec.settings["schedule"].split()), spec.settings["timezone"])
            if schedules.setdefault(schedule, spec).identity != spec.identity:
                raise DefinitionError(
                    f"{self.how}(): two parts read {spec} with different settings; give both the same"
                )


def all_of(*parts: Mapping[str, Any]) -> Composite:
    """Fires when each part has had an event. A part is a mapping such as `{"source": "kafka", "topic": "a"}`."""
    return _composite("all_of", parts)


def any_of(*parts: Mapping[str, Any]) -> Composite:
    """Fires on an event of any part."""
    return _composite("any_of", parts)


def sequence(*parts: Mapping[str, Any]) -> Composite:
    """Fires when each part has had an event, in this order."""
    return _composite("sequence", parts)


def absent(part: Mapping[str, Any], *, after: Mapping[str, Any], within: Duration) -> Composite:
    """Fires when `part` has no event `within` a time after an event of `after`."""
    return Composite("absent", (_part("absent", part),), _part("absent", after), seconds(within, "absent within"))


def _composite(how: Literal["all_of", "any_of", "sequence"], parts: tuple[Mapping[str, Any], ...]) -> Composite:
    if len(parts) < 2:
        raise DefinitionError(f"{how}() takes two sources or more")
    return Composite(how, tuple(_part(how, part) for part in parts))


def _part(owner: str, part: Mapping[str, Any]) -> SourceSpec:
    if not (isinstance(part, Mapping) and isinstance(part.get("source"), str)):
        example = '{"source": "kafka", "topic": "a"}'
        raise DefinitionError(f"{owner}() takes mappings such as {example}, not {masked(repr(part))}")
    where = dict(part)
    return source_spec(owner, where.pop("source"), where)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """The options that decide whether and when an event may start a run."""

    idempotency_key: Key | None = None
    idempotency_ttl: Duration | None = None
    until: Literal["terminal"] | None = None
    concurrency_key: Key | None = None
    max_concurrent_sagas: int | None = None
    rate_limit_per_second: float | None = None
    throttle: Throttle | None = None
    cooldown: Duration | None = None
    debounce: Debounce | None = None
    batch: Batch | None = None
    singleton: Literal["skip", "cancel", "return_existing", "error"] | None = None
    priority: int = 0
    within: Duration | None = None

    def __post_init__(self) -> None:
        for name in ("idempotency_ttl", "cooldown", "within"):
            if (value := getattr(self, name)) is not None:
                seconds(value, name)
        for name in ("idempotency_key", "concurrency_key"):
            value = getattr(self, name)
            if not (value is None or callable(value) or (isinstance(value, str) and value)):
                raise DefinitionError(f"{name}={value!r} must be the name of a field or a function of the event")
        limit = self.max_concurrent_sagas
        if limit is not None and (type(limit) is not int or limit < 1):
            raise DefinitionError(f"max_concurrent_sagas={limit!r} must be a whole number, 1 or more")
        rate = self.rate_limit_per_second
        if rate is not None and not (isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < 1e9):
            raise DefinitionError(f"rate_limit_per_second={rate!r} must be a number greater than 0")
        if self.singleton not in (None, "skip", "cancel", "return_existing", "error"):
            raise DefinitionError(f"singleton={self.singleton!r}; one of: skip, cancel, return_existing, error")
        if self.until not in (None, "terminal"):
            raise DefinitionError(f"until={self.until!r}; the only value is 'terminal'")
        for name, kind in (("throttle", Throttle), ("debounce", Debounce), ("batch", Batch), ("priority", int)):
            value = getattr(self, name)
            if not (value is None or isinstance(value, kind)):
                raise DefinitionError(f"{name}={value!r} must be a {kind.__name__}")
        self._refuse_contradictions()

    def _refuse_contradictions(self) -> None:
        for one, other in (
            ("debounce", "batch"),
            ("rate_limit_per_second", "throttle"),
            ("idempotency_ttl", "until"),
        ):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise DefinitionError(f"{one}= and {other}= contradict each other; keep one of them")
        if self.singleton is not None and (self.max_concurrent_sagas or 1) > 1 and self.concurrency_key is None:
            raise DefinitionError(
                "singleton= without concurrency_key= means one run at a time, so max_concurrent_sagas= contradicts it; "
                "add a concurrency_key=, or remove one of them"
            )
        if (self.idempotency_ttl or self.until) and self.idempotency_key is None:
            raise DefinitionError("idempotency_ttl= and until= need idempotency_key=")


GATE_NAMES = tuple(Gates.__dataclass_fields__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One trigger as defined. `name` is `saga_name.method`."""

    name: str
    method_name: str
    method: Callable[..., Any]
    spec: SourceSpec
    gates: Gates
    config: TriggerConfig | None
    decode: str | Callable[[bytes], Any]
    params: Mapping[str, Scalar]
    ranges: Mapping[str, Param]
    payload_type: Any = None
    wants_event: bool = False
    is_async: bool = False
    source: Any = None
    composite: Composite | None = None


def specs_of(trigger: Trigger) -> Sequence[SourceSpec]:
    """The sources it reads, indexed by part."""
    composite = trigger.composite
    if composite is None:
        return (trigger.spec,)
    return composite.parts if composite.after is None else (*composite.parts, composite.after)


def number_of(trigger: Trigger, spec: SourceSpec) -> int:
    """The source's index among the trigger's sources of its kind; parts with equal settings share one."""
    return list(dict.fromkeys(it.identity for it in specs_of(trigger) if it.kind == spec.kind)).index(spec.identity)


@dataclass(frozen=True, slots=True)
class Mark:
    """The decorator's mark on the method, until the class is defined."""

    fields: Mapping[str, Any]


DECODERS = ("json", "text", "bytes")


def trigger(
    *,
    source: str | Composite | Any,
    config: TriggerConfig | None = None,
    decode: str | Callable[[bytes], Any] = "json",
    params: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[F], F]:
    """Makes a method of a `Saga` a trigger: it gets an event and returns a run's context, `None` or `skip(...)`.

    `source` is a kind ("kafka", "redis", "cron", "memory", ...), a composite or a `Source`. The other options are
    the source's settings and the gates (`idempotency_key`, `concurrency_key`, `max_concurrent_sagas`,
    `rate_limit_per_second`, ...). `params` are values, or a `Param` with its range, that the method reads as
    `self.params.NAME` and `lab.set_params` changes. Raises `DefinitionError` naming the option and the nearest valid
    one.
    """

    def decorate(method: F) -> F:
        refuse_other_than_function("@trigger", method)
        owner = f"@trigger on {method.__qualname__}"
        if hasattr(method, MARK):
            raise DefinitionError(f"{owner}: a method is one trigger; write a second method for a second source")
        gates = {name: options[name] for name in options if name in GATE_NAMES}
        where = {name: value for name, value in options.items() if name not in GATE_NAMES}
        if config is not None and not isinstance(config, TriggerConfig):
            raise DefinitionError(f"{owner}: config={config!r} must be a TriggerConfig")
        if not (callable(decode) or decode in DECODERS):
            raise DefinitionError(f"{owner}: decode={decode!r} must be a function or one of: {', '.join(DECODERS)}")
        try:
            checked = Gates(**gates)
        except DefinitionError as error:
            raise DefinitionError(f"{owner}: {error}") from None
        spec, instance, composite = _source(owner, source, where, checked)
        fields: dict[str, Any] = {
            "spec": spec,
            "source": instance,
            "composite": composite,
            "gates": checked,
            "config": config,
            "decode": decode,
            "params": MappingProxyType(checked_params(owner, {} if params is None else params)),
            "ranges": MappingProxyType(checked_ranges(owner, params or {})),
        }
        put_mark(method, MARK, Mark(fields), "@trigger")
        return method

    return decorate


def _source(
    owner: str, source: Any, where: Mapping[str, Any], gates: Gates
) -> tuple[SourceSpec, Any, Composite | None]:
    if isinstance(source, Composite):
        if where:
            raise UnknownName(owner, "option", next(iter(where)), GATE_NAMES)
        for gate in ("debounce", "batch"):
            if getattr(gates, gate) is not None:
                raise DefinitionError(f"{owner}: {gate}= and {source.how}() contradict each other; keep one of them")
        if gates.within is not None and source.how not in ("all_of", "sequence"):
            raise DefinitionError(f"{owner}: within= goes with all_of or sequence only, not with {source.how}()")
        settings = MappingProxyType({"parts": source.parts, "after": source.after})
        return SourceSpec(source.how, settings, f"{source.how}:{source.parts}:{source.after}"), None, source
    if gates.within is not None:
        raise DefinitionError(f"{owner}: within= goes with all_of or sequence only")
    if not isinstance(source, str):
        if lacking := lacks(source):
            raise DefinitionError(f"{owner}: source={source!r} is neither a kind of source nor a Source: {lacking}")
        if where:
            raise UnknownName(owner, "option", next(iter(where)), GATE_NAMES)
        where = {"source": guarded("source", source.name)}
        traits = traits_of(source)._replace(shared=True)  # one object serves all readers
        return SourceSpec("custom", where, f"custom:@{id(source):x}", traits), source, None
    return source_spec(owner, source, where), None, None


def source_spec(owner: str, kind: str, where: Mapping[str, Any]) -> SourceSpec:
    """The validated settings. Raises `DefinitionError` naming the nearest valid option."""
    if kind in KINDS:
        for name in where:
            if name not in KINDS[kind]:
                raise UnknownName(
                    owner, f"{kind} option", name, (*KINDS[kind], *GATE_NAMES, "config", "decode", "params")
                )
    settings = check_settings(owner, kind, where)
    if kind == "custom" and not isinstance(getattr(settings["factory"], "traits", NO_TRAITS), SourceTraits):
        raise DefinitionError(f"{owner}: the traits of factory={settings['factory']!r} are no SourceTraits")
    traits = traits_of(settings["factory"]) if kind == "custom" else TRAITS.get(kind, NO_TRAITS)
    return SourceSpec(kind, MappingProxyType(settings), identity(kind, settings, owner), traits)


def bind(saga_name: str, method_name: str, method: Callable[..., Any]) -> Trigger:
    """The trigger of a marked method in the saga of this name."""
    mark: Mark = getattr(method, MARK)
    together = takes_list(mark.fields["gates"], mark.fields["composite"])
    payload_type, wants_event = _payload_type(saga_name, method, together=together)
    refuse_long_name("the name of a trigger", name := f"{saga_name}.{method_name}")
    return Trigger(
        name=name,
        method_name=method_name,
        method=method,
        payload_type=payload_type,
        wants_event=wants_event,
        is_async=inspect.iscoroutinefunction(method),
        **mark.fields,
    )


def takes_list(gates: Gates, composite: Composite | None) -> bool:
    if gates.debounce is not None and gates.debounce.mode == "all":
        return True
    return gates.batch is not None or (composite is not None and composite.how in ("all_of", "sequence"))


def _payload_type(saga_name: str, method: Callable[..., Any], *, together: bool) -> tuple[Any, bool]:
    owner = f"{saga_name}.{method.__name__}"
    try:
        hints = typing.get_type_hints(method, include_extras=True)
    except NameError as error:
        raise DefinitionError(
            f"{owner}: the annotation names {error.name!r}, which is not defined here; define or import it first"
        ) from None
    names = positional(method)[1:]
    wants_event = len(names) == 2 and hints.get(names[1]) is Event
    if len(names) > 1 + wants_event or not accepts(method, 2 + wants_event):
        raise DefinitionError(f"{owner}: a trigger method takes (self, event) or (self, payload, event: Event)")
    annotation = hints.get(names[0]) if names else None
    bare = typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation
    annotation = bare if together or bare in (None, Any, Event, object) else annotation
    if together and annotation not in (None, Any):
        if typing.get_origin(annotation) not in (list, Sequence) and annotation is not list:
            name = getattr(annotation, "__name__", annotation)
            raise DefinitionError(f"{owner}: {names[0]} is a list with these options; annotate it list[{name}]")
        annotation = next(iter(typing.get_args(annotation)), None)
    return None if annotation in (None, Any, Event, object) else annotation, wants_event
