"""A Lab's parts, put together anew for each opening."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sagaz_lab.abc import Clock, Engine, Store
from sagaz_lab.hosting.observing import Observing
from sagaz_lab.hosting.opening import Opening
from sagaz_lab.hosting.shadows import Shadows
from sagaz_lab.hosting.views import Views
from sagaz_lab.model.policy import TriggerConfig
from sagaz_lab.runtime.intake.fire import Firing
from sagaz_lab.runtime.intake.redrive import Redriving
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.registry.registry import CallThere, Registry
from sagaz_lab.runtime.runs.logs import Logs
from sagaz_lab.runtime.service import Service
from sagaz_lab.runtime.triggers.observers import Observers
from sagaz_lab.runtime.triggers.outcomes import Tally
from sagaz_lab.runtime.triggers.triggers import Triggers


@dataclass(slots=True, kw_only=True)
class KeptParts:
    """What a Lab keeps from one opening to the next."""

    clock: Clock
    config: TriggerConfig
    max_live_runs: int
    registry: Registry
    connections: Opening
    report: Report
    call_there: CallThere
    open_store: Callable[[str], Store]
    tally: Tally = field(default_factory=Tally)
    logs: Logs = field(default_factory=Logs)
    observing: Observing = field(default_factory=Observing)


class Assembly:
    """The parts of one opening, on whichever loop it will be."""

    def __init__(self, kept: KeptParts, store: Store, engine: Engine) -> None:
        self.life = life = Lifetime(store, kept.clock, kept.report)
        self.triggers = triggers = Triggers(life, kept.registry, kept.config, kept.tally, kept.max_live_runs)
        observers = Observers(kept.tally, kept.report)
        kept.observing.use(observers)
        self.service = service = Service(store, life, triggers, observers, engine, kept.connections)
        service.runner.use(kept.logs)
        self.firing = firing = Firing(store, life, triggers, service.dispatcher)
        self.redriving = Redriving(store, life, triggers, service.dispatcher, firing.room)
        self.views = Views(store, life.clock, triggers, service.runner, kept.tally)
        self.shadows = Shadows(life, triggers, observers, service.runner, kept.open_store, kept.call_there)
