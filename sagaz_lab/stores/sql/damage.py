"""Reads partly damaged rows: returns the readable parts and names the others."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, TypeVar

from sagaz_lab.errors import describe
from sagaz_lab.model.run import RunStatus

T = TypeVar("T")

FIRST_S, END_S = -62_135_596_800, 253_402_300_800
"""The years 1 to 9999, the range of dates."""


class Parts:
    """The parts of one row. `damage` names the unreadable ones; None without damage."""

    def __init__(self) -> None:
        self.damage: str | None = None

    def read(self, name: str, get: Callable[[], T], otherwise: T) -> T:
        try:
            return get()
        except Exception as error:  # noqa: BLE001  # damaged values may raise anything
            self.note(name, describe(error))
            return otherwise

    def note(self, name: str, why: str) -> None:
        found = f"its {name} cannot be read ({why})"
        self.damage = found if self.damage is None else f"{self.damage}, {found}"


def as_text(value: Any) -> Any:
    """The value of a text column; bytes found there are shown as text."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def as_int(value: Any) -> int | None:
    """The value of an integer column; None if it is not an integer."""
    return value if type(value) is int else None


def as_time(value: Any) -> float | None:
    """The value of a column of times; None if it is not a number or out of the range of dates."""
    return value if isinstance(value, int | float) and FIRST_S <= value < END_S else None


def order(at: float | None) -> float:
    """The sort key of a time; rows without a readable time are the oldest."""
    return -inf if at is None else at


def as_status(status: Any) -> RunStatus:
    """The status from its stored form. An unreadable one needs a person and keeps its claim."""
    try:
        return RunStatus(status)
    except ValueError:
        return RunStatus.HELD
