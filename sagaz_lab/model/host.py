"""The current Lab, as saga classes see it: they register with it and run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sagaz_lab.model.context import SagaContext
    from sagaz_lab.model.saga import Saga


class Host(Protocol):
    """The part of a Lab that saga classes use."""

    def register(self, saga: type[Saga]) -> None:
        """Make this class the current revision of its name. Raises `SagaConflict`."""

    def diff(self, saga: str, old: int, new: int) -> Any:
        """The difference between the code of two revisions."""

    async def run_saga(self, saga: Saga, context: Mapping[str, Any], run_id: str | None) -> SagaContext:
        """Run it once, without a trigger; raise the action's own error after compensating."""


current_host: ContextVar[Host] = ContextVar("current_host")
_installed: dict[str, Callable[..., Any]] = {}


def install(default_host: Callable[[], Host], dashboard: Callable[[Host], Any]) -> None:
    """Install the default host and the dashboard, which live in higher layers."""
    _installed.update(default_host=default_host, dashboard=dashboard)


def host() -> Host:
    """The activated Lab, else the default one, created on first use."""
    current = current_host.get(None)
    if current is not None:
        return current
    default: Host = _installed["default_host"]()
    return default


def dashboard_of(lab: Host) -> Any:
    """Raises `ModuleNotFoundError` if its libraries are missing."""
    return _installed["dashboard"](lab)
