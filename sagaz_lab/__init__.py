"""Sagas that events start, written and run in a Jupyter notebook."""

from __future__ import annotations

from typing import Any

from sagaz_lab.current import default_lab, fire_event, start_triggers
from sagaz_lab.errors import Permanent, SagazLabError
from sagaz_lab.lab import Lab
from sagaz_lab.model.event import Event
from sagaz_lab.model.listener import SagaListener
from sagaz_lab.model.policy import Batch, Debounce, Throttle, TriggerConfig
from sagaz_lab.model.run import Outcome, OutcomeKind, RunStatus, SagaContext
from sagaz_lab.model.saga import Saga, action, compensate, forward_recovery
from sagaz_lab.model.trigger import absent, all_of, any_of, sequence, skip, trigger

__all__ = [
    "Batch",
    "Debounce",
    "Event",
    "Lab",
    "Outcome",
    "OutcomeKind",
    "Permanent",
    "RunStatus",
    "Saga",
    "SagaContext",
    "SagaListener",
    "SagazLabError",
    "Throttle",
    "TriggerConfig",
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


def load_ipython_extension(ipython: Any) -> None:
    """`%load_ext sagaz_lab`."""
    from sagaz_lab.notebook.extension import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """`%unload_ext sagaz_lab`."""
    from sagaz_lab.notebook.extension import unload

    unload(ipython)
