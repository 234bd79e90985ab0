"""The decisions on a batch, which hold only once the store has accepted them."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sagaz_lab.abc import DeadLetter, KeptEvent, Member, Redriven, Refusal, Spent, WaitingEvent
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.model.variables import origin
from sagaz_lab.runtime.decisions.prepared import Prepared
from sagaz_lab.runtime.decisions.seen import CAME, HANGS, SPENT, TAKEN, WAITING_ID, WAITS, Seen, taken_by
from sagaz_lab.runtime.gates.cooldowns import Cooldown
from sagaz_lab.runtime.gates.core import cooling_down
from sagaz_lab.runtime.gates.pending_run import NOTHING, PendingRun
from sagaz_lab.runtime.gates.reservation import Reservation, Verdict
from sagaz_lab.runtime.triggers.dead_letters import dead_letter, letter_id
from sagaz_lab.runtime.triggers.outcomes import Entry, outcome
from sagaz_lab.runtime.triggers.state import TriggerState

RETURNED_NONE = "returned None"


class Again(NamedTuple):
    """The outcome of event `number` depends on the run or waiting event `on` of its batch.

    It is that one's duplicate (`by_key`: by its declared key), or a gate's verdict depends on it. If the store refuses
    that one, the event is decided again; so is one that depends on another such event (`on` is `HANGS`).
    """

    on: str
    prepared: Prepared
    number: int
    verdict: Verdict | None = None
    by_key: bool = False

    @property
    def size(self) -> int:
        """Number of events."""
        return 1 + len(self.prepared.members)

    def claims(self) -> Sequence[str]:
        """The claims of its event, or of its window's events."""
        prepared, number = self.prepared, self.number
        declared = None if prepared.declared is None else prepared.declared[number]
        found = [prepared.claims[number], declared]
        found += [claim for member in prepared.members for claim in (member.claim, member.declared)]
        return [claim for claim in found if claim is not None]


def _certainty(found: tuple[Refusal | str, bool]) -> int:
    """Of several that have the claims of an event: first what the store has, then a run or event of the batch."""
    return 0 if isinstance(found[0], Refusal) else 1 + (found[0] is HANGS)


