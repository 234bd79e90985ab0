"""The Lab's tables and status, read from the store and the live state."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import inf
from operator import index
from typing import Any

from sagaz_lab.abc import Store, StoredRun
from sagaz_lab.errors import DefinitionError, SourceNotReady, UnknownName
from sagaz_lab.history import tables
from sagaz_lab.model.context import SagaContext
from sagaz_lab.model.host import Host, dashboard_of
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.decisions.preview import verdicts_on
from sagaz_lab.runtime.gates.moments import Moments
from sagaz_lab.runtime.intake.pump import Pump
from sagaz_lab.runtime.recovery.start_report import StartReport
from sagaz_lab.runtime.registry.registry import Registry
from sagaz_lab.runtime.runs.context import stored_context
from sagaz_lab.runtime.runs.run_view import RunView, run_view, unknown_run
from sagaz_lab.runtime.runs.runner import Runner
from sagaz_lab.runtime.status import Status, Why, run_progress, source_status, trigger_status
from sagaz_lab.runtime.triggers.compiled import claim_of
from sagaz_lab.runtime.triggers.outcomes import Tally
from sagaz_lab.runtime.triggers.triggers import Triggers

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
        "redriven": "int",
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

CAUSE_IDS = 1000
"""A row of the causes lists this many ids, the newest."""

PARTS = 32
"""`why` looks for the claims of this many parts of a composite trigger."""

_MADE = re.compile(r"[-~][0-9a-f]{8}(-\d+)?$")
"""The id given to an event without one. It has no claim, so `why` finds its run by scanning all runs."""

PAGE, LOOKED_THROUGH = 10_000, 100_000
"""Dead letters per read, and in total, when collecting the ids of the causes."""


class Views:
    """Tables with real dtypes, newest first."""

    def __init__(self, store: Store, clock: Moments, triggers: Triggers, runner: Runner, tally: Tally) -> None:
        self._store = store
        self._clock = clock
        self._triggers = triggers
        self._runner = runner
        self._tally = tally

    def frame(self, name: str, limit: int | None) -> Any:
        return tables().to_frame(*self._store.rows(name, _checked(name, limit)), DTYPES[name])

    def outcomes(self, limit: int | None) -> Any:
        """Outcomes in memory, then the store's older or foreign ones; a waiting event has only its last one."""
        columns, limit = tuple(DTYPES["outcomes"]), _checked("outcomes", limit)
        rows: list[tuple[Any, ...]] = []
        seen: set[tuple[str, str, str | None]] = set()
        for o in self._tally.newest():
            if limit is not None and len(rows) >= limit:
                break
            key = (o.event_id, o.trigger, o.run_id)
            if o.kind is OutcomeKind.WAITING and o.run_id is None and key in seen:
                continue  # it has left its window
            if o.run_id is None or key not in seen:
                seen.add(key)
                rows.append((o.event_id, o.trigger, o.kind.value, o.reason, o.run_id, o.revision, o.at, o.facts))
                seen.add((o.event_id, o.trigger, None))
        _, stored = self._store.rows("outcomes", limit)
        rows += [(*row, None) for row in stored if (row[0], row[1], row[4]) not in seen]
        rows.sort(key=lambda row: -inf if row[-2] is None else row[-2], reverse=True)  # damaged rows have no time
        return _frame("outcomes", columns, rows[:limit])

    def dead_letters(self, by: str | None, limit: int | None, before: str | None) -> Any:
        if by not in (None, "cause"):
            raise UnknownName("dead_letters", "grouping", str(by), ["cause"])
        limit = _checked("dead_letters", limit)
        if by is None:
            return _frame("dead_letters", *self._store.rows("dead_letters", limit, before=before))
        if before is not None:
            raise DefinitionError("dead_letters: before= does not go with by='cause'")
        _, causes = self._store.rows("causes", limit)
        ids = self._ids_by_cause({row[0]: row[1] for row in causes})
        return _frame("causes", tuple(DTYPES["causes"]), [(*row, ids[row[0]]) for row in causes])

    def _ids_by_cause(self, counts: Mapping[str, int]) -> Mapping[str, list[str]]:
        """The newest dead letters of each cause, as far as the scan of the newest of all finds them."""
        ids: dict[str, list[str]] = {cause: [] for cause in counts}
        missing = sum(min(count, CAUSE_IDS) for count in counts.values())
        before = None
        for _ in range(LOOKED_THROUGH // PAGE):
            columns, rows = self._store.rows("dead_letters", PAGE, before=before)
            id_at, cause_at = columns.index("id"), columns.index("cause")
            for row in rows:
                if (known := ids.get(row[cause_at])) is not None and len(known) < CAUSE_IDS:
                    known.append(row[id_at])
                    missing -= 1
            if missing <= 0 or len(rows) < PAGE:
                break
            before = rows[-1][id_at]
        return ids

    def revisions(self, saga: str, registry: Registry) -> Any:
        stored = registry.stored(saga)
        if saga not in registry.current and not stored:
            raise UnknownName("revisions", "saga", saga, registry.current)
        current = registry.current[saga].revision if saga in registry.current else None
        rows = {row.number: (row.number, row.at, row.number == current, row.source_text) for row in stored}
        for number, definition in registry.past(saga).items():
            rows.setdefault(number, (number, None, number == current, definition.source_text))  # type: ignore[arg-type]
        ordered = [rows[number] for number in sorted(rows, reverse=True)]
        return tables().to_frame(tuple(DTYPES["revisions"]), ordered, DTYPES["revisions"])

    def _stored(self, run_id: str) -> StoredRun:
        stored = self._store.run(run_id)
        if stored is None:
            raise unknown_run(self._store, run_id)
        return stored

    def context(self, run_id: str) -> SagaContext:
        live = self._runner.live.get(run_id)
        return stored_context(self._stored(run_id)) if live is None else live.ctx

    def run(self, run_id: str) -> RunView:
        stored = self._stored(run_id)
        clock, live = self._clock, self._runner.begun(run_id)
        progress = run_progress(live, clock.monotonic()).actions if live else {}
        return run_view(stored, clock.now(), progress, self._runner.logs.of(run_id, live))

    def why(self, event_id: str) -> Why:
        if not (isinstance(event_id, str) and event_id):
            raise DefinitionError(f"why: event_id={event_id!r} must be a non-empty string")
        found = {(o.trigger, o.kind): o for o in self._tally.about(event_id)}
        rows, runs = self._about(event_id, [o.run_id for o in found.values() if o.run_id is not None])
        for _, trigger, outcome, reason, run_id, revision, at in rows:
            kind = OutcomeKind(outcome)
            found.setdefault((trigger, kind), Outcome(kind, reason or "", event_id, trigger, run_id, revision, at))
        settled = {o.trigger for o in found.values() if o.kind not in (OutcomeKind.WAITING, OutcomeKind.DUPLICATE)}
        last = (o for o in found.values() if o.kind is not OutcomeKind.WAITING or o.trigger not in settled)
        outcomes = sorted(last, key=lambda outcome: outcome.at)
        if not outcomes and (asked := self._store.run(event_id)) is not None:
            return Why(event_id, (), [_facts(asked)], is_run=True)
        ids = {outcome.run_id for outcome in outcomes}
        told = [run for row in runs if (run := dict(zip(DTYPES["runs"], row, strict=True)))["run_id"] in ids]
        states, now = self._triggers.states, self._clock.now()
        verdicts = [verdicts_on(outcome, states.get(outcome.trigger), now) for outcome in outcomes]
        return Why(event_id, outcomes, told, verdicts)

    def _about(self, event_id: str, run_ids: Collection[str]) -> tuple[Sequence[Any], Sequence[Any]]:
        """The stored outcomes and runs of an event, found through its claims."""
        claim = claim_of(event_id)
        claims = [claim, *(f"{part}:{claim}" for part in range(PARTS))]
        found = self._store.about(event_id, claims, run_ids)
        if not (found[0] or run_ids) and _MADE.search(event_id):
            found = self._store.about(event_id, claims, run_ids, everywhere=True)
        return found

    def status(
        self,
        sagas: Mapping[str, SagaDefinition],
        pumps: Iterable[Pump],
        started: Collection[str],
        reports: Sequence[str],
        away: StartReport | None,
        isolated: bool,
    ) -> Status:
        triggers, now = self._triggers, self._clock.monotonic()
        triggers.load(sagas)
        states = [state for state in triggers.states.values() if not state.removed or state.waits_in_windows]
        sources = [source_status(pump, triggers.fired[pump.spec.identity]) for pump in pumps]
        lags = {name: source.lag_s for source in sources for name in source.read_by}
        return Status(
            started=bool(started),
            sources=sources,
            triggers=[trigger_status(state, state.name in started, lags.get(state.name), now) for state in states],
            runs=[run_progress(run, now) for run in self._runner.live.values()],
            warnings=reports,
            away=away,
            isolated=isolated,
        )


def dashboard_widget(lab: Host) -> Any:
    """The Lab's dashboard. Raises `SourceNotReady` if anywidget is not installed."""
    try:
        return dashboard_of(lab)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sagaz_lab"):
            raise
        raise SourceNotReady(f"the dashboard needs {error.name}: pip install 'sagaz-lab[notebook]'") from error


def open_letters(store: Store, cause: str | None = None) -> list[str]:
    """Ids of the open dead letters, or of those with this cause, oldest first."""
    found: list[str] = []
    last: str | None = None
    while True:
        columns, rows = store.rows("dead_letters", PAGE, before=last)
        id_at, cause_at = columns.index("id"), columns.index("cause")
        found += [row[id_at] for row in rows if cause in (None, row[cause_at])]
        if len(rows) < PAGE:
            return found[::-1]
        last = rows[-1][id_at]


def _checked(table: str, limit: Any) -> int | None:
    """The validated limit. Raises `DefinitionError`."""
    try:
        if limit is None or (not isinstance(limit, bool) and index(limit) >= 0):
            return None if limit is None else min(index(limit), sys.maxsize)
    except TypeError:
        pass
    raise DefinitionError(f"{table}: limit={limit!r} must be a whole number, 0 or more, or None for all rows")


def _facts(run: StoredRun) -> Mapping[str, Any]:
    event_id = None if run.event is None else run.event.id
    return {"run_id": run.run_id, "saga": run.saga, "revision": run.revision, "status": str(run.status),
            "event_id": event_id, "error": run.error or ""}  # fmt: skip


def _frame(name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    return tables().to_frame(columns, rows, {column: kind for column, kind in DTYPES[name].items() if kind != "object"})
