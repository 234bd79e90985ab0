"""The types that payloads can be validated into, checked where the trigger is defined."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from math import isfinite
from typing import Any, is_typeddict

import msgspec
from msgspec import inspect

from sagaz_lab.errors import DefinitionError, PayloadMismatch, describe
from sagaz_lab.model.trigger import Trigger

Validate = Callable[[Any], Any]

IN_MEMORY = ("numpy", "pandas", "polars", "pyarrow")
"""Libraries whose instances events may carry within a process."""

CURE = (
    "annotate it with a dataclass, a TypedDict, a NamedTuple, a msgspec Struct or a pydantic model, or remove the "
    "annotation; your own class needs decode=, a function that builds it from the bytes"
)


class Unfit(Exception):
    """No payload can be converted to this type."""


def validator_of(trigger: Trigger) -> Validate:
    """Converts a decoded payload to the annotated type, or raises `PayloadMismatch`.

    Raises `DefinitionError` for a type that no payload can be converted to.
    """
    wanted = trigger.payload_type
    if _is_instance_only(wanted, made=callable(trigger.decode)):
        return _instances(wanted)
    try:
        return _validator(wanted)
    except Unfit as error:
        raise DefinitionError(
            f"{trigger.name}: no event can be validated into {name_of(wanted)} ({error}); {CURE}"
        ) from None


def name_of(wanted: Any) -> str:
    return str(getattr(wanted, "__name__", wanted)) if isinstance(wanted, type) else str(wanted)


def _validator(wanted: Any) -> Validate:
    """By msgspec, which is faster; by pydantic if the type contains pydantic's types, and for two dataclasses."""
    first, second = (_pydantic, _msgspec) if holds_pydantic(wanted) else (_msgspec, _pydantic)
    try:
        return first(wanted)
    except Unfit as error:
        if not any(map(_field_types, _parts(wanted))):
            raise
        try:
            return second(wanted)
        except (Unfit, ImportError):
            raise error from None


def _pydantic(wanted: Any) -> Validate:
    # A cache of one: pydantic is imported only if a payload type needs it.
    validate: Validate = import_module("sagaz_lab.runtime.registry.pydantic_payloads").validator(
        wanted, name_of(wanted)
    )
    return validate


# --- what a type holds ---


def holds_pydantic(wanted: Any) -> bool:
    """Whether it contains a model, or a type or constraint that only pydantic knows."""
    return any(_is_pydantics(part) for part in _parts(wanted))


def _is_pydantics(part: Any) -> bool:
    if hasattr(part, "__pydantic_validator__") or hasattr(part, "__get_pydantic_core_schema__"):
        return True
    return type(part).__module__.partition(".")[0] in ("pydantic", "pydantic_core", "annotated_types")


def _parts(wanted: Any) -> Iterator[Any]:
    """The type and all its parts."""
    seen: list[Any] = []
    waiting = [wanted]
    while waiting:
        part = waiting.pop()
        if any(part is known for known in seen):
            continue
        seen.append(part)
        yield part
        if typing.get_origin(part) is typing.Literal:
            continue
        waiting += [part.__value__] if hasattr(part, "__value__") else []
        waiting += [part.__supertype__] if hasattr(part, "__supertype__") else []
        waiting += typing.get_args(part)
        waiting += _field_types(typing.get_origin(part) or part)
        waiting += getattr(part, "__metadata__", ())


def _field_types(cls: Any) -> list[Any]:
    known = isinstance(cls, type) and (
        dataclasses.is_dataclass(cls)
        or is_typeddict(cls)
        or issubclass(cls, msgspec.Struct)
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )
    if not known:
        return []
    try:
        return list(typing.get_type_hints(cls, include_extras=True).values())
    except Exception:  # noqa: BLE001  unresolved names: the validation reports them
        return []


# --- classes without a schema ---


def _is_instance_only(wanted: Any, *, made: bool) -> bool:
    """Whether payloads must be instances already: of a library's class, or (`made`) of the result of `decode=`."""
    if not isinstance(wanted, type) or is_typeddict(wanted) or _is_pydantics(wanted):
        return False
    if wanted.__module__.partition(".")[0] in IN_MEMORY:
        return True
    return made and isinstance(inspect.type_info(wanted), inspect.CustomType)


def _instances(wanted: type) -> Validate:
    def convert(payload: Any) -> Any:
        if isinstance(payload, wanted):
            return payload
        raise PayloadMismatch(f"the payload does not fit {name_of(wanted)}: it is a {type(payload).__name__}")

    return convert


# --- msgspec ---


def _msgspec(wanted: Any) -> Validate:
    is_class = isinstance(wanted, type) and not is_typeddict(wanted)
    name = name_of(wanted)
    _refuse_unfit(wanted)

    def convert(payload: Any) -> Any:
        if is_class and isinstance(payload, wanted):
            return payload
        try:
            return msgspec.convert(payload, wanted, dec_hook=_by_pydantic)
        except (msgspec.ValidationError, TypeError, RecursionError) as error:
            raise PayloadMismatch(f"the payload does not fit {name}: {error}") from None

    return convert


def _by_pydantic(wanted: type, value: Any) -> Any:
    if not _is_pydantics(wanted):
        raise NotImplementedError(f"it is not a {name_of(wanted)}")
    try:
        return _model_validator(wanted)(value)
    except PayloadMismatch as error:
        raise ValueError(str(error)) from None


_model_validator = cache(_pydantic)


def _refuse_unfit(wanted: Any) -> None:
    """Raises `Unfit` if msgspec cannot build the type, or if a required part has no schema."""
    try:
        info = inspect.type_info(wanted)
    except Exception as error:  # noqa: BLE001  the user's class may raise anything
        raise Unfit(describe(error)) from None
    seen: list[int] = []
    waiting: list[Any] = [info]
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.append(id(part))
        if isinstance(part, inspect.CustomType) and not _is_pydantics(part.cls):
            raise Unfit(f"{name_of(part.cls)} has no schema")
        waiting += _needed(part)


def _needed(info: Any) -> list[Any]:
    fields = [field.type for field in getattr(info, "fields", ()) if field.required]
    items = [getattr(info, name) for name in ("item_type", "key_type", "value_type") if hasattr(info, name)]
    several = [*getattr(info, "types", ()), *getattr(info, "item_types", ())]
    return [part for part in (*fields, *items, *several) if part is not None]


_PLAIN = frozenset({str, int, bool, type(None)})


def is_json(value: Any, depth: int = 100) -> bool:
    """Whether JSON can represent all of it."""
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is float:
        return isfinite(value)
    if depth == 0:
        return False
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or (type(item) not in _PLAIN and not is_json(item, depth - 1)):
                return False
        return True
    return kind is list and all(type(item) in _PLAIN or is_json(item, depth - 1) for item in value)
