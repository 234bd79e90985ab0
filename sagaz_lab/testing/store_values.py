"""Values for the tests of stores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sagaz_lab.abc import (
    KEY_MARK,
    Acceptance,
    DeadLetter,
    Ending,
    Event,
    KeptEvent,
    Member,
    NewRun,
    Publication,
    Refusal,
    Store,
    StoredRun,
    WaitingEvent,
)  # fmt: skip
from sagaz_lab.model.run import Record, RecordKind, RunStatus

MakeStore = Callable[[], Store]
AT = 1_700_000_000.0
NOTHING: Mapping[str, Refusal] = {}


def new_run(run_id: str, **fields: Any) -> NewRun:
    """A run of the saga `orders` that starts now with its action `reserve`."""
    event = Event({"n": 1}, id=f"event-{run_id}", source="memory")
    values = {"saga": "orders", "revision": 1, "trigger": "orders.on_order", "event": event, "context": {"n": 1},
              "at": AT, "started": ("reserve",)}  # fmt: skip
    return NewRun(run_id=run_id, **{**values, **fields})


def record(run_id: str, kind: str, action: str = "reserve", **fields: Any) -> Record:
    return Record(run_id, **{"attempt": 1, "kind": kind, "action": action, "trial": 1, "at": AT + 1, **fields})


def finished(run_id: str, action: str = "reserve", **fields: Any) -> Record:
    return record(run_id, RecordKind.ACTION_FINISHED, action, **fields)


def dead_letter(id: str, **fields: Any) -> DeadLetter:
    values = {"event": Event({"n": "x"}, id=f"event-{id}"), "trigger": "orders.on_order", "saga": "orders",
              "cause": "ValueError", "error": "ValueError: n", "traceback": "Traceback ...", "attempts": 1,
              "revision": 1, "at": AT}  # fmt: skip
    return DeadLetter(id=id, **{**values, **fields})


async def take(store: Store, *runs: NewRun) -> Mapping[str, Refusal]:
    return await store.accept(Acceptance(runs=list(runs)))


async def loaded(store: Store, run_id: str) -> StoredRun:
    run = await store.load(run_id)
    assert run is not None
    return run


def frame(store: Store, name: str, limit: int | None = None) -> list[dict[str, Any]]:
    columns, rows = store.rows(name, limit)
    return [dict(zip(columns, row, strict=True)) for row in rows]


TRIGGER = "orders.on_order"
ENDED = (RunStatus.COMPLETED, RunStatus.COMPENSATED, RunStatus.CANCELLED, RunStatus.COMPENSATION_FAILED,
         RunStatus.PARTIALLY_COMMITTED)  # fmt: skip


def member(claim: str | None, declared: str | None = None) -> Member:
    return Member(Event({"n": 2}, id=f"event-{claim}"), claim, declared)


def key(text: str) -> str:
    """The claim of a declared key."""
    return KEY_MARK + text


def waiting_event(id: str, **fields: Any) -> WaitingEvent:
    """An event in the window of the key `k`."""
    values = {"trigger": TRIGGER, "key": "k", "part": 0, "event": Event({"n": 1}, id=f"event-{id}"), "claim": None,
              "at": AT}  # fmt: skip
    return WaitingEvent(id=id, **{**values, **fields})


async def wait(store: Store, *waiting: WaitingEvent) -> Mapping[str, Refusal]:
    return await store.accept(Acceptance(waiting=waiting))


def kept_event(id: str, outcome: str = "filtered", run_id: str | None = None, until: float = 1e12) -> KeptEvent:
    return KeptEvent(Event({"n": 3}, id=id), TRIGGER, outcome, "score too low", run_id, until)


def publication(id: str, run_id: str = "r1") -> Publication:
    return Publication(id, "shipped", b'{"n": 1}', TRIGGER, run_id)


async def end(store: Store, run_id: str, status: RunStatus, at: float = AT + 1) -> None:
    await store.end(run_id, Ending(status), attempt=1, at=at)
