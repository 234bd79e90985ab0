"""The in-memory store: keeps objects without encoding."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, ClassVar, NoReturn
from uuid import uuid4

from msgspec.structs import replace

from sagaz_lab.abc import (
    KEY_MARK,
    Acceptance,
    Choose,
    DeadLetter,
    Ending,
    KeptEvent,
    NewRun,
    Owner,
    Positions,
    Publication,
    Refusal,
    RevisionRow,
    StoredRun,
    StoreTraits,
    WaitingEvent,
)  # fmt: skip
from sagaz_lab.errors import StoreError, describe
from sagaz_lab.model.run import LIVE, Record, RecordKind, RunStatus
from sagaz_lab.stores.frames import Rows, columns
from sagaz_lab.stores.memory import names as memory_names
from sagaz_lab.stores.memory.claims import Claims, OfDeadLetter, claims_of
from sagaz_lab.stores.memory.clock import put_clock_right
from sagaz_lab.stores.memory.cooldowns import Cooldowns
from sagaz_lab.stores.memory.dead_letters import DeadLetters, redrive
from sagaz_lab.stores.memory.frames import Frames
from sagaz_lab.stores.memory.outbox import Outbox
from sagaz_lab.stores.memory.runs import KEPT, WAITING, MemoryRun, memory_run
from sagaz_lab.stores.values.used_up import check_records, check_run, still_redriven, unstorable

ENDED_RUNS = 10_000
"""Maximum ended runs, with their records; beyond it the oldest are dropped, a hundred at a time."""

KEPT_EVENTS = 100_000
"""Maximum persisted events."""

_NEEDS_CODE = RunStatus.NEEDS_CODE

# These need a person, so they are kept without limit.
_UNSETTLED = (RunStatus.HELD, RunStatus.PARTIALLY_COMMITTED, RunStatus.COMPENSATION_FAILED)


class MemoryStore:
    """Keeps everything in this process, within the limits above. Reopening keeps the content.

    Live runs, runs that need a person and waiting events have no limit.
    """

    url = "memory"
    traits: ClassVar[StoreTraits] = StoreTraits(survives=False, awaited=False, any_thread=False)

    def __init__(self) -> None:
        self._runs: dict[str, MemoryRun] = {}
        self._ended: deque[MemoryRun] = deque()
        self._claims = Claims(self._runs)
        self._cooldowns = Cooldowns(self._runs)
        self._waiting: dict[str, WaitingEvent] = {}
        self._letters = DeadLetters()
        self._kept: deque[tuple[float, KeptEvent]] = deque(maxlen=KEPT_EVENTS)
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._outbox = outbox = Outbox()
        self._revisions: defaultdict[str, dict[int, RevisionRow]] = defaultdict(dict)
        self._positions = memory_names.KeptPositions()
        self._owned = memory_names.Owned()
        self._frames = Frames(self._runs, self._letters, self._kept, self._counts, self._outbox, self._claims)
        self.about, self.park_behind, self.parked_runs = self._frames.about, outbox.park_behind, outbox.parked_runs
        self._left_behind: list[MemoryRun] = []
        self._epoch = 0

    async def open(self, owner_name: str) -> Owner:
        self._epoch += 1
        return Owner(uuid4().hex, owner_name, self._epoch)

    async def close(self) -> None:
        self._owned.leave()
        self._left_behind = [run for run in self._runs.values() if run.ended_at is None]

    async def put_clock_right(self, now: float) -> tuple[float, Mapping[str, int]]:
        return put_clock_right(self._runs, self._claims, self._cooldowns, self._waiting, now)

    async def heartbeat(self) -> bool:
        return False

    def lease_held(self) -> bool:
        return True  # no other process can reach this store

    def lease_lost(self) -> bool:
        return False

    # --- intake ---

    async def seen(self, trigger: str, claims: Sequence[str], *, at: float | None = None) -> Mapping[str, Refusal]:
        return self._claims.seen(trigger, claims, time.time() if at is None else at)

    async def cooling(self, trigger: str, *, at: float) -> Mapping[str, Refusal]:
        return self._cooldowns.refusals(trigger, at)

    async def waiting(self, triggers: Sequence[str]) -> Sequence[WaitingEvent]:
        wanted = set(triggers)
        return [waiting for waiting in self._waiting.values() if waiting.trigger in wanted]

    async def left_waiting(self) -> Mapping[str, int]:
        return Counter(waiting.trigger for waiting in self._waiting.values())

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        refused: dict[str, Refusal] = {}
        redriven = still_redriven(batch)
        if batch.released or batch.withdrawn or redriven:
            self._make_way(batch)
            redrive(redriven, batch.runs, self._letters, self._claims, self._cooldowns)
        for _, of_trigger in groupby(batch.runs, attrgetter("trigger")):
            for new in self._accept_together([*of_trigger]):
                if (refusal := self._accept_alone(new)) is not None:
                    refused[new.run_id] = refusal
        for waiting in batch.waiting:
            if (refusal := self._wait(waiting)) is not None:
                refused[waiting.id] = refusal
        if batch.dead or batch.filtered or batch.kept or batch.publications:
            self._note(batch, refused)
        for spent in batch.spent:
            self._claims.fill(*spent)
        self._claims.give_back(redriven)
        return refused

    def _make_way(self, batch: Acceptance) -> None:
        """Remove what leaves, which frees its claims for the new runs."""
        self._release(batch.leaving(unstorable(batch.runs) if batch.released_with else ()))
        for run_id, spent_until in batch.withdrawn.items():
            self._withdraw(run_id, spent_until)

    def _accept_together(self, news: Sequence[NewRun]) -> Sequence[NewRun]:
        """Accept one trigger's new runs with free claims, the common case. Returns the others."""
        runs: dict[str, MemoryRun] = {}
        claimed: dict[str, str] = {}
        keys: dict[str, str] = {}
        others: list[NewRun] = []
        until, keys_until = news[0].claim_until, news[0].declared_until
        known, taken = self._runs, self._claims.of(news[0].trigger or "")
        unfit = unstorable(news)
        for new in news:
            if new.members or new.cooldown is not None or new.claim_until != until:
                return news
            run_id, claim, key = new.run_id, new.claim, new.declared
            if run_id in known or run_id in runs or claim in taken or claim in claimed or run_id in unfit:
                others.append(new)
                continue
            if key is not None:
                if key in taken or key in keys or new.declared_until != keys_until:
                    others.append(new)
                    continue
                keys[key] = run_id
            runs[run_id] = memory_run(new)
            if claim is not None:
                claimed[claim] = run_id
        if claimed:
            self._claims.take(news[0].trigger or "", until, claimed)
        if keys:
            self._claims.take(news[0].trigger or "", keys_until, keys)
        known.update(runs)
        return others

    def _accept_alone(self, new: NewRun) -> Refusal | None:
        """Accept a run in the general case."""
        if (known := self._runs.get(new.run_id)) is not None:
            return Refusal(new.run_id, known.status)
        if (error := check_run(new)) is not None:
            return Refusal(error=error)
        run = memory_run(new)
        claims = run.claims()
        for claim in claims:
            if (refusal := self._claims.refusal(run.trigger, claim, new.at)) is not None:
                return refusal
        if new.cooldown is not None:
            if (refusal := self._cooldowns.refusal(run.trigger, new.cooldown[0], new.at)) is not None:
                return refusal
            if new.status is RunStatus.RUNNING:
                self._cooldowns.take(run.trigger, run.run_id, new.cooldown, new.at)
        for mine in claims:
            until = new.declared_until if mine.startswith(KEY_MARK) else new.claim_until
            self._claims.take_over(run.trigger, until, mine, run.run_id)
        self._runs[run.run_id] = run
        return None

    def _wait(self, waiting: WaitingEvent) -> Refusal | None:
        if waiting.id in self._waiting:
            return Refusal()
        refusal = self._claims.wait(waiting.trigger, claims_of(waiting), waiting.id, waiting.at)
        if refusal is None:
            self._waiting[waiting.id] = waiting
        return refusal

    def _release(self, ids: Iterable[str]) -> None:
        for id in ids:
            waiting = self._waiting.pop(id, None)
            if waiting is not None:
                self._claims.release(waiting.trigger, claims_of(waiting), id)

    def _note(self, batch: Acceptance, refused: dict[str, Refusal]) -> None:
        for letter in batch.dead:
            if letter.claim is not None:
                mine = OfDeadLetter(letter.id, letter.claim_until)
                if (taken := self._claims.bury(letter.trigger, letter.claim, mine, letter.at)) is not None:
                    refused[letter.id] = taken
                    continue
            self._letters.bury(letter)
        self._counts.update(batch.filtered)
        if batch.kept:
            now = time.time()
            self._kept += [(now, kept) for kept in batch.kept]
        if batch.publications:
            self._outbox.add([it for it in batch.publications if it.id not in refused])

    def _withdraw(self, run_id: str, spent_until: float | None) -> None:
        run = self._runs.get(run_id)
        if run is not None and run.status is WAITING and run.attempt == 0:
            del self._runs[run_id]
            self._claims.withdraw(run, spent_until)

    async def forget(self, trigger: str, key: str | None = None) -> int:
        return self._claims.forget(trigger, key) + self._cooldowns.forget(trigger, key)

    # --- the journal ---

    def append(self, records: Sequence[Record]) -> Awaitable[None]:
        runs = self._runs
        if len(records) > 1:
            check_records(records)
        for record in records:
            run = runs.get(record.run_id) or _refuse(record.run_id)
            if record.value is None and record.changes is None and not record.publications:
                run.journal.append(record)
            else:
                self._keep(run, record)
        return KEPT

    async def begin(self, run_id: str, *, revision: int, attempt: int, started: Sequence[str], at: float,
                    context: Mapping[str, Any] | None = None, cooldown: tuple[str, float] | None = None
                    ) -> None:  # fmt: skip
        run = self._runs.get(run_id) or _refuse(run_id)
        if cooldown is not None:
            self._cooldowns.take(run.trigger, run_id, cooldown, at)
        run.status = RunStatus.RUNNING
        run.revision = revision
        run.attempt = attempt
        run.retry_at = run.ended_at = run.error = None
        if context is not None:
            run.context = context
        for name in started:
            run.keep(Record(run_id, attempt, RecordKind.ACTION_STARTED, name, 1, at))

    def end(self, run_id: str, ending: Ending, *, attempt: int, at: float, retry_at: float | None = None,
            dead: DeadLetter | None = None) -> Awaitable[None]:  # fmt: skip
        run = self._runs.get(run_id) or _refuse(run_id)
        records, status = ending.records, ending.status
        if len(records) > 1:
            check_records(records)
        for record in records:
            if record.value is None and record.changes is None and not record.publications:
                run.journal.append(record)
            else:
                self._keep(run, record)
        if ending.publications:
            self._outbox.add(ending.publications)
        run.attempt = attempt
        if ending.error is not None:
            run.error = describe(ending.error)
        if dead is not None:
            self._letters.bury(dead)
        if retry_at is not None:
            run.status = WAITING
            run.retry_at = retry_at
            return KEPT
        run.status = status
        if status is not _NEEDS_CODE:
            run.ended_at = at
            if status not in _UNSETTLED:
                self._ended.append(run)
                if len(self._ended) > ENDED_RUNS:
                    self._drop_oldest()
        return KEPT

    def _drop_oldest(self) -> None:
        """Drop several at a time, which is cheaper than one by one."""
        for _ in range(max(1, ENDED_RUNS // 100)):
            run = self._ended.popleft()
            if run.ended_at is not None and self._runs.pop(run.run_id, None) is not None:
                self._claims.outlive(run)

    # --- the outbox ---

    def _keep(self, run: MemoryRun, record: Record) -> None:
        """Append a record and queue its publications. Raises `UnstorableValue`."""
        check_records((record,))
        if record.publications:
            self._outbox.add(record.publications)
            record = replace(record, publications=())
        run.keep(record)

    async def publications(self, limit: int) -> Sequence[tuple[int, Publication]]:
        return self._outbox.oldest(limit)

    async def published(self, numbers: Sequence[int]) -> None:
        self._outbox.remove(numbers)

    async def park_refused(self, refused: Sequence[tuple[int, DeadLetter]]) -> None:
        for _, letter in refused:
            self._letters.bury(letter)
        self._outbox.park(number for number, _ in refused)

    async def settle_refused(
        self, ids: Sequence[str], state: str, reason: str, *, payloads: Mapping[str, bytes] | None = None
    ) -> Collection[str]:
        settled = self._outbox.settle(await self.letters(ids), state, payloads or {})
        await self.settle_letters(settled, state, reason)
        return settled

    # --- resuming ---

    async def interrupted(self, choose: Choose | None = None) -> Sequence[StoredRun]:
        left = [run for run in self._left_behind if run.ended_at is None]
        taken = None if choose is None else set(choose([(run.run_id, run.saga) for run in left]))
        self._left_behind = [] if taken is None else [run for run in left if run.run_id not in taken]
        return [run.stored() for run in left if taken is None or run.run_id in taken]

    async def load(self, run_id: str) -> StoredRun | None:
        return self.run(run_id)

    async def adopt(self, run_id: str) -> bool:
        run = self._runs.get(run_id)
        if run is None:
            return False
        self._left_behind = [other for other in self._left_behind if other is not run]
        if run.status not in LIVE:
            run.status = RunStatus.RUNNING
            run.ended_at = None
        return True

    async def letters(self, ids: Sequence[str]) -> Sequence[DeadLetter]:
        return self._letters.open(ids)

    async def letters_after(self, number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
        return self._letters.after(number, limit)

    async def settle_letters(self, ids: Sequence[str], state: str, reason: str) -> int:
        return self._letters.settle(ids, state)

    # --- names ---

    async def save_revision(self, row: RevisionRow) -> bool:
        return self._revisions[row.saga].setdefault(row.number, row).digest == row.digest

    async def own_triggers(self, names: Sequence[str]) -> float | None:
        return self._owned.own(names)  # no other process can reach this store

    def positions(self) -> Positions:
        return self._positions

    def revisions(self, saga: str, newest: int | None = None) -> Sequence[RevisionRow]:
        rows = sorted(self._revisions.get(saga, {}).values(), key=lambda row: row.number)
        return rows if newest is None else rows[max(0, len(rows) - newest) :]

    def run(self, run_id: str) -> StoredRun | None:
        return run.stored() if (run := self._runs.get(run_id)) else None

    def rows(self, frame: str, limit: int | None, *, before: str | None = None, status: str | None = None) -> Rows:
        return columns(frame), list(islice(self._frames.rows(frame, before, status), limit))


def open_memory(address: str, artifacts: str | os.PathLike[str] | None, retention_days: float) -> MemoryStore:
    """For the table of stores. Retention is by number, not by age, and there are no files."""
    if address not in ("memory", "memory:", "memory://"):
        raise StoreError(f"store {address!r}: a memory store has no path; write 'memory'")
    return MemoryStore()


def _refuse(run_id: str) -> NoReturn:
    raise StoreError(f"no run {run_id!r} in this store")
