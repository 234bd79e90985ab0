"""Every interface of the package and what it promises.

A source hands over deliveries; a store keeps what must survive; an engine executes a run; a codec
writes one kind of value to a file; a clock tells the time. The suites in `sagaz_lab.testing` hold
an implementation to these promises.
"""

from __future__ import annotations

from sagaz_lab.abc.engine import Engine, Journal
from sagaz_lab.abc.source import Clock, Missed, Outcomes, Positions, Publisher, Shared, Source, Surroundings
from sagaz_lab.abc.store import Choose, Codec, Store
from sagaz_lab.abc.values import (
    DONE,
    KEY_MARK,
    Acceptance,
    DeadLetter,
    Ending,
    EndingRow,
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
from sagaz_lab.model.run import Outcome, Publication, Record, RecordRow, Run
from sagaz_lab.model.source_traits import SourceTraits

__all__ = [
    "DONE",
    "KEY_MARK",
    "Acceptance",
    "Choose",
    "Clock",
    "Codec",
    "DeadLetter",
    "Delivery",
    "Ending",
    "EndingRow",
    "Engine",
    "Event",
    "Host",
    "Journal",
    "KeptEvent",
    "Member",
    "Missed",
    "NewRun",
    "Outcome",
    "Outcomes",
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
    "Shared",
    "Source",
    "SourceTraits",
    "Spent",
    "Store",
    "StoredRun",
    "Surroundings",
    "WaitingEvent",
    "current_host",
    "deliveries",
]
