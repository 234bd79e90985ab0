"""The frames of the memory store."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from heapq import merge
from typing import Any

from sagaz_lab.abc import DeadLetter, KeptEvent
from sagaz_lab.model.apart import apart
from sagaz_lab.model.event import payload_as_sent
from sagaz_lab.stores.frames import steps
from sagaz_lab.stores.memory.claims import Claims
from sagaz_lab.stores.memory.outbox import Outbox
from sagaz_lab.stores.memory.runs import MemoryRun
from sagaz_lab.stores.sql.about import About


class StoredDeadLetter:
    """A dead letter with its number and state."""

    __slots__ = ("letter", "number", "state")

    def __init__(self, letter: DeadLetter, number: int) -> None:
        self.letter = letter
        self.number = number
        self.state = "open"


class Frames:
    """The rows of the store's frames, newest first, without column names."""

    def __init__(
        self,
        runs: Mapping[str, MemoryRun],
        letters: Mapping[str, StoredDeadLetter],
        kept: deque[tuple[float, KeptEvent]],
        counts: Counter[tuple[str, str, str]],
        outbox: Outbox,
        claims: Claims,
    ) -> None:
        self._runs = runs
        self._letters = letters
        self._kept = kept
        self._counts = counts
        self._outbox = outbox
        self._claims = claims

    def about(
        self, event_id: str, claims: Collection[str], run_ids: Collection[str] = (), *, everywhere: bool = False
    ) -> About:
        """See `Store.about`."""
        known = set(claims)
        outcomes = [row for row in self._rows_of_outcomes() if row[0] == event_id]
        told = {row[4] for row in outcomes}
        together = [it for it in self._newest_runs() if it.run_id not in told and not known.isdisjoint(it.members)]
        outcomes += [(event_id, *_started(run)) for run in together]
        wanted = {row[4] for row in outcomes} | set(run_ids)
        letters = {it.run_id: it for it in (entry.letter for entry in self._newest_letters() if entry.state == "open")}
        return outcomes, [_with_letter(row, letters) for row in self._rows_of_runs() if row[0] in wanted]

    def rows(self, frame: str, before: str | None, status: str | None = None) -> Iterable[tuple[Any, ...]]:
        if frame == "dead_letters":
            return self._dead_letters(before)
        if frame == "runs" and status is not None:
            return (row for row in self._rows_of_runs() if row[4] == status)
        found: Iterable[tuple[Any, ...]] = getattr(self, f"_rows_of_{frame}")()
        return found

    def _newest_runs(self) -> Iterator[MemoryRun]:
        return reversed(list(self._runs.values()))

    def _newest_letters(self) -> Iterator[StoredDeadLetter]:
        return reversed(list(self._letters.values()))

    def _dead_letters(self, before: str | None) -> Iterator[tuple[Any, ...]]:
        if before is not None and before not in self._letters:
            return
        last = None if before is None else self._letters[before].number
        for entry in self._newest_letters():
            it = entry.letter
            if entry.state == "open" and (last is None or entry.number < last):
                yield (it.id, it.event.id, it.trigger, it.cause, it.error, it.attempts, it.revision, it.at, it.run_id,
                       entry.state, it.redriven)  # fmt: skip

    def _rows_of_causes(self) -> Iterable[tuple[Any, ...]]:
        causes: dict[str, list[Any]] = {}
        for it in (entry.letter for entry in self._newest_letters() if entry.state == "open"):
            row = causes.setdefault(it.cause, [it.cause, 0, it.at, it.at, it.error])
            row[1] += 1
            row[2], row[3] = min(row[2], it.at), max(row[3], it.at)
        return (tuple(row) for row in sorted(causes.values(), key=lambda row: -row[1]))

    def _rows_of_runs(self) -> Iterator[tuple[Any, ...]]:
        for run in self._newest_runs():
            event_id = run.event.id if run.event else None
            yield (run.run_id, run.saga, run.revision, run.trigger or None, str(run.status), event_id, run.attempt,
                   run.at, run.ended_at, run.error)  # fmt: skip

    def _rows_of_steps(self) -> Iterator[tuple[Any, ...]]:
        for run in self._newest_runs():
            yield from steps(run.records())

    def _rows_of_outcomes(self) -> Iterable[tuple[Any, ...]]:
        started = ((run.event.id, *_started(run)) for run in self._newest_runs() if run.event)
        letters = [entry.letter for entry in self._newest_letters() if entry.letter.run_id is None]
        dead = ((it.event.id, it.trigger, "dead", it.error, None, it.revision, it.at) for it in letters)
        kept = ((it.event.id, it.trigger, it.outcome, it.reason, it.run_id, None, at)
                for at, it in reversed(list(self._kept)) if self._is_told_here_only(it))  # fmt: skip
        return merge(started, dead, kept, key=lambda row: row[-1], reverse=True)

    def _is_told_here_only(self, kept: KeptEvent) -> bool:
        """Whether neither a run nor a dead letter shows it, as for an event that joined others in a run."""
        if kept.outcome != "started":
            return kept.outcome != "dead"
        run = None if kept.run_id is None else self._runs.get(kept.run_id)
        if run is None:
            return False
        return run.event is None or run.event.id != kept.event.id

    def _rows_of_events(self) -> Iterator[tuple[Any, ...]]:
        started = ((run.at, run.event) for run in self._newest_runs() if run.event)
        kept = ((at, it.event) for at, it in reversed(list(self._kept)))
        shown = set()
        for _, event in merge(started, kept, key=lambda pair: pair[0], reverse=True):
            if (identity := (event.source, event.id)) not in shown:
                shown.add(identity)
                yield event.id, event.source, event.key, event.timestamp, apart(payload_as_sent(event))

    def _rows_of_claims(self) -> Iterator[tuple[Any, ...]]:
        return iter(sorted(self._claims.counts().items(), key=lambda item: -item[1]))

    def _rows_of_counts(self) -> Iterator[tuple[Any, ...]]:
        return ((*names, count) for names, count in self._counts.most_common())

    def _rows_of_publications(self) -> Iterator[tuple[Any, ...]]:
        return ((it.id, it.topic, it.trigger, it.run_id) for it in reversed(self._outbox.all()))


def _started(run: MemoryRun) -> tuple[Any, ...]:
    """The outcome row of the run's event, without the event's id."""
    kind = "waiting" if run.attempt == 0 else "started"
    return (run.trigger or None, kind, "", run.run_id, run.revision, run.at)


def _with_letter(row: tuple[Any, ...], letters: Mapping[str | None, DeadLetter]) -> tuple[Any, ...]:
    """The row of a run, with the error of its dead letter, if any."""
    letter = letters.get(row[0])
    if letter is None or row[4] != "compensated" or letter.event.id != row[5]:
        return row
    return (*row[:-1], letter.error)
