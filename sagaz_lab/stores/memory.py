"""The store that forgets with the process: objects are kept as they are, nothing is encoded."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import merge
from itertools import islice
from typing import Any, ClassVar, NamedTuple
from uuid import uuid4

from sagaz_lab.abc import Acceptance, DeadLetter, Ending, NewRun, Owner, Positions, Refusal, RevisionRow, StoredRun
from sagaz_lab.errors import StoreError, describe
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import LIVE, RESTARTABLE, Record, RecordKind, RunStatus
from sagaz_lab.stores.frames import Rows, columns, steps

ENDED_RUNS = 10_000
"""Ended runs that are kept, with their records; the oldest go first."""

CLAIMS = 1_000_000
"""Claims that are kept, about 200 MB; past it the oldest go, a thousand at a time."""

LETTERS = 10_000
"""Dead letters that are kept."""

KEPT_EVENTS = 100_000
"""Persisted events that are kept."""

# An enum's member costs a look-up through its class each time, and a set of them a hash in Python.
_WAITING, _NEEDS_CODE, _RESTARTABLE = RunStatus.WAITING, RunStatus.NEEDS_CODE, tuple(RESTARTABLE)

# Somebody is still to see to these, so they are kept however many there are.
_UNSETTLED = (RunStatus.HELD, RunStatus.PARTIALLY_COMMITTED, RunStatus.COMPENSATION_FAILED)


class _Run:
    __slots__ = ("attempt", "context", "ended_at", "error", "log", "new", "retry_at", "revision", "status")

    def __init__(self, new: NewRun) -> None:
        self.new = new
        self.status = new.status
        self.revision = new.revision
        self.context = new.context
        self.attempt = 0 if new.status is _WAITING else 1
        self.log: list[Record] = []
        self.retry_at: float | None = None
        self.ended_at: float | None = None
        self.error: str | None = None

    @property
    def run_id(self) -> str:
        return self.new.run_id

    @property
    def until(self) -> float | None:
        return self.new.claim_until

    def records(self) -> list[Record]:
        new = self.new
        started = [Record(new.run_id, 1, RecordKind.ACTION_STARTED, name, 1, new.at) for name in new.started]
        return started + self.log


# What a claim remembers of a run that is no longer kept: (run id, status, until). There may be a million of them, so
# each is a plain tuple of plain values, which the garbage collector passes over.
_Past = tuple[str, str, float | None]


class _Kept(NamedTuple):
    event: Event
    trigger: str
    outcome: str
    reason: str
    at: float


class _Letter:
    __slots__ = ("letter", "state")

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter
        self.state = "open"


class _Positions:
    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    async def get(self, name: str) -> str | None:
        return self._values.get(name)

    async def put(self, name: str, value: str) -> None:
        self._values[name] = value


class MemoryStore:
    """Keeps all in this process, within the bounds above. Reopened, it still has what it had."""

    url = "memory"
    durable: ClassVar[bool] = False

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}
        self._ended: deque[str] = deque()
        self._claims: dict[tuple[str | None, str], _Run | _Past] = {}
        self._letters: dict[str, _Letter] = {}
        self._kept: deque[_Kept] = deque(maxlen=KEPT_EVENTS)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._revisions: defaultdict[str, dict[int, RevisionRow]] = defaultdict(dict)
        self._positions = _Positions()
        self._left_behind: list[_Run] = []
        self._epoch = 0

    async def open(self, owner_name: str) -> Owner:
        self._epoch += 1
        return Owner(uuid4().hex, owner_name, self._epoch)

    async def close(self) -> None:
        self._left_behind = [run for run in self._runs.values() if run.ended_at is None]

    async def heartbeat(self) -> None:
        pass

    # --- intake ---

    async def seen(
        self, claims: Sequence[tuple[str, str]], *, at: float | None = None
    ) -> Mapping[tuple[str, str], Refusal]:
        now = time.time() if at is None else at
        taken = {}
        for key in claims:
            holder = self._claims.get(key)
            if holder is not None and _holds(holder, now):
                taken[key] = _refusal(holder)
        return taken

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        refused: dict[str, Refusal] = {}
        runs, claims = self._runs, self._claims
        for new in batch.runs:
            run_id = new.run_id
            if run_id in runs:
                refused[run_id] = Refusal(run_id, runs[run_id].status)
                continue
            run = _Run(new)
            if new.claim is not None:
                key = (new.trigger, new.claim)
                holder = claims.setdefault(key, run)
                if holder is not run:
                    if _holds(holder, new.at):
                        refused[run_id] = _refusal(holder)
                        continue
                    del claims[key]  # so that it counts as the youngest
                    claims[key] = run
            runs[run_id] = run
        if len(claims) > CLAIMS:
            for key in list(islice(claims, 1000)):
                del claims[key]
        if batch.dead or batch.filtered or batch.kept:
            self._note(batch)
        return refused

    def _note(self, batch: Acceptance) -> None:
        for letter in batch.dead:
            self._bury(letter)
        self._counts.update(batch.filtered)
        if batch.kept:
            now = time.time()
            self._kept += [_Kept(*kept, now) for kept in batch.kept]

    def _bury(self, letter: DeadLetter) -> None:
        self._letters[letter.id] = _Letter(letter)
        if len(self._letters) > LETTERS:
            for old in list(islice(self._letters, LETTERS // 100)):
                del self._letters[old]

    async def withdraw(self, run_id: str) -> None:
        run = self._run(run_id)
        if run.status is _WAITING and run.attempt == 0:
            del self._runs[run_id]
            key = (run.new.trigger, run.new.claim or "")
            if self._claims.get(key) is run:
                del self._claims[key]

    async def forget(self, trigger: str, key: str | None = None) -> int:
        if key is not None:
            return 0 if self._claims.pop((trigger, key), None) is None else 1
        freed = [claim for claim in self._claims if claim[0] == trigger]
        for claim in freed:
            del self._claims[claim]
        return len(freed)

    # --- the journal ---

    async def append(self, records: Sequence[Record]) -> None:
        runs = self._runs
        try:
            for record in records:
                runs[record.run_id].log.append(record)
        except KeyError as error:
            raise StoreError(f"no run {error.args[0]!r} in this store") from None

    async def begin(self, run_id: str, *, revision: int, attempt: int, started: Sequence[str], at: float,
                    context: Mapping[str, Any] | None = None) -> None:  # fmt: skip
        run = self._run(run_id)
        run.status = RunStatus.RUNNING
        run.revision = revision
        run.attempt = attempt
        run.retry_at = run.ended_at = run.error = None
        if context is not None:
            run.context = context
        run.log += [Record(run_id, attempt, RecordKind.ACTION_STARTED, name, 1, at) for name in started]

    async def end(self, run_id: str, ending: Ending, *, attempt: int, at: float, retry_at: float | None = None,
                  dead: DeadLetter | None = None) -> None:  # fmt: skip
        run = self._run(run_id)
        if ending.records:
            run.log += ending.records
        run.attempt = attempt
        if ending.error is not None:
            run.error = describe(ending.error)
        if dead is not None:
            self._bury(dead)
        if retry_at is not None:
            run.status = _WAITING
            run.retry_at = retry_at
            return
        run.status = ending.status
        if ending.status is _NEEDS_CODE:
            return
        run.ended_at = at
        if ending.status in _UNSETTLED:
            return
        self._ended.append(run_id)
        if len(self._ended) > ENDED_RUNS:
            self._drop(self._ended.popleft())

    def _drop(self, run_id: str) -> None:
        run = self._runs.get(run_id)
        if run is None or run.ended_at is None:
            return
        del self._runs[run_id]
        new = run.new
        if new.claim is not None and self._claims.get(key := (new.trigger, new.claim)) is run:
            if run.status in _RESTARTABLE:
                del self._claims[key]
            else:
                self._claims[key] = (run_id, run.status.value, run.until)

    def _run(self, run_id: str) -> _Run:
        run = self._runs.get(run_id)
        if run is None:
            raise StoreError(f"no run {run_id!r} in this store")
        return run

    # --- resuming ---

    async def interrupted(self) -> Sequence[StoredRun]:
        left, self._left_behind = self._left_behind, []
        return [_stored(run) for run in left if run.ended_at is None]

    async def load(self, run_id: str) -> StoredRun | None:
        run = self._runs.get(run_id)
        return None if run is None else _stored(run)

    async def adopt(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        if run is None:
            return False
        if run.status not in LIVE:
            run.status = RunStatus.RUNNING
            run.ended_at = None
        return True

    async def letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        wanted = set(ids)
        return [entry.letter for id, entry in self._letters.items() if id in wanted and entry.state == "open"]

    async def settle_letters(self, ids: Sequence[str], state: str, reason: str) -> int:
        entries = [self._letters[id] for id in dict.fromkeys(ids) if id in self._letters]
        still_open = [entry for entry in entries if entry.state == "open"]
        for entry in still_open:
            entry.state = state
        return len(still_open)

    # --- names ---

    async def save_revision(self, row: RevisionRow) -> None:
        self._revisions[row.saga].setdefault(row.number, row)

    async def own_triggers(self, names: Sequence[str]) -> None:
        """Nobody else can reach this store."""

    def positions(self) -> Positions:
        return self._positions

    def revisions(self, saga: str) -> Sequence[RevisionRow]:
        return sorted(self._revisions.get(saga, {}).values(), key=lambda row: row.number)

    # --- frames ---

    def rows(self, frame: str, limit: int | None) -> Rows:
        names = columns(frame)
        return names, list(islice(getattr(self, f"_{frame}_rows")(), limit))

    def _newest_runs(self) -> Iterator[_Run]:
        return reversed(list(self._runs.values()))

    def _runs_rows(self) -> Iterator[tuple[Any, ...]]:
        for run in self._newest_runs():
            new = run.new
            event_id = new.event.id if new.event else None
            yield (new.run_id, new.saga, run.revision, new.trigger, str(run.status), event_id, run.attempt, new.at,
                   run.ended_at, run.error)  # fmt: skip

    def _steps_rows(self) -> Iterator[tuple[Any, ...]]:
        for run in self._newest_runs():
            yield from steps(run.records())

    def _outcomes_rows(self) -> Iterable[tuple[Any, ...]]:
        started = ((run.new.event.id, run.new.trigger, "held" if run.attempt == 0 else "started", "", run.new.run_id,
                    run.revision, run.new.at) for run in self._newest_runs() if run.new.event)  # fmt: skip
        letters = [entry.letter for entry in reversed(list(self._letters.values())) if entry.letter.run_id is None]
        dead = ((it.event.id, it.trigger, "dead", it.error, None, it.revision, it.at) for it in letters)
        kept = ((it.event.id, it.trigger, it.outcome, it.reason, None, None, it.at) for it in reversed(list(self._kept))
                if it.outcome not in ("started", "dead"))  # fmt: skip
        return merge(started, dead, kept, key=lambda row: row[-1], reverse=True)

    def _dead_letters_rows(self) -> Iterator[tuple[Any, ...]]:
        for entry in reversed(list(self._letters.values())):
            it = entry.letter
            yield (it.id, it.event.id, it.trigger, it.cause, it.error, it.attempts, it.revision, it.at, it.run_id,
                   entry.state)  # fmt: skip

    def _events_rows(self) -> Iterator[tuple[Any, ...]]:
        started = ((run.new.at, run.new.event) for run in self._newest_runs() if run.new.event)
        kept = ((it.at, it.event) for it in reversed(list(self._kept)))
        shown = set()
        for _, event in merge(started, kept, key=lambda pair: pair[0], reverse=True):
            if (identity := (event.source, event.id)) not in shown:
                shown.add(identity)
                yield event.id, event.source, event.key, event.timestamp, event.payload

    def _counts_rows(self) -> Iterator[tuple[Any, ...]]:
        return ((*names, count) for names, count in self._counts.most_common())


def open_memory(address: str, artifacts: str | os.PathLike[str] | None, retention_days: float) -> MemoryStore:
    """For the table of stores. What is kept is bounded by number, not by age, and needs no files."""
    if address not in ("memory", "memory:", "memory://"):
        raise StoreError(f"store {address!r}: a memory store has no path; write 'memory'")
    return MemoryStore()


def _holds(holder: _Run | _Past, at: float) -> bool:
    if isinstance(holder, tuple):
        return holder[2] is None or holder[2] > at  # a restartable one is forgotten with its run
    until = holder.new.claim_until
    return (until is None or until > at) and holder.status not in _RESTARTABLE


def _refusal(holder: _Run | _Past) -> Refusal:
    if isinstance(holder, tuple):
        return Refusal(holder[0], RunStatus(holder[1]))
    return Refusal(holder.new.run_id, holder.status)


def _stored(run: _Run) -> StoredRun:
    new = run.new
    return StoredRun(new.run_id, new.saga, run.revision, new.trigger, new.event, run.context, run.status, run.attempt,
                     new.at, run.retry_at, run.records())  # fmt: skip
