"""Reading rows of which a part may be damaged: what can be read is, and what cannot is named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sagaz_lab.errors import describe
from sagaz_lab.model.run import RunStatus

T = TypeVar("T")


class Parts:
    """The parts of one row. `damage` names those that could not be read; None if all could."""

    def __init__(self) -> None:
        self.damage: str | None = None

    def read(self, name: str, get: Callable[[], T], otherwise: T) -> T:
        try:
            return get()
        except Exception as error:  # noqa: BLE001  # damaged values fail in any way
            self.note(name, describe(error))
            return otherwise

    def note(self, name: str, why: str) -> None:
        found = f"its {name} cannot be read ({why})"
        self.damage = found if self.damage is None else f"{self.damage}, {found}"


def shown(value: Any) -> Any:
    """The value of a column of texts: bytes that are there instead can be looked at."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def as_json(values: Iterable[Any]) -> str:
    """The texts among the values, for `json_each`. JSON has no bytes, and a damaged value names nothing."""
    return json.dumps([value for value in values if isinstance(value, str)])


def as_status(status: Any) -> RunStatus:
    """How a run stands of which this is stored. One that cannot be told is left to a person, and keeps its claim."""
    try:
        return RunStatus(status)
    except ValueError:
        return RunStatus.HELD
