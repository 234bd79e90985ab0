"""Every interface of the package and what it promises.

A source hands over deliveries; a store keeps what must survive; an engine executes runs; an observer sees
what flows; a codec writes one kind of value to a file; a clock tells the time. The suites in
`sagaz_lab.testing` hold an implementation to these promises.
"""

from __future__ import annotations

from sagaz_lab.abc.engine import Attempt, Engine, EngineTraits, Wait
from sagaz_lab.abc.observer import Observer, Outcomes
from sagaz_lab.abc.source import Clock, Missed, OnLost, Positions, Publisher, Source, SourceTraits, Surroundings
from sagaz_lab.abc.store import Choose, Codec, Store
from sagaz_lab.abc.values import (
    KEY_MARK,
    Acceptance,
    DeadLetter,
    Ending,
    HeldEvent,
    KeptEvent,
    Member,
    NewRun,
    Owner,
    Redriven,
    Refusal,
    RevisionRow,
    Spent,
    StoredRun,
)
from sagaz_lab.model.event import Delivery, Event, deliveries
from sagaz_lab.model.host import Host, current_host
from sagaz_lab.model.run import Publication, Record, Run

__all__ = [
    "KEY_MARK",
    "Acceptance",
    "Attempt",
    "Choose",
    "Clock",
    "Codec",
    "DeadLetter",
    "Delivery",
    "Ending",
    "Engine",
    "EngineTraits",
    "Event",
    "HeldEvent",
    "Host",
    "KeptEvent",
    "Member",
    "Missed",
    "NewRun",
    "Observer",
    "OnLost",
    "Outcomes",
    "Owner",
    "Positions",
    "Publication",
    "Publisher",
    "Record",
    "Redriven",
    "Refusal",
    "RevisionRow",
    "Run",
    "Source",
    "SourceTraits",
    "Spent",
    "Store",
    "StoredRun",
    "Surroundings",
    "Wait",
    "current_host",
    "deliveries",
]
