"""Event-triggered sagas for Jupyter."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sagaz_lab.model.host import Host, install

if TYPE_CHECKING:
    from sagaz_lab.current import default_lab, fire_event, start_triggers
    from sagaz_lab.errors import Permanent, SagazLabError
    from sagaz_lab.lab import Lab
    from sagaz_lab.model.context import SagaContext
    from sagaz_lab.model.event import Event
    from sagaz_lab.model.given import FileEvent, Tick, WebhookRequest
    from sagaz_lab.model.listener import OutboxSagaListener, SagaListener
    from sagaz_lab.model.params import Param
    from sagaz_lab.model.policy import Batch, Debounce, Throttle, TriggerConfig
    from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus
    from sagaz_lab.model.saga import Saga, action, compensate, forward_recovery
    from sagaz_lab.model.trigger import absent, all_of, any_of, sequence, skip, trigger

__all__ = [
    "Batch",
    "Debounce",
    "Event",
    "FileEvent",
    "Lab",
    "OutboxSagaListener",
    "Outcome",
    "OutcomeKind",
    "Param",
    "Permanent",
    "RunStatus",
    "Saga",
    "SagaContext",
    "SagaListener",
    "SagazLabError",
    "Throttle",
    "Tick",
    "TriggerConfig",
    "WebhookRequest",
    "absent",
    "action",
    "all_of",
    "any_of",
    "compensate",
    "default_lab",
    "fire_event",
    "forward_recovery",
    "sequence",
    "skip",
    "start_triggers",
    "trigger",
]

__version__ = "0.1.0"

# Names are loaded on first use, as in NumPy and SciPy, so that importing the package is cheap.
_HOMES = {
    "current": ("default_lab", "fire_event", "start_triggers"),
    "errors": ("Permanent", "SagazLabError"),
    "lab": ("Lab",),
    "model.context": ("SagaContext",),
    "model.event": ("Event",),
    "model.given": ("FileEvent", "Tick", "WebhookRequest"),
    "model.listener": ("OutboxSagaListener", "SagaListener"),
    "model.params": ("Param",),
    "model.policy": ("Batch", "Debounce", "Throttle", "TriggerConfig"),
    "model.run": ("Outcome", "OutcomeKind", "RunStatus"),
    "model.saga": ("Saga", "action", "compensate", "forward_recovery"),
    "model.trigger": ("absent", "all_of", "any_of", "sequence", "skip", "trigger"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sagaz_lab' has no attribute {name!r}")
    value = getattr(import_module(f"sagaz_lab.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def _default_host() -> Host:
    lab: Host = __getattr__("default_lab")()
    return lab


def _dashboard(lab: Host) -> Any:
    return import_module("sagaz_lab.notebook.dashboard").dashboard_of(lab)


install(_default_host, _dashboard)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext sagaz_lab`."""
    from sagaz_lab.notebook.extension import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext sagaz_lab`."""
    from sagaz_lab.notebook.extension import unload

    unload(ipython)
