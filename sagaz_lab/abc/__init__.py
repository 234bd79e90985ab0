"""Every interface of the package and what it promises.

A source hands over deliveries; a store keeps what must survive; an engine executes a run; a codec
writes one kind of value to a file; a clock tells the time. The suites in `sagaz_lab.testing` hold
an implementation to these promises.
"""

from __future__ import annotations

from sagaz_lab.abc.engine import Engine, Journal
from sagaz_lab.abc.source import Clock, Missed, OnLost, Positions, Publisher, Source, SourceTraits, Surroundings
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
    DONE,
    KEY_MARK,
    Acceptance,
    DeadLetter,
    Ending,
    EndingRow,
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
from sagaz_lab.model.run import Publication, Record, RecordRow, Run

__all__ = [
    "DONE",
    "KEY_MARK",
    "Acceptance",
    "Choose",
    "Clock",
    "Codec",
    "DeadLetter",
    "DeadLetterStore",
    "DecisionStore",
    "Delivery",
    "Ending",
    "EndingRow",
    "Engine",
    "Event",
    "HeldEvent",
    "Host",
    "IntakeStore",
    "Journal",
    "JournalStore",
    "KeptEvent",
    "LeasedStore",
    "Member",
    "Missed",
    "NewRun",
    "OnLost",
    "OutboxStore",
    "Owner",
    "Positions",
    "Publication",
    "Publisher",
    "Record",
    "RecordRow",
    "Redriven",
    "Refusal",
    "RevisionRow",
    "Run",
    "Source",
    "SourceTraits",
    "Spent",
    "Store",
    "StoreTraits",
    "StoredRun",
    "Surroundings",
    "ViewStore",
    "current_host",
    "deliveries",
]
