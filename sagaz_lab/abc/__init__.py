"""The package's interfaces and their promises.

A source delivers events, a store persists, an engine executes runs, an observer watches, a codec writes one kind of
value to a file, a clock tells the time. The suites in `sagaz_lab.testing` test an implementation against the promises.
"""

from __future__ import annotations

from sagaz_lab.abc.engine import Attempt, Engine, EngineTraits, Wait
from sagaz_lab.abc.observer import DecidedOutcomes, Observer
from sagaz_lab.abc.source import Clock, Missed, Outcomes, Positions, Publisher, Shared, Source, Surroundings
from sagaz_lab.abc.store import (
    Choose,
    Codec,
    DeadLetterStore,
    DecisionStore,
    IntakeStore,
    JournalStore,
    LeasedStore,
    OutboxStore,
    Store,
    StoreTraits,
    ViewStore,
)
from sagaz_lab.abc.values import (
    KEY_MARK,
    Acceptance,
    DeadLetter,
    Ending,
    KeptEvent,
    Member,
    NewRun,
    Owner,
    Redriven,
    Refusal,
    RevisionRow,
    Spent,
    StoredRun,
    WaitingEvent,
)
from sagaz_lab.model.event import Delivery, Event, deliveries
from sagaz_lab.model.host import Host, current_host
from sagaz_lab.model.run import Outcome, Publication, Record, Run
from sagaz_lab.model.source_traits import SourceTraits

__all__ = [
    "KEY_MARK",
    "Acceptance",
    "Attempt",
    "Choose",
    "Clock",
    "Codec",
    "DeadLetter",
    "DeadLetterStore",
    "DecidedOutcomes",
    "DecisionStore",
    "Delivery",
    "Ending",
    "Engine",
    "EngineTraits",
    "Event",
    "Host",
    "IntakeStore",
    "JournalStore",
    "KeptEvent",
    "LeasedStore",
    "Member",
    "Missed",
    "NewRun",
    "Observer",
    "OutboxStore",
    "Outcome",
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
    "Shared",
    "Source",
    "SourceTraits",
    "Spent",
    "Store",
    "StoreTraits",
    "StoredRun",
    "Surroundings",
    "ViewStore",
    "Wait",
    "WaitingEvent",
    "current_host",
    "deliveries",
]
