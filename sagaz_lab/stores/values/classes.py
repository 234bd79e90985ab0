"""Stores and restores objects of user classes.

Stores the class's module and name and the object's state, never code. Restoring neither runs `__init__` nor validates:
the values were valid before.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from importlib import import_module
from typing import Any

import msgspec

from sagaz_lab.errors import DefinitionError


def address_of(cls: type) -> str:
    """The class's address, such as `__main__:Point`."""
    return f"{cls.__module__}:{cls.__qualname__}"


def find_class(address: str) -> type:
    """The class at this address. Raises `DefinitionError` with the cure."""
    module_name, _, qualname = address.partition(":")
    try:
        found: Any = sys.modules.get(module_name) or import_module(module_name)
        for name in qualname.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError):
        cure = "run the cell that defines it" if module_name == "__main__" else f"make {module_name} importable"
        raise DefinitionError(f"a stored value is a {qualname} of {module_name}, which is missing; {cure}") from None
    if not isinstance(found, type):
        raise DefinitionError(f"a stored value is a {qualname} of {module_name}, which is no longer a class")
    return found


def state_of(value: Any) -> tuple[str, Any] | None:
    """The tag and state of an object of a supported kind; None for others."""
    cls = type(value)
    if isinstance(value, Enum):
        return "enum", value.value
    if dataclasses.is_dataclass(value):
        return "dataclass", _fields(value, (field.name for field in dataclasses.fields(value)))
    if isinstance(value, msgspec.Struct):
        return "struct", _fields(value, value.__struct_fields__)
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return "namedtuple", list(value)
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "__setstate__"):
        return "pydantic", value.__getstate__()
    return None


def restored(tag: str, cls: type, state: Any) -> Any:
    """Restore an object from its `state_of`. Raises `DefinitionError` if the class has changed."""
    return _REMADE[tag](cls, state)


def _fields(value: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _restored_enum(cls: type, state: Any) -> Any:
    if not issubclass(cls, Enum):
        raise _changed(cls, "an Enum")
    try:
        return cls(state)
    except ValueError as error:
        raise DefinitionError(f"a stored value: {error}") from None


def _restored_dataclass(cls: type, state: Mapping[str, Any]) -> Any:
    if not dataclasses.is_dataclass(cls):
        raise _changed(cls, "a dataclass")
    made = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in state:
            value = state[field.name]
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise DefinitionError(f"{cls.__qualname__} has a new field {field.name!r} that a stored value lacks; "
                                  "give it a default")  # fmt: skip
        object.__setattr__(made, field.name, value)
    return made


def _restored_struct(cls: type, state: Mapping[str, Any]) -> Any:
    if not issubclass(cls, msgspec.Struct):
        raise _changed(cls, "a Struct")
    try:
        return cls(**state)
    except TypeError as error:
        raise DefinitionError(f"{cls.__qualname__} has changed since a value was stored: {error}") from None


def _restored_namedtuple(cls: type, state: list[Any]) -> Any:
    if not (issubclass(cls, tuple) and hasattr(cls, "_make")):
        raise _changed(cls, "a named tuple")
    try:
        return cls._make(state)
    except TypeError as error:
        raise DefinitionError(f"{cls.__qualname__} has changed since a value was stored: {error}") from None


def _restored_pydantic(cls: type, state: Any) -> Any:
    if not hasattr(cls, "__pydantic_validator__"):
        raise _changed(cls, "a pydantic model")
    made: Any = object.__new__(cls)
    made.__setstate__(state)
    return made


def _changed(cls: type, kind: str) -> DefinitionError:
    return DefinitionError(f"a stored value is a {address_of(cls)}, which is no longer {kind}")


_REMADE: dict[str, Callable[[type, Any], Any]] = {
    "enum": _restored_enum,
    "dataclass": _restored_dataclass,
    "struct": _restored_struct,
    "namedtuple": _restored_namedtuple,
    "pydantic": _restored_pydantic,
}
