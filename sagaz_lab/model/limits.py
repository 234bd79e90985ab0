"""The limits of a trigger that may change while events flow: rate and concurrent runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.params import Scalar
from sagaz_lab.model.trigger import Gates, Trigger

LIMITS = ("max_concurrent_sagas", "rate_limit_per_second")


def limits_of(trigger: Trigger) -> dict[str, Scalar]:
    """The limits from its options; None for an option that is not given."""
    return {name: getattr(trigger.gates, name) for name in LIMITS}


def checked_limits(trigger: Trigger, values: Mapping[str, Any]) -> dict[str, Scalar]:
    """The validated values; None means the option's default. Raises `UnknownName` and `DefinitionError`."""
    for name in values:
        if name not in LIMITS:
            raise UnknownName(trigger.name, "limit", name, LIMITS)
    try:
        gates = with_limits(trigger.gates, values)
    except DefinitionError as error:
        raise DefinitionError(f"{trigger.name}: {error}") from None
    if "max_concurrent_sagas" in values and trigger.spec.settings.get("overlap") == "queue":
        raise DefinitionError(f"{trigger.name}: overlap='queue' means one run at a time; change it in the saga's cell")
    return {name: getattr(gates, name) for name in values}


def with_limits(gates: Gates, limits: Mapping[str, Any]) -> Gates:
    """Raises `DefinitionError`."""
    return replace(gates, **limits)
