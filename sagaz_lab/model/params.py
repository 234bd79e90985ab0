"""The params of a trigger: values that its method reads and that can change while events flow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

from sagaz_lab.errors import DefinitionError, ParamsOutOfReach, UnknownParam

Scalar = bool | int | float | str | None
S = TypeVar("S")

_TAKEN = ("get", "items", "keys", "values")


@dataclass(frozen=True, slots=True)
class Param:
    """A param with its range: `params={"threshold": Param(0.5, min=0, max=1, step=0.01)}`.

    A change must stay within `min` and `max`; `step` is the increment of the dashboard's slider.
    """

    default: Scalar
    min: float | None = None
    max: float | None = None
    step: float | None = None

    def refuse_wrong(self, owner: str) -> None:
        """Raises `DefinitionError`, prefixed with the owner."""
        given = {name: getattr(self, name) for name in ("min", "max", "step") if getattr(self, name) is not None}
        for name, bound in given.items():
            if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
                raise DefinitionError(f"{owner}: {name}={bound!r} must be a finite number")
        if given and (isinstance(self.default, bool) or not isinstance(self.default, int | float | None)):
            raise DefinitionError(f"{owner}: {next(iter(given))}= goes with a number, not with {self.default!r}")
        if self.min is not None and self.max is not None and self.min >= self.max:
            raise DefinitionError(f"{owner}: min={self.min!r} must be less than max={self.max!r}")
        if self.step is not None and self.step <= 0:
            raise DefinitionError(f"{owner}: step={self.step!r} must be greater than 0")
        if type(self.default) is int and isinstance(self.step, float) and not self.step.is_integer():
            raise DefinitionError(
                f"{owner}: step={self.step!r} must be a whole number, like the default {self.default!r}"
            )
        self.refuse_outside(owner, self.default)

    def refuse_outside(self, owner: str, value: Any) -> None:
        """Raises `DefinitionError` for a value out of range."""
        if value is not None:
            if self.min is not None and value < self.min:
                raise DefinitionError(f"{owner}={value!r} is less than min={self.min!r}")
            if self.max is not None and value > self.max:
                raise DefinitionError(f"{owner}={value!r} is greater than max={self.max!r}")


class Params(Mapping[str, Scalar]):
    """A read-only view of a trigger's params: `self.params["threshold"]` or `self.params.threshold`."""

    __slots__ = ("_trigger", "_values")

    def __init__(self, trigger: str, values: Mapping[str, Scalar]) -> None:
        self._trigger = trigger
        self._values = dict(values)

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise UnknownParam(self._trigger, "param", str(name), self._values)
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy, pickle and shells look these up
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownParam as error:
            raise AttributeError(str(error)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._values]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self._values.items())
        return f"Params({self._trigger}: {shown or 'none'})"


class ParamsOfTriggers:
    """`Saga.params`. The instance on which a trigger method is called has its own attribute, which hides this one."""

    def __get__(self, saga: Any, cls: type[Any]) -> Any:
        if saga is None:
            return self
        name = getattr(cls.__definition__, "name", cls.__name__)
        if not has_params(cls.__definition__):
            return Params(name, {})
        raise ParamsOutOfReach(
            f"{name}: self.params belongs to the trigger methods that a Lab or the TriggerTestHarness calls; "
            "anywhere else, have the trigger put the value into the context and read it from there"
        )


def has_params(definition: Any) -> bool:
    return definition is not None and any(trigger.params for trigger in definition.triggers.values())


def reading(saga: S, params: Params) -> S:
    """A shallow copy of the instance with these `self.params`."""
    twin = copy(saga)
    vars(twin)["params"] = params
    return twin


def checked_params(owner: str, params: Any) -> dict[str, Scalar]:
    """The default values. Raises `DefinitionError`."""
    if not isinstance(params, Mapping):
        raise DefinitionError(f"{owner}: params={params!r} must be a mapping of names to values")
    for name in params:
        if not (isinstance(name, str) and name.isidentifier() and not name.startswith("_")):
            raise DefinitionError(f"{owner}: params has {name!r}, which cannot be read as self.params.NAME")
        if name in _TAKEN:
            raise DefinitionError(f"{owner}: params has {name!r}, an attribute of every mapping; choose another name")
    return {name: _scalar(owner, name, it.default if isinstance(it, Param) else it) for name, it in params.items()}


def checked_ranges(owner: str, params: Mapping[str, Any]) -> dict[str, Param]:
    """The params given as `Param`. Raises `DefinitionError`."""
    ranges = {name: value for name, value in params.items() if isinstance(value, Param)}
    for name, param in ranges.items():
        param.refuse_wrong(f"{owner}: param {name}")
    return ranges


def checked_change(
    owner: str, defaults: Mapping[str, Scalar], ranges: Mapping[str, Param], values: Mapping[str, Any]
) -> dict[str, Scalar]:
    """The new values, checked for type and range. Raises `UnknownParam` and `DefinitionError`."""
    checked: dict[str, Scalar] = {}
    for name, value in values.items():
        if name not in defaults:
            raise UnknownParam(owner, "param", name, defaults)
        default, new = defaults[name], _scalar(owner, name, value)
        if type(default) is float and type(new) is int:
            new = float(new)
        if default is not None and type(new) is not type(default):
            kind = type(default).__name__
            raise DefinitionError(f"{owner}: {name}={value!r} must be of type {kind}, like its default {default!r}")
        if name in ranges:
            ranges[name].refuse_outside(f"{owner}: {name}", new)
        checked[name] = new
    return checked


def same(one: Scalar, other: Scalar) -> bool:
    """Unlike `==`, tells 1 from True and from 1.0."""
    return type(one) is type(other) and one == other


def _scalar(owner: str, name: str, value: Any) -> Scalar:
    """The value as the store returns it: a plain float for a NumPy one."""
    if value is None or isinstance(value, bool | int | float | str):
        try:
            plain: Scalar = json.loads(json.dumps(value, allow_nan=False))
        except ValueError:
            pass  # not a number, or infinite
        else:
            return plain
    raise DefinitionError(f"{owner}: {name}={value!r} must be a finite number, a string, True, False or None")
