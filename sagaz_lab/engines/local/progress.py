"""The progress of an attempt: started, finished and failed actions, and those to undo."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterable, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from sagaz_lab.abc import Clock
from sagaz_lab.engines.local.trials import Done, failure_record
from sagaz_lab.errors import ActionTimeout, Permanent, RunError
from sagaz_lab.model.apart import apart
from sagaz_lab.model.run import History, Publication, Record, RecordKind, Run, as_changes


class Failure(NamedTuple):
    """The first failure, which decides the run's end."""

    name: str
    error: BaseException


class Progress:
    """`trials` maps started actions to their last trial, `finished` to results, `errors` to errors.

    `streaming` names streams that have yielded a record; they finish with their readers. Actions in `cut_off` were
    interrupted and may have taken effect. `published` has the publications of successful actions.
    """

    __slots__ = ("_clock", "_run", "cut_off", "errors", "failure", "finished", "published", "streaming", "trials")

    def __init__(self, run: Run, clock: Clock, finished: dict[str, Any]) -> None:
        self._run = run
        self._clock = clock
        self.finished = finished
        self.trials: dict[str, int] = dict.fromkeys((*run.definition.plan.roots, *finished), 1)
        self.streaming: set[str] = set()
        self.cut_off: set[str] = set()
        self.errors: dict[str, BaseException] = {}
        self.failure: Failure | None = None
        self.published: dict[str, Sequence[Publication]] = {}
        if history := run.history:
            finished.update(history.finished)
            # An action that failed before gets another trial.
            self.trials = {name: trial + (name in history.failed) for name, trial in history.started.items()}

    def recall(self, history: History) -> None:
        """Restore the state of a run at the beginning of its compensation."""
        self.cut_off = {n for n in history.started if n not in history.finished and n not in history.failed}
        self.cut_off |= history.cut_off
        for name, text in history.failed.items():
            kind = Permanent if history.permanent else RunError
            self.failure = self.failure or Failure(name, kind(text))

    def ready(self, names: Iterable[str], under_way: Container[str]) -> list[str]:
        """Actions not under way whose dependencies have finished or are streaming."""
        actions = self._run.definition.actions
        known = {*self.finished, *self.streaming}
        return [
            name
            for name in names
            if name not in known and name not in under_way and known.issuperset(actions[name].depends_on)
        ]

    def all_done(self) -> bool:
        return len(self.finished) == len(self._run.definition.actions)

    def past_pivot(self) -> bool:
        actions = self._run.definition.actions
        return any(actions[name].pivot for name in self.finished)

    def finish(self, done: Done, under_way: Container[str]) -> list[Record]:
        """Finish an action and the streams that end with it; returns their records."""
        actions, dependents = self._run.definition.actions, self._run.definition.plan.dependents
        if actions[done.name].how == "stream":
            self.streaming.add(done.name)
            self.published[done.name] = done.publications
            records, waiting = [], [done.name]
        else:
            self.take_value(done)
            records, waiting = [self.record(RecordKind.ACTION_FINISHED, done.name, done.value)], []
            waiting += actions[done.name].depends_on
        for name in waiting:
            ended = name in self.streaming and name not in under_way and name not in self.finished
            if ended and all(reader in self.finished for reader in dependents[name]):
                self.finished[name] = None
                records.append(self.record(RecordKind.ACTION_FINISHED, name))
                waiting += actions[name].depends_on
        return records

    def take_value(self, done: Done) -> None:
        self.finished[done.name] = done.value
        self.published[done.name] = done.publications
        dict.update(self._run.ctx, apart(as_changes(done.name, done.value)))

    def fail(self, name: str, error: BaseException) -> None:
        self.errors[name] = error
        self.failure = self.failure or Failure(name, error)
        if isinstance(error, ActionTimeout):
            self.cut_off.add(name)

    def cut_off_streams(self) -> None:
        """The run goes forward no more: streams that not all readers have finished are cut off."""
        self.cut_off |= self.streaming.difference(self.finished, self.errors)

    def unstorable(self, name: str, error: BaseException) -> None:
        """The action succeeded, but its result cannot be stored."""
        self.finished.pop(name, None)
        self.cut_off.add(name)
        self.fail(name, error)

    def to_undo(self) -> set[str]:
        """All actions that may have taken effect."""
        return self.cut_off.union(self.finished, self.streaming - self.errors.keys())

    def record(self, kind: str, name: str, value: Any = None) -> Record:
        run = self._run
        changes = codec = None
        publications: Sequence[Publication] = ()
        if kind == RecordKind.ACTION_FINISHED:
            publications = self.published.get(name, ())
            changes = run.ctx.take_changes()
            codec = run.definition.actions[name].codec
        trial = self.trials.setdefault(name, 1)
        at = self._clock.now()
        return Record(run.run_id, run.attempt, kind, name, trial, at, (), publications, value, changes, codec)

    def with_starts(self, records: list[Record], names: Sequence[str]) -> list[Record]:
        """Add the starts of these actions to the records; first trials go into the last record's `then`."""
        first = [name for name in names if self.trials.setdefault(name, 1) == 1] if records else []
        if first:
            records = [*records[:-1], replace(records[-1], then=first)]
        return records + [self.record(RecordKind.ACTION_STARTED, name) for name in names if name not in first]

    def failures(self) -> list[Record]:
        return [self._failure_record(name) for name in sorted({*self.cut_off, *self.errors})]

    def _failure_record(self, name: str) -> Record:
        error = self.errors[name] if name in self.errors else asyncio.CancelledError("cut off")
        trial = self.trials.get(name, 1)
        return failure_record(self._run, self._clock, name, trial, error, cut_off=name in self.cut_off)
