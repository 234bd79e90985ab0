"""Payloads of a redefined class: a cell that runs again leaves objects of its previous class behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from sagaz_lab.errors import PayloadMismatch


def refitted(validate: Callable[[Any], Any], wanted: Any) -> Callable[[Any], Any]:
    """Like `validate`, but accepts objects of another class with the same module and name by their fields."""
    names = {_name(cls) for cls in _classes(wanted)}
    if not names:
        return validate

    def convert(payload: Any) -> Any:
        try:
            return validate(payload)
        except PayloadMismatch:
            if not any(_name(type(one)) in names for one in (payload if type(payload) is list else [payload])):
                raise
            return validate(_by_fields(payload))

    return convert


def _classes(wanted: Any) -> Iterator[type]:
    """The user's classes in an annotation."""
    if isinstance(wanted, type) and wanted.__module__ != "builtins":
        yield wanted
    for part in get_args(wanted):
        yield from _classes(part)


def _name(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


def _by_fields(value: Any) -> Any:
    """Objects as mappings, as a broker would deliver them."""
    if isinstance(value, Mapping):
        return {key: _by_fields(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return [_by_fields(item) for item in value]
    names = _fields(value)
    return value if names is None else {name: _by_fields(getattr(value, name)) for name in names}


def _fields(value: Any) -> list[str] | None:
    cls = type(value)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, "__struct_fields__"):
        return list(cls.__struct_fields__)
    if hasattr(cls, "__attrs_attrs__"):
        return [attribute.name for attribute in cls.__attrs_attrs__]
    return list(vars(value)) if hasattr(cls, "__pydantic_validator__") else None
