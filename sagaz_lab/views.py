"""What the Lab shows: tables and statuses, read from the store and from the live state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from sagaz_lab.abc import RevisionRow, Store
from sagaz_lab.errors import UnknownName
from sagaz_lab.history import tables
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.dispatcher import Dispatcher
from sagaz_lab.runtime.explain import Status, Why, run_progress, source_status, trigger_status
from sagaz_lab.runtime.pump import Pump
from sagaz_lab.runtime.registry import Registry

DTYPES: Mapping[str, Mapping[str, str]] = {
    "runs": {
        "run_id": "text",
        "saga": "category",
        "revision": "int",
        "trigger": "category",
        "status": "category",
        "event_id": "text",
        "attempt": "int",
        "started_at": "time",
        "ended_at": "time",
        "error": "text",
    },
    "steps": {
        "run_id": "text",
        "action": "category",
        "kind": "category",
        "status": "category",
        "attempt": "int",
        "trial": "int",
        "started_at": "time",
        "duration_s": "float",
        "error": "text",
    },
    "outcomes": {
        "event_id": "text",
        "trigger": "category",
        "outcome": "category",
        "reason": "text",
        "run_id": "text",
        "revision": "int",
        "at": "time",
        "facts": "object",
    },
    "dead_letters": {
        "id": "text",
        "event_id": "text",
        "trigger": "category",
        "cause": "text",
        "error": "text",
        "attempts": "int",
        "revision": "int",
        "at": "time",
        "run_id": "text",
        "state": "category",
    },
    "events": {"event_id": "text", "source": "category", "key": "text", "timestamp": "time"},
    "causes": {
        "cause": "text",
        "count": "int",
        "first_at": "time",
        "last_at": "time",
        "error": "text",
        "ids": "object",
    },
    "revisions": {"number": "int", "at": "time", "current": "flag", "code": "text"},
}


class Views:
    """Tables with real dtypes, newest first."""

    def __init__(self, store: Store, dispatcher: Dispatcher) -> None:
        self._store = store
        self._dispatcher = dispatcher

    def frame(self, name: str, limit: int | None) -> Any:
        return tables().to_frame(*self._store.rows(name, limit), DTYPES[name])

    def outcomes(self, limit: int | None) -> Any:
        """Those of the ring, and older or other processes' ones of the store; of a held event only the last."""
        columns = tuple(DTYPES["outcomes"])
        rows: list[tuple[Any, ...]] = []
        seen: set[tuple[str, str, str | None]] = set()
        for o in self._dispatcher.tally.newest():
            if limit is not None and len(rows) >= limit:
                break
            key = (o.event_id, o.trigger, o.run_id)
            if o.run_id is None or key not in seen:
                seen.add(key)
                rows.append((o.event_id, o.trigger, o.kind.value, o.reason, o.run_id, o.revision, o.at, o.facts))
                seen.add((o.event_id, o.trigger, None))
        _, stored = self._store.rows("outcomes", limit)
        rows += [(*row, None) for row in stored if (row[0], row[1], row[4]) not in seen]
        rows.sort(key=lambda row: row[-2], reverse=True)
        return _frame("outcomes", columns, rows[:limit])

    def dead_letters(self, by: str | None, limit: int | None) -> Any:
        if by not in (None, "cause"):
            raise UnknownName("dead_letters", "grouping", str(by), ["cause"])
        columns, rows = self._store.rows("dead_letters", None)
        facts = (dict(zip(columns, row, strict=True)) for row in rows)
        still = list(islice((letter for letter in facts if letter["state"] == "open"), limit))
        if by is None:
            return tables().to_frame(columns, [tuple(letter.values()) for letter in still], DTYPES["dead_letters"])
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for letter in still:
            groups.setdefault(letter["cause"], []).append(letter)
        grouped = [
            (cause, len(like), like[-1]["at"], like[0]["at"], like[0]["error"], [letter["id"] for letter in like])
            for cause, like in sorted(groups.items(), key=lambda item: -len(item[1]))
        ]
        return tables().to_frame(
            tuple(DTYPES["causes"]), grouped, {k: v for k, v in DTYPES["causes"].items() if k != "ids"}
        )

    def revisions(self, saga: str, stored: Sequence[RevisionRow], registry: Registry) -> Any:
        current = registry.current[saga].revision if saga in registry.current else None
        rows = {row.number: (row.number, row.at, row.number == current, row.source_text) for row in stored}
        for number, definition in registry.past(saga).items():
            rows.setdefault(number, (number, None, number == current, definition.source_text))  # type: ignore[arg-type]
        ordered = [rows[number] for number in sorted(rows, reverse=True)]
        return tables().to_frame(tuple(DTYPES["revisions"]), ordered, DTYPES["revisions"])

    def why(self, event_id: str) -> Why:
        found = {(o.trigger, o.kind): o for o in self._dispatcher.tally.about(event_id)}
        columns, rows = self._store.rows("outcomes", None)
        for row in rows:
            facts = dict(zip(columns, row, strict=True))
            if facts["event_id"] == event_id:
                kind = OutcomeKind(facts["outcome"])
                outcome = Outcome(
                    kind,
                    facts["reason"] or "",
                    event_id,
                    facts["trigger"],
                    facts["run_id"],
                    facts["revision"],
                    facts["at"],
                )
                found.setdefault((facts["trigger"], kind), outcome)
        ended = {o.run_id for o in found.values() if o.kind is not OutcomeKind.HELD}
        last = (o for o in found.values() if o.kind is not OutcomeKind.HELD or o.run_id not in ended)
        outcomes = sorted(last, key=lambda outcome: outcome.at)
        names, runs = self._store.rows("runs", None)
        ids = {outcome.run_id for outcome in outcomes}
        told = [dict(zip(names, row, strict=True)) for row in runs]
        return Why(event_id, outcomes, [run for run in told if run["run_id"] in ids])

    def status(
        self,
        sagas: Mapping[str, SagaDefinition],
        pumps: Iterable[Pump],
        started: Collection[str],
        reports: Sequence[str],
    ) -> Status:
        dispatcher = self._dispatcher
        dispatcher.load(sagas)
        now = dispatcher.clock.monotonic()
        states = [state for state in dispatcher.states.values() if not state.removed]
        return Status(
            started=bool(started),
            sources=[source_status(pump) for pump in pumps],
            triggers=[trigger_status(state, state.name in started) for state in states],
            runs=[run_progress(run, now) for run in dispatcher.runner.live.values()],
            warnings=reports,
        )


def _frame(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    return tables().to_frame(columns, rows, {column: kind for column, kind in DTYPES[name].items() if kind != "object"})
