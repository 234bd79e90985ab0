"""Whether a run may start now: slots, keys and pace. Runs that may not start wait in a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import count

from sagaz_lab.errors import DefinitionError
from sagaz_lab.model.trigger import Gates
from sagaz_lab.runtime.gates.batch_size import BatchSize
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.rate_limit import Pace, pace_of
from sagaz_lab.runtime.gates.windows import Windows

CONCURRENCY = 100
"""Default of `max_concurrent_sagas`, per trigger: a flood must not exhaust the process."""

LIVE_RUNS = 1000
"""Default limit on the live runs of all triggers of a Lab."""


class Slots:
    """The live runs that all triggers may have together. When slots are scarce, priority decides who gets the next.

    Raises `DefinitionError` for a limit below 1.
    """

    __slots__ = ("limit", "scarce", "used")

    def __init__(self, limit: int = LIVE_RUNS) -> None:
        if type(limit) is not int or limit < 1:
            raise DefinitionError(f"Lab: max_live_runs={limit!r} must be a whole number, 1 or more")
        self.limit = limit
        self.used = 0
        self.scarce = False

    def free(self) -> bool:
        if self.used < self.limit:
            return True
        self.scarce = True
        return False


class Admission:
    """Admission for one trigger. Runs of one key start one at a time, first in first out; the keys take turns.

    Waiting runs stand in lanes, one per concurrency key, else per pace key. A lane is a ring of runs, stored as its
    last run, so a key costs no more than its entry. A lane is in exactly one place: in `_ready`, in `_later` (its pace
    will open at a known time), or in neither while a run of its key is live.
    """

    __slots__ = ("_busy", "_firsts", "_keyed", "_later", "_numbers", "_queue", "_ready", "batch_size", "in_flight",
                 "lanes", "limit", "pace", "size", "slots", "windows")  # fmt: skip

    def __init__(self, gates: Gates, queue_size: int, slots: Slots | None = None, *, in_turn: bool = False) -> None:
        self.slots = slots or Slots()
        self._queue: dict[str, PendingRun] = {}
        self.lanes: dict[str | None, PendingRun] = {}
        self._ready: deque[str | None] = deque()
        self._later: list[tuple[float, int, str | None]] = []
        self._numbers = count(1)
        self._firsts = count(-1, -1)
        self._busy: dict[str, str] = {}
        self.pace: Pace | None = None
        self.in_flight = 0
        self.windows: Windows | None = None
        self.batch_size = BatchSize()
        self.configure(gates, queue_size, in_turn=in_turn)

    def configure(self, gates: Gates, queue_size: int, *, in_turn: bool = False) -> None:
        """Apply changed options; waiting runs stay. `in_turn`: one run at a time."""
        self.limit = 1 if in_turn else gates.max_concurrent_sagas or CONCURRENCY
        self.size = queue_size
        self._keyed = gates.concurrency_key is not None or gates.singleton is not None
        self.pace = pace_of(gates, self.pace)
        self._ask_again()

    def forget(self, key: str | None) -> None:
        """Reset the pace of this key, or of all."""
        if self.pace is not None:
            self.pace.forget(key)
        self._ask_again()

    def _ask_again(self) -> None:
        """Recheck the lanes that wait for their pace."""
        self._ready.extend(lane for _, _, lane in self._later)
        self._later.clear()

    # --- room ---

    @property
    def waiting(self) -> int:
        """Runs in the queue."""
        return len(self._queue)

    def all_waiting(self) -> int:
        """Runs in the queue and events in the windows before the trigger method."""
        return self.waiting + (self.windows.size if self.windows is not None else 0)

    def free(self) -> int:
        """How many events may be taken now: as many as should find a slot, else as many as can wait."""
        slots = self.limit - self.in_flight
        if slots > 0:
            slots = min(slots, self.slots.limit - self.slots.used) if self.slots.free() else 0
        if slots <= 0 or self.all_waiting():
            return self.size - self.all_waiting()
        # Any event without a slot waits, possibly all: runs of one key start one at a time, and a pace spaces them.
        sure = slots if self.pace is None and not self._keyed else min(slots, self.size)
        return max(sure, min(self.batch_size.events_for(slots), self.size))

    def full(self) -> bool:
        return self.all_waiting() >= self.size

    # --- in ---

    def enter(self, pending: PendingRun, now: float) -> bool:
        """True if this run may start now; it then has its slot. It overtakes no run of its lane and no ready one."""
        key = pending.key
        lane = _lane(pending)
        if self.in_flight >= self.limit or lane in self.lanes or not self.slots.free():
            return False
        if self._ready or (key is not None and key in self._busy):
            return False
        if self.pace is not None:
            if self.pace.opens_at(pending.pace_key) > now:
                return False
            self.pace.start(pending.pace_key, now)
        self.occupy(pending)
        return True

    def occupy(self, pending: PendingRun) -> None:
        """Give the run a slot and its key's turn, even over the limit."""
        self.in_flight += 1
        self.slots.used += 1
        if pending.key is not None:
            self._busy[pending.key] = pending.run_id

    def at_once(self) -> int:
        """How many runs without a key may start now; 0 if any run waits or there is a pace."""
        if self.pace is not None or self.lanes or self._ready:
            return 0
        return max(0, min(self.limit - self.in_flight, self.slots.limit - self.slots.used))

    def occupy_some(self, runs: int) -> None:
        """Give this many runs without a key their slots; a negative number takes slots back."""
        self.in_flight += runs
        self.slots.used += runs

    def wait(self, pending: PendingRun) -> None:
        """Queue the run last in its lane, unless it has an earlier place."""
        if not pending.place:
            pending.place = next(self._numbers)
        lane = _lane(pending)
        last = self.lanes.get(lane)
        if last is None:
            pending.behind = pending
            self.lanes[lane] = pending
            if lane not in self._busy:
                self._ready.append(lane)
        else:
            before = last
            if last.place <= pending.place:
                self.lanes[lane] = pending
            else:
                while (behind := before.behind) is not None and behind.place <= pending.place:
                    before = behind
                if before is last:
                    self._ask_lane_again(lane)
            pending.behind, before.behind = before.behind, pending
        self._queue[pending.run_id] = pending

    def put_back(self, pending: PendingRun) -> None:
        """Return a run to its old place in the queue."""
        self.wait(pending)
        self._queue = dict(sorted(self._queue.items(), key=lambda it: it[1].place))

    # --- out ---

    def next(self, now: float) -> PendingRun | None:
        """The next run that may start, with its slot; None if none may."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heappop(self._later)[2])
        while self._ready and self.in_flight < self.limit and self.slots.free():
            lane = self._ready[0]
            last = self.lanes.get(lane)
            if last is None or lane in self._busy:
                self._ready.popleft()
                continue
            pending = last.behind
            assert pending is not None
            if self.pace is not None:
                opens_at = self.pace.opens_at(pending.pace_key)
                if opens_at > now:
                    if not self.pace.keyed:  # no lane may start earlier
                        return None
                    heappush(self._later, (opens_at, next(self._numbers), self._ready.popleft()))
                    continue
                self.pace.start(pending.pace_key, now)
            self._ready.popleft()
            self._unlink(lane, last, pending)
            self.occupy(pending)
            if lane in self.lanes and lane not in self._busy:
                self._ready.append(lane)
            return pending
        return None

    def _unlink(self, lane: str | None, before: PendingRun, pending: PendingRun) -> None:
        """Unlink the run that follows `before` in its lane."""
        if before is pending:
            del self.lanes[lane]
        else:
            before.behind = pending.behind
            if self.lanes[lane] is pending:
                self.lanes[lane] = before
        pending.behind = None
        del self._queue[pending.run_id]

    def remove(self, pending: PendingRun) -> None:
        """Remove a waiting run from the queue."""
        lane = _lane(pending)
        before = last = self.lanes[lane]
        while before.behind is not pending:
            assert before.behind is not None
            before = before.behind
        self._unlink(lane, before, pending)
        if lane in self.lanes:
            if before is last:
                self._ask_lane_again(lane)
        elif lane not in self._busy:
            self._ready = deque(other for other in self._ready if other != lane)
            self._later = sorted(entry for entry in self._later if entry[2] != lane)

    def _ask_lane_again(self, lane: str | None) -> None:
        """The lane has a new first run, whose pace may open earlier."""
        others = [entry for entry in self._later if entry[2] != lane]
        if len(others) < len(self._later):
            self._later = sorted(others)
            self._ready.append(lane)

    def leave(self, pending: PendingRun, keep_turn: bool = False) -> None:
        """A run has ended and returns its slot; with `keep_turn` its key stays taken until its retry."""
        self.in_flight -= 1
        self.slots.used -= 1
        if pending.key is not None and not keep_turn:
            self._free(pending)

    def _free(self, pending: PendingRun) -> None:
        assert pending.key is not None
        if self._busy.get(pending.key) == pending.run_id:
            del self._busy[pending.key]
            if pending.key in self.lanes:
                self._ready.append(pending.key)

    def keep_turn(self, pending: PendingRun) -> None:
        """The run waits for a retry: no other run of its key starts before."""
        if pending.key is not None:
            self._busy[pending.key] = pending.run_id

    def refund(self, pending: PendingRun) -> None:
        """The run was admitted but starts nothing: return what it took from the pace."""
        if self.pace is not None:
            self.pace.refund(pending.pace_key)

    def give_up_turn(self, pending: PendingRun) -> None:
        """The run will not be retried after all."""
        if pending.key is not None:
            self._free(pending)

    def reenter(self, pending: PendingRun) -> None:
        """A retry is due: it goes first in its lane, whose turn it has kept."""
        pending.place = next(self._firsts)
        self.wait(pending)
        if pending.key is not None:
            self._free(pending)

    def opens_at(self) -> float | None:
        """When the pace admits the next waiting run; None if something else must happen first."""
        if self.pace is None or self.in_flight >= self.limit or self.slots.used >= self.slots.limit:
            return None
        opens = [self._later[0][0]] if self._later else []
        if self._ready:
            opens.append(self.pace.opens_at(None))
        return min(opens, default=None)

    # --- views ---

    def holder(self, key: str) -> str | None:
        """The run that has this key's turn, else the first that waits for it."""
        if (run_id := self._busy.get(key)) is not None:
            return run_id
        last = self.lanes.get(key)
        return None if last is None or last.behind is None else last.behind.run_id

    def turns(self) -> dict[str, str]:
        """The key of each run that has its turn, by run id."""
        return {run_id: key for key, run_id in self._busy.items()}

    def running(self, key: str) -> str | None:
        """The run that has this key's turn."""
        return self._busy.get(key)

    def queued(self, key: str) -> Iterator[PendingRun]:
        """The runs that wait for this key, in order."""
        last = self.lanes.get(key)
        pending = None if last is None else last.behind
        while pending is not None:
            after = pending.behind
            yield pending
            pending = None if pending is last else after

    def queue(self) -> Sequence[PendingRun]:
        """All waiting runs, in order of arrival."""
        return [*self._queue.values()]

    def find(self, run_id: str) -> PendingRun | None:
        """The waiting run of this id, if any."""
        return self._queue.get(run_id)

    def oldest(self) -> PendingRun | None:
        """The run that has waited longest for its first start."""
        return next((run for run in self._queue.values() if run.attempt == 1), None)

    def verdicts(self, pending: PendingRun, now: float) -> list[tuple[str, str, str]]:
        """Each gate's verdict on this run: (gate, verdict, numbers)."""
        full = self.in_flight >= self.limit
        found = [("concurrency", "wait" if full else "pass", f"{self.in_flight} of {self.limit} slots used")]
        if self.slots.used >= self.slots.limit:
            found.append(("live runs", "wait", f"{self.slots.used} of {self.slots.limit} of all triggers"))
        if (key := pending.key) is not None:
            queued = sum(1 for _ in self.queued(key))
            busy = key in self._busy
            numbers = f"{key!r}: {int(busy)} running, {queued} waiting"
            found.append(("concurrency key", "wait" if busy or queued else "pass", numbers))
        if (pace := self.pace) is not None:
            wait_s = pace.opens_at(pending.pace_key) - now
            opens = f"opens in {wait_s:.3g} s" if wait_s > 0 else "open"
            of = "" if pending.pace_key is None else f" for {pending.pace_key!r}"
            numbers = f"{pace.limit:g} per {pace.per_s:g} s{of}, {opens}"
            found.append((pace.gate, "wait" if wait_s > 0 else "pass", numbers))
        if self.all_waiting():
            found.append(
                ("queue", "wait" if self.waiting else "pass", f"{self.all_waiting()} of {self.size} places taken")
            )
        return found


def _lane(pending: PendingRun) -> str | None:
    return pending.key if pending.key is not None else pending.pace_key