class Decided:
    """The decisions of one trigger. `batch` has what it took from the gates; `entries` are the outcomes.

    `released` no longer wait in the store's windows, `with_run` of them because of the run paired with each;
    `withdrawn` no longer wait in the queue. `filtered` and `dropped` are for the listeners. `spent` are claims of ids
    that nothing may take again; `redriven` are dead letters by the id of their event, which is among those decided. If
    a caller is to be `answered`, `finals` has the pending outcomes of what waits, by event. Deciding `events` of them
    took `took_s`. `of_runs` names, by id, the runs whose events have passed their window already. Events to be settled
    `again` have no outcome yet, and the dead letters `left_open` that they come from stay open. `origin` is the context
    in which its runs execute; if contexts are `mixed`, that of the event being decided.
    """

    __slots__ = ("_dead_entries", "again", "answered", "batch", "dropped", "entries", "events", "filtered", "finals",
                 "kept", "left_open", "letters", "mixed", "of_runs", "origin", "reasons", "redriven", "released",
                 "seen", "spent", "state", "took_s", "with_run", "withdrawn")  # fmt: skip

    def __init__(
        self, state: TriggerState, redriven: Mapping[str, Redriven] = NOTHING, batch: Reservation | None = None
    ) -> None:
        self.state = state
        self.origin = origin()  # before the user's code sets variables
        self.mixed = False
        self.redriven = redriven
        self.left_open: Mapping[str, Redriven] = NOTHING
        self.seen = Seen()
        self.batch = Reservation(self.seen) if batch is None else batch
        self.spent: list[Spent] = []
        self._dead_entries: dict[str, Entry] = {}
        self.entries: list[Entry] = []
        self.letters: list[DeadLetter] = []
        self.dropped: list[Event] = []
        self.filtered: list[tuple[Event, str]] = []
        self.kept: list[KeptEvent] = []
        self.released: list[WaitingEvent] = []
        self.with_run: list[tuple[WaitingEvent, str]] = []
        self.withdrawn: list[tuple[PendingRun, Verdict]] = []
        self.reasons: dict[tuple[str, str], int] = {}
        self.took_s = 0.0
        self.events = 0
        self.of_runs: Mapping[str, str] = NOTHING
        self.again: list[Again] = []
        self.answered = False
        self.finals: dict[str, Future[Outcome]] = {}

    @property
    def starts(self) -> Collection[PendingRun]:
        """Its runs, running or queued."""
        return self.batch.starts.values()

    def add(
        self,
        kind: OutcomeKind,
        reason: str,
        event: Event,
        at: float,
        facts: Mapping[str, Any] | None = None,
        *,
        count_as: str | None = None,
        run_id: str | None = None,
    ) -> None:
        revision = self.state.compiled.definition.revision
        self.entries.append((kind.value, reason, event.id, self.state.name, run_id, revision, at, facts))
        key = (kind.value, count_as or reason)
        self.reasons[key] = self.reasons.get(key, 0) + 1
        self.note(event, kind, reason, at, run_id)

    def add_nones(self, ids: list[str], at: float) -> None:
        """The method returned None for the events of these ids: they share an entry."""
        if not ids:
            return
        filtered, of = OutcomeKind.FILTERED.value, ids[0] if len(ids) == 1 else tuple(ids)
        revision = self.state.compiled.definition.revision
        self.entries.append((filtered, RETURNED_NONE, of, self.state.name, None, revision, at, None))
        key = (filtered, RETURNED_NONE)
        self.reasons[key] = self.reasons.get(key, 0) + len(ids)

    def measured(self, took_s: float, events: int, starts: int) -> None:
        """Add the time and the counts of one pass of the method."""
        self.took_s += took_s
        self.events += events
        self.state.core.admission.batch_size.learn(events, starts, took_s)

    def note(self, event: Event, kind: OutcomeKind, reason: str, at: float, run_id: str | None = None) -> None:
        """Keep the event with its outcome, if the trigger does so; note the listeners to call."""
        compiled = self.state.compiled
        if compiled.config.persist_events:
            until = at + compiled.config.event_retention_days * 86400.0
            self.kept.append(KeptEvent(self._alone(event), self.state.name, kind.value, reason, run_id, until))
        if kind is OutcomeKind.FILTERED and "on_trigger_filtered" in compiled.definition.hooks:
            self.filtered.append((self._alone(event), reason))

    def _alone(self, event: Event) -> Event:
        """The event by itself: for a run's list the last one, whose id the run has."""
        if event.id in self.of_runs and self.state.compiled.together and isinstance(event.payload, list):
            return event.with_payload(event.payload[-1])
        return event

    def dead(self, event: Event, error: BaseException, at: float, claim: str | None) -> DeadLetter:
        """`claim` is that of the event's id, which passes to the letter. A run's letter stays the run's."""
        letter = dead_letter(self.state, event, error, at)
        letter.run_id = self.of_runs.get(event.id)
        self._bury(letter, claim, at)
        self.add(OutcomeKind.DEAD, letter.error, event, at, count_as=letter.cause)
        self._dead_entries[letter.id] = self.entries[-1]
        return letter

    def _bury(self, letter: DeadLetter, claim: str | None, at: float) -> None:
        if claim is not None:
            letter.claim, letter.claim_until = claim, at + self.state.compiled.id_ttl_s
        self.letters.append(letter)

    def not_dead(self, refused: Mapping[str, Refusal], at: float) -> None:
        """The store refused these letters: their events had come before."""
        for letter in [letter for letter in self.letters if letter.id in refused]:
            self.letters.remove(letter)
            if (entry := self._dead_entries.pop(letter.id, None)) is not None:
                self.entries.remove(entry)
                self.reasons[OutcomeKind.DEAD.value, letter.cause] -= 1
                self.reasons = {reason: times for reason, times in self.reasons.items() if times}
                self.duplicate(refused[letter.id], letter.event, at, by_key=False)

    def duplicate(self, first: Refusal | str, event: Event, at: float, *, by_key: bool) -> None:
        """`first` has its declared key (`by_key`) or its id: the store's answer, or a run or waiting event."""
        if isinstance(first, str) and first.startswith(WAITING_ID):
            first = WAITS
        run_id = first.first_run if isinstance(first, Refusal) else first
        reason, count_as = taken_by(first, by_key=by_key), TAKEN if by_key else CAME
        self.add(OutcomeKind.DUPLICATE, reason, event, at, count_as=count_as, run_id=run_id)

    def bury(self, event: Event, error: BaseException, claim: str | None, now: float) -> None:
        """Make a dead letter, unless the event has come before."""
        if claim is None:
            self.dead(event, error, now, None)
        elif (first := self.seen.get(claim, HANGS)) is not HANGS:
            self.duplicate(first, event, now, by_key=False)
        else:
            self.seen[claim] = Refusal(letter=self.dead(event, error, now, claim).id)

    def taken(self, prepared: Prepared, number: int, claims: tuple[str | None, str | None], at: float) -> None:
        """A duplicate of a stored event, or of one in this batch."""
        found = [(self.seen[claim], claim is claims[1]) for claim in claims if claim is not None and claim in self.seen]
        first, by_key = min(found, key=_certainty)
        if isinstance(first, str):
            self._hang(Again(first, prepared, number, by_key=by_key))
        else:
            self.duplicate(first, prepared.kept(number), at, by_key=by_key)

    def _hang(self, again: Again) -> None:
        self.again.append(again)
        for claim in again.claims():
            self.seen.setdefault(claim, HANGS)

    def say(self, verdict: Verdict, prepared: Prepared, number: int, at: float) -> None:
        """Record a gate's verdict on the event."""
        if verdict.run_id in self.batch.starts:
            self._hang(Again(verdict.run_id or "", prepared, number, verdict))
            return
        event = prepared.kept(number)
        if verdict.error is not None:
            self.dead(event, verdict.error, at, prepared.claims[number])
            return
        if verdict.kind is OutcomeKind.DROPPED:
            self.dropped.append(event)
        run_id = verdict.run_id if verdict.kind is OutcomeKind.DUPLICATE else None
        self.add(verdict.kind, verdict.reason, event, at, verdict.facts, run_id=run_id)

    def settle(self, it: Again, at: float) -> None:
        """What it depended on was accepted, so it stands."""
        if it.verdict is None:
            self.duplicate(it.on, it.prepared.kept(it.number), at, by_key=it.by_key)
            return
        own = self.beside()
        own.say(it.verdict, it.prepared, it.number, at)
        self.close(own, it.prepared, at)

    def beside(self) -> Decided:
        """For other events of the same batch, which take from the same gates."""
        own = Decided(self.state, self.redriven, self.batch)
        own.seen, own.of_runs, own.origin, own.mixed = self.seen, self.of_runs, self.origin, self.mixed
        return own

    def take_out(self, events: Sequence[WaitingEvent]) -> Sequence[WaitingEvent]:
        """Events of a window that is being decided give up their claims. Returns those that are stored."""
        waiting, stored = self.batch.waiting, []
        for event in events:
            self.seen.leave(event, spent=False)
            if waiting.pop(event.id, None) is None:
                stored.append(event)
        return stored

    def close(self, own: Decided, prepared: Prepared, at: float) -> None:
        """The outcome of a window's event applies to all its events. Started ones belong to the run; those to be
        settled again stay stored until then.
        """
        if not own.again:
            self.released += prepared.window
            if own.entries:
                own.spread(prepared.members, at)
            elif prepared.members or prepared.window:
                run_id = next(reversed(self.batch.starts))
                until = at + self.state.compiled.config.event_retention_days * 86400.0
                self.with_run += [(event, run_id) for event in prepared.window]
                self.kept += [KeptEvent(it.event, self.state.name, "started", "", run_id, until)
                              for it in prepared.members]  # fmt: skip
        self.join(own)

    def settle_left(self, at: float) -> None:
        """Record the outcome of events and runs that no longer wait. A redelivery would count as the newest, so their
        ids are spent.
        """
        for left in self.batch.left:
            waited = left.waited
            if isinstance(waited, PendingRun):
                if left.stored:
                    self.withdrawn.append((waited, left.verdict))
                    continue
                self.unkeep(waited)
                events = waited.claimed()
            else:
                events = [(waited.event, waited.claim)]
                if left.stored:
                    self.released.append(waited)
            for event, claim in events:
                if left.verdict.kind is OutcomeKind.DROPPED:
                    self.dropped.append(event)
                self.add(left.verdict.kind, left.verdict.reason, event, at, left.verdict.facts)
                self.spend(claim, at)
        self.batch.left = []
        if self.again and self.redriven:
            mine = {it.prepared.sent[it.number].id for it in self.again}
            self.left_open = {id: letter for id, letter in self.redriven.items() if id in mine}
            self.redriven = {id: letter for id, letter in self.redriven.items() if id not in mine}

    def unkeep(self, run: PendingRun) -> None:
        """Its members were kept as having started it, but it does not start."""
        if run.members:
            self.kept = [kept for kept in self.kept if kept.run_id != run.run_id]

    def spend_filtered(self, verdict: Verdict, claim: str | None, at: float) -> None:
        """Spend the id of an event that its window refused as out of turn or expected."""
        if verdict.kind is OutcomeKind.FILTERED and claim is not None:
            self.spend(claim, at)
            self.seen[claim] = SPENT

    def spend(self, claim: str | None, at: float) -> None:
        """A later event superseded the one with this id: its redelivery is a duplicate."""
        if claim is not None:
            self.spent.append(Spent(self.state.name, claim, self.state.compiled.spent_until(at)))

    def refused(self, refusal: Refusal, event: Event, key: str | None, at: float, claim: str | None) -> None:
        """The store refused it: another process, or another batch, was first."""
        if refusal.cooling_until is not None:
            said = cooling_down(Cooldown(refusal.cooling_until, refusal.first_run or ""), key, at)
            self.add(said.kind, said.reason, event, at, said.facts)
        elif refusal.error is None:
            has_key = self.state.compiled.trigger.gates.idempotency_key is not None  # a run has its id and its key
            self.duplicate(refusal, event, at, by_key=has_key)
        else:
            self.dead(event, refusal.error, at, claim)

    def join(self, other: Decided) -> None:
        """Add the decisions on other events of the same trigger."""
        self.entries += other.entries
        self.letters += other.letters
        self._dead_entries.update(other._dead_entries)
        self.kept += other.kept
        self.filtered += other.filtered
        self.dropped += other.dropped
        self.spent += other.spent
        self.again += other.again
        for key, times in other.reasons.items():
            self.reasons[key] = self.reasons.get(key, 0) + times

    def absorb(self, own: Decided) -> None:
        """Add the decisions on an event that was decided beside its batch."""
        self.join(own)
        self.released += own.released
        self.with_run += own.with_run
        self.withdrawn += own.withdrawn

    def spread(self, members: Sequence[Member], at: float) -> None:
        """The outcome of a window's event applies to its other events: each has its own entry and dead letter, in order
        of arrival.
        """
        for own in [outcome(entry) for entry in self.entries]:
            like = self.letters.pop() if self.letters else None
            for member in members:
                if like is not None:
                    self._bury(replace(like, id=letter_id(), event=member.event, claim=None), member.claim, at)
                self.add(own.kind, own.reason, member.event, at, own.facts, run_id=own.run_id,
                         count_as=like.cause if like else None)  # fmt: skip
                if like is not None:
                    self._dead_entries[self.letters[-1].id] = self.entries[-1]
            if like is not None:
                self.letters.append(like)
