"""The pure core: the decisions of one trigger as a state machine over an ordered log of inputs.

It does no I/O, awaits nothing and has no clock: each input carries its moment, in seconds, and moments never go back.
The inputs are events that arrive (before the trigger method) and are offered as runs (after it), runs that end, and
moments that come due. Everything due at or before the moment of an input precedes it; at the same moment ends of runs
come first, then what is due, then events. The same log gives the same outcomes, however it is cut into batches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from msgspec import Struct

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.errors import QueueFull, SingletonTaken
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.trigger import Gates
from sagaz_lab.runtime.gates.admission import Admission, Slots
from sagaz_lab.runtime.gates.cooldowns import Cooldown, KeyCooldowns
from sagaz_lab.runtime.gates.leading_debounce import Leading
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.reservation import WAITS_IN_WINDOW, Left, Reservation, Verdict
from sagaz_lab.runtime.gates.window_policies import IN_PERIOD, SUPERSEDED, Closing, Leaving, Policy
from sagaz_lab.runtime.gates.windows import Windows

COOLING = "cooling down"
LIVE_ALREADY = "a run is live already"
OVERLAP = "the run of an earlier tick is still live"
QUEUE_FULL = "the queue is full"

_RUNNING = RunStatus.RUNNING


class Rules(Struct, frozen=True):
    """The gate settings of a trigger's revision, config and limits. `overlap` is a cron trigger's."""

    trigger: str
    gates: Gates
    policy: Policy | None
    cooldown_s: float | None
    overlap: str | None
    queue_size: int
    strategy: str


class Core:
    """One trigger's gates, which persist across revisions."""

    __slots__ = ("_cooldown_s", "_rules", "_singleton", "_skips_overlap", "admission", "cooldowns", "leading", "plain",
                 "windows")  # fmt: skip

    def __init__(self, rules: Rules, slots: Slots) -> None:
        self.admission = Admission(rules.gates, rules.queue_size, slots)
        self.windows: Windows | None = None
        self.leading = Leading()
        self.cooldowns = KeyCooldowns()
        self._rules = rules
        self.use(rules)

    def use(self, rules: Rules) -> None:
        """Switch to other rules; waiting events and runs stay."""
        gates, before = rules.gates, self._rules
        self._rules = rules
        self._cooldown_s, self._singleton = rules.cooldown_s, gates.singleton
        self._skips_overlap = rules.overlap == "skip"
        self.leading.configure(gates.debounce)
        if self.windows is None and rules.policy is not None:
            self.open_windows(rules.policy)
        elif self.windows is not None and rules.policy is not before.policy:
            self.windows.change(rules.policy or Leaving())
        self.admission.configure(gates, rules.queue_size, in_turn=rules.overlap == "queue")
        keyed = gates.concurrency_key is not None or gates.singleton is not None or gates.throttle is not None
        self.plain = rules.cooldown_s is None and rules.overlap is None and not keyed and rules.strategy == "block"
        """Whether no gate turns runs away and all runs are alike, so a batch of them may be offered together."""

    def open_windows(self, policy: Policy) -> Windows:
        """Open windows if there are none yet."""
        self.windows = self.admission.windows = Windows(policy)
        return self.windows

    # --- before the trigger method ---

    def arrive(self, batch: Reservation, event: WaitingEvent, now: float, *, exempt: bool = False) -> Verdict | None:
        """The verdict of the gates before the method; None if the method is to decide.

        An `exempt` event may have opened its period itself, before it became a dead letter.
        """
        if self.leading.active:
            return self._lead(batch, event.key, now, exempt=exempt)
        if self._rules.policy is None:
            return None
        return self._hold(batch, event, now)

    def _lead(self, batch: Reservation, key: str | None, now: float, *, exempt: bool) -> Verdict | None:
        leading = self.leading
        closes_in_s = leading.closes_in(key, now)
        batch.undo_by(leading.restore, key, leading.opens(key, now))
        if closes_in_s <= 0 or exempt:
            return None
        return Verdict(OutcomeKind.FILTERED, IN_PERIOD, {"key": key, "closes_in_s": round(closes_in_s, 3)})

    def _hold(self, batch: Reservation, new: WaitingEvent, now: float) -> Verdict:
        windows = self.windows
        assert windows is not None
        if self.admission.full() and (verdict := self._overflow(batch, in_window=True)) is not None:
            return verdict
        added = windows.add(new)
        for released in added.released:
            self._leave(batch, released.waiting, Verdict(OutcomeKind.FILTERED, released.reason))
        if added.released:
            batch.undo_by(windows.put_back, [released.waiting for released in added.released])
        if not added.waits:
            return Verdict(OutcomeKind.FILTERED, added.reason)
        batch.undo_by(windows.remove, new)
        batch.waiting[new.id] = new
        batch.claims.wait(new)
        if windows.full(new.key):
            self._close(batch, windows.close(new.key))
        return WAITS_IN_WINDOW

    def _close(self, batch: Reservation, closing: Closing) -> None:
        windows = self.windows
        assert windows is not None
        batch.undo_by(windows.put_back, [*closing.events, *(released.waiting for released in closing.released)])
        for released in closing.released:
            self._leave(batch, released.waiting, Verdict(OutcomeKind.FILTERED, released.reason))
        if closing.events:
            batch.closed.append(closing)

    def reopen(self, closing: Closing) -> None:
        """Return its events to their window."""
        if self.windows is not None:
            self.windows.put_back(closing.events)

    def _leave(self, batch: Reservation, event: WaitingEvent, verdict: Verdict) -> None:
        stored = batch.waiting.pop(event.id, None) is None
        batch.claims.leave(event, spent=True)
        batch.left.append(Left(event, verdict, stored))

    # --- after the trigger method ---

    def offer(self, batch: Reservation, run: PendingRun, now: float, of_letter: str | None = None) -> Verdict | None:
        """None: the run has its slot (`running`) or its place in the queue (`waiting`).

        `of_letter` is the run whose dead letter it comes from: that run's cooldown does not apply.
        """
        if (verdict := self.refuses(batch, run, now, of_letter)) is not None:
            return verdict
        admission = self.admission
        if self._singleton is not None and (verdict := self._alone(batch, run)) is not None:
            return verdict
        if admission.enter(run, now):
            if run.cooldown is not None:
                self.cooldowns.take(*run.cooldown, run.run_id, now)
        else:
            if admission.full() and (verdict := self._overflow(batch, in_window=False)) is not None:
                return verdict
            run.status, run.started = RunStatus.WAITING, ()
            admission.wait(run)
        batch.undo_by(self.withdraw, run)
        batch.starts[run.run_id] = run
        batch.claims.take(run)
        return None

    def offer_all(self, batch: Reservation, runs: Sequence[PendingRun], now: float) -> None:
        """`offer` for all runs of a batch of a `plain` trigger, which hold their claims already."""
        admission = self.admission
        if at_once := min(len(runs), admission.at_once()):
            admission.occupy_some(at_once)
            batch.undo_by(admission.occupy_some, -at_once)
            batch.starts.update([(run.run_id, run) for run in runs[:at_once]])
        for run in runs[at_once:]:
            self.offer(batch, run, now)

    def refuses(self, batch: Reservation, run: PendingRun, now: float, of_letter: str | None = None) -> Verdict | None:
        """The verdict of the gates at which no run waits: tick overlap and cooldown."""
        admission = self.admission
        if self._skips_overlap and (admission.in_flight or admission.waiting):
            return Verdict(OutcomeKind.FILTERED, OVERLAP, None, next(reversed(batch.starts), None))
        if self._cooldown_s is not None:
            key = run.key or ""
            cooling = self.cooldowns.of(key, now)
            if cooling is not None and cooling.run_id != of_letter:
                return cooling_down(cooling, run.key, now)
            if cooling is not None:
                batch.undo_by(self.cooldowns.take, key, cooling.until, cooling.run_id, now)
                self.cooldowns.drop(key, cooling.run_id)
            run.cooldown = (key, now + self._cooldown_s)
        return None

    def _alone(self, batch: Reservation, run: PendingRun) -> Verdict | None:
        """Singleton: one run per key is live or waits, this one (`cancel`: the latest wins) or the earlier one."""
        key, mode = run.key, self._singleton
        assert key is not None
        holder = self.admission.holder(key)
        if holder is None:
            return None
        if mode == "cancel":
            self._supersede(batch, run, key)
            return None
        facts = {"key": key, "run": holder}
        if mode == "error":
            error = SingletonTaken(f"{self._rules.trigger}: {LIVE_ALREADY}: {holder}")
            return Verdict(OutcomeKind.DEAD, LIVE_ALREADY, facts, holder, error)
        kind = OutcomeKind.DUPLICATE if mode == "return_existing" else OutcomeKind.FILTERED
        return Verdict(kind, LIVE_ALREADY, facts, holder)

    def _supersede(self, batch: Reservation, run: PendingRun, key: str) -> None:
        admission = self.admission
        for queued in [*admission.queued(key)]:
            if queued.attempt > 1:  # it has begun and waits for its retry
                batch.replaced.append((run.run_id, queued.run_id))
                continue
            facts = {"key": key, "by": run.event_id}
            self._take_out(batch, queued, Verdict(OutcomeKind.FILTERED, SUPERSEDED, facts, run.run_id))
        if (live := admission.running(key)) is not None:
            batch.replaced.append((run.run_id, live))

    def _take_out(self, batch: Reservation, run: PendingRun, verdict: Verdict) -> None:
        """Take the run out of the queue."""
        self.admission.remove(run)
        batch.undo_by(self.admission.put_back, run)
        stored = batch.starts.pop(run.run_id, None) is None
        batch.claims.leave(run, spent=True)
        batch.left.append(Left(run, verdict, stored))

    def _overflow(self, batch: Reservation, *, in_window: bool) -> Verdict | None:
        """The verdict on an event for which the queue has no place; None if it is taken all the same."""
        rules = self._rules
        if rules.strategy == "drop_newest":
            return Verdict(OutcomeKind.DROPPED, QUEUE_FULL)
        if rules.strategy == "reject":
            error = QueueFull(f"{rules.trigger}: {QUEUE_FULL} ({rules.queue_size} events wait)")
            return Verdict(OutcomeKind.DEAD, QUEUE_FULL, error=error)
        if rules.strategy == "drop_oldest":
            dropped = Verdict(OutcomeKind.DROPPED, QUEUE_FULL)
            if not in_window and (oldest := self.admission.oldest()) is not None:
                self._take_out(batch, oldest, dropped)
            elif in_window and self.windows is not None and (event := self.windows.drop_oldest()) is not None:
                batch.undo_by(self.windows.put_back, [event])
                self._leave(batch, event, dropped)
        return None

    # --- what the store made of it ---

    def commit(self, batch: Reservation, refused: Collection[str]) -> None:
        """The batch is stored, except the runs and waiting events of these ids, which return what they took."""
        for id in refused:
            if (run := batch.starts.get(id)) is not None:
                self.withdraw(run)
            elif (event := batch.waiting.get(id)) is not None and self.windows is not None:
                self.windows.remove(event)

    def withdraw(self, run: PendingRun) -> None:
        """The run was admitted or queued and starts nothing: it uses up nothing."""
        if run.status is _RUNNING:
            self.give_up(run)
        else:
            self.admission.remove(run)

    def give_up(self, run: PendingRun) -> None:
        """The run has its slot but will not begin."""
        self.admission.refund(run)
        self.admission.leave(run)
        if run.cooldown is not None:
            self.cooldowns.drop(run.cooldown[0], run.run_id)

    # --- runs and moments ---

    def ended(self, run: PendingRun, *, keep_turn: bool = False) -> None:
        """An attempt is over; with `keep_turn` the run waits for its retry and no other of its key starts."""
        self.admission.leave(run, keep_turn)

    def begins(self, now: float) -> Iterator[PendingRun | Left]:
        """The queued runs that may begin, each with its slot, and those that a cooldown drops."""
        while (run := self.admission.next(now)) is not None:
            if run.attempt == 1 and self._cooldown_s is not None:
                key = run.key or ""
                cooling = self.cooldowns.of(key, now)
                if cooling is not None and cooling.run_id != run.run_id:
                    self.admission.refund(run)
                    self.admission.leave(run)
                    yield Left(run, cooling_down(cooling, run.key, now), stored=True)
                    continue
                run.cooldown = (key, now + self._cooldown_s)
                self.cooldowns.take(key, run.cooldown[1], run.run_id, now)
            yield run

    def due(self, batch: Reservation, now: float) -> None:
        """Close the windows that are due."""
        if self.windows is not None:
            for closing in self.windows.close_due(now):
                self._close(batch, closing)

    def next_due(self) -> float | None:
        """When something is due without further input; None if never."""
        window_at = None if self.windows is None else self.windows.next_due()
        return min([at for at in (window_at, self.admission.opens_at()) if at is not None], default=None)

    def forget(self, key: str | None) -> None:
        """Reset the rate, open periods and cooldown of this key, or of all."""
        self.admission.forget(key)
        self.leading.forget(key)
        self.cooldowns.forget(key)


def cooling_down(cooldown: Cooldown, key: str | None, now: float) -> Verdict:
    """A run of this key started too recently."""
    facts: dict[str, Any] = {"run": cooldown.run_id, "opens_in_s": round(cooldown.until - now, 3)}
    return Verdict(OutcomeKind.FILTERED, COOLING, facts if key is None else {**facts, "key": key}, cooldown.run_id)
