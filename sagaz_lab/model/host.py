"""Where a saga class reports itself, and who runs it: the current Lab, seen from below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sagaz_lab.model.context import SagaContext
    from sagaz_lab.model.saga import Saga


class Host(Protocol):
    """The part of a Lab that saga classes need."""

    def register(self, saga: type[Saga]) -> None:
        """Make this class the current revision of its name. Raises `SagaConflict`."""

    def diff(self, saga: str, old: int, new: int) -> Any:
        """What changed from one revision's code to another's."""

    async def run_saga(self, saga: Saga, context: Mapping[str, Any], run_id: str | None) -> SagaContext:
        """Run it once, without a trigger; raise the action's own error after compensating."""


current_host: ContextVar[Host] = ContextVar("current_host")
_installed: dict[str, Callable[..., Any]] = {}


def install(default_host: Callable[[], Host], dashboard: Callable[[Host], Any]) -> None:
    """Say who hosts sagas where no Lab has been activated, and who shows a Lab: both stand above all that ask."""
    _installed.update(default_host=default_host, dashboard=dashboard)


def host() -> Host:
    """The current Lab: the activated one, else the default one, which is loaded when it is first needed."""
    current = current_host.get(None)
    if current is not None:
        return current
    default: Host = _installed["default_host"]()
    return default


def dashboard_of(lab: Host) -> Any:
    """Raises `ModuleNotFoundError` where its libraries are missing."""
    return _installed["dashboard"](lab)
