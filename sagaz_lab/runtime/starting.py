"""The options of a Lab's start."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import nan
from numbers import Real
from typing import Any, NamedTuple

from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.recovery.start_report import RESUME

Names = str | Collection[str] | None
"""Sagas and triggers to start, by name; None is all."""


class Start(NamedTuple):
    """`only` are names of sagas and triggers; empty means all. The other options are those of `Lab.start`."""

    only: frozenset[str]
    hold: bool
    resume: str
    fresh: bool
    skip_failed: bool


def checked_names(sagas: Mapping[str, SagaDefinition], only: Names, resume: str) -> frozenset[str]:
    """The names in `only`. Raises `UnknownName` for an unknown one, or an unknown way to resume."""
    if resume not in RESUME:
        raise UnknownName("start", "resume", resume, RESUME)
    names = [only] if isinstance(only, str) else list(only or ())
    known = [*sagas, *(trigger.name for saga in sagas.values() for trigger in saga.triggers.values())]
    for name in names:
        if name not in known:
            raise UnknownName("start", "saga or trigger", name, known)
    return frozenset(names)


def checked_grace(grace_s: Any) -> float:
    """How long a stop lets runs finish before it stops anything. Raises `DefinitionError`."""
    seconds = float(grace_s) if isinstance(grace_s, Real) and not isinstance(grace_s, bool) else nan
    if not seconds >= 0:
        raise DefinitionError(f"stop: grace_s={grace_s!r} must be a number of seconds, 0 or more")
    return seconds
