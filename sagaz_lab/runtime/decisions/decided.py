"""What the decision loop made of a batch; nothing of it holds until the store has taken it."""

from __future__ import annotations

from asyncio import Future
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from sagaz_lab.abc import (
    Acceptance,
    DeadLetter,
    KeptEvent,
    Member,
    Publication,
    Redriven,
    Refusal,
    Spent,
    WaitingEvent,
)  # fmt: skip
from sagaz_lab.errors import QueueFull
from sagaz_lab.model.event import Event
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.model.variables import origin
from sagaz_lab.runtime.decisions.prepared import Prepared, first_of
from sagaz_lab.runtime.gates.leading_debounce import PeriodsBefore
from sagaz_lab.runtime.gates.pending_run import NOTHING, PendingRun
from sagaz_lab.runtime.gates.window_policies import Closing, Released
from sagaz_lab.runtime.outbox.publications import publication_of
from sagaz_lab.runtime.triggers.compiled import TriggerState
from sagaz_lab.runtime.triggers.dead_letters import dead_letter, letter_id
from sagaz_lab.runtime.triggers.outcomes import Entry, outcome

TAKEN, CAME = "its key is taken", "it has come before"
QUEUE_FULL = "the queue is full"
COOLING = "cooling down"
RETURNED_NONE = "returned None"


class Row(NamedTuple):
    """The event of this number came behind the run `holder`, or behind one that waits so itself ("").

    `holder` has its declared key (`by_key`) or its id. `latest` is the newest run before it.
    """

    number: int
    holder: str
    by_key: bool
    latest: str


class Behind:
    """Events of a batch that came behind another with one of their claims; what became of that is not known yet.

    `redriven` are their dead letters, `part` is the composite's that they are of. What is `outrun` has lost its place,
    and with it its claims, to the later run that is named. `is_rest`: they are all from one on, since a window or a
    period may take what is before them for another's; they are decided together.
    """

    __slots__ = ("is_rest", "outrun", "part", "prepared", "redriven", "rows")

    def __init__(self, prepared: Prepared, part: int = 0, *, is_rest: bool = False) -> None:
        self.prepared = prepared
        self.part = part
        self.is_rest = is_rest
        self.rows: list[Row] = []
        self.redriven: Mapping[str, Redriven] = {}
        self.outrun: dict[str, str] = {}

    def keep_letters(self, redriven: Mapping[str, Redriven]) -> Mapping[str, Redriven]:
        """Of these letters those of the other events: each is settled together with its event."""
        mine = {self.prepared.sent[row.number].id for row in self.rows}
        self.redriven = {id: letter for id, letter in redriven.items() if id in mine}
        return {id: letter for id, letter in redriven.items() if id not in mine}

    def split(self, accepted: Collection[str]) -> tuple[Sequence[Row], Sequence[Sequence[Row]]]:
        """Those whose holder had the claim when they came, and the others, each by itself."""
        if self.is_rest:
            return (), (self.rows,)
        duplicates, others = list[Row](), list[Sequence[Row]]()
        for row in self.rows:
            by = self.outrun.get(row.holder)
            had = row.holder in accepted if by is None else _place(row.latest) < _place(by)
            duplicates.append(row) if had else others.append([row])
        return duplicates, others


class Decided:
    """Of one trigger. `entries` say what became of the events, `starts` are the runs to be accepted.

    `waiting` stand in a window, `released` do not any more, `with_run` of them because of the run in `starts`;
    `closings` are windows that they have filled, and `superseded` has what they take the place of. `replaced` pairs
    runs of `starts` with those whose place they take, by id. Listeners hear of `filtered` and `dropped`. `spent` are
    claims of ids that nobody is to have; `redriven` are dead letters by the id of their event, one of those decided.
    Where somebody is `answered`, `finals` has the outcomes to come of what waits. Deciding `events` took `took_s`.
    `of_runs` names, by id, the runs whose events have been through their window already. What is `behind` another event
    of the batch that has its claim is not decided yet; nor are the runs, each with its dead letter, which found one of
    the batch as their `rivals`. `origin` is the context in which its runs execute.
    """

    __slots__ = (
        "_dead_entries",
        "answered",
        "behind",
        "closings",
        "dropped",
        "entries",
        "events",
        "filtered",
        "finals",
        "kept",
        "letters",
        "of_runs",
        "origin",
        "periods",
        "reasons",
        "redriven",
        "released",
        "replaced",
        "rivals",
        "spent",
        "starts",
        "state",
        "superseded",
        "took_s",
        "waiting",
        "with_run",
    )  # fmt: skip

    def __init__(self, state: TriggerState, redriven: Mapping[str, Redriven] = NOTHING) -> None:
        self.state = state
        self.origin = origin()  # as it is before the user's code sets variables
        self.redriven = redriven
        self.spent: list[Spent] = []
        self._dead_entries: dict[str, Entry] = {}
        self.entries: list[Entry] = []
        self.starts: list[PendingRun] = []
        self.letters: list[DeadLetter] = []
        self.dropped: list[Event] = []
        self.filtered: list[tuple[Event, str]] = []
        self.kept: list[KeptEvent] = []
        self.waiting: list[WaitingEvent] = []
        self.released: list[WaitingEvent] = []
        self.with_run: list[WaitingEvent] = []
        self.closings: list[Closing] = []
        self.superseded: list[tuple[WaitingEvent, Sequence[Released]]] = []
        self.replaced: list[tuple[str, str]] = []
        self.reasons: dict[tuple[str, str], int] = {}
        self.took_s = 0.0
        self.events = 0
        self.periods: PeriodsBefore = {}
        self.of_runs: Mapping[str, str] = NOTHING
        self.behind: Behind | None = None
        self.rivals: list[tuple[PendingRun, Redriven | None]] = []
        self.answered = False
        self.finals: list[Future[Outcome]] = []

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
        """The method returned None for the events of these ids: all share an entry."""
        filtered, of = OutcomeKind.FILTERED.value, ids[0] if len(ids) == 1 else tuple(ids)
        revision = self.state.compiled.definition.revision
        self.entries.append((filtered, RETURNED_NONE, of, self.state.name, None, revision, at, None))
        key = (filtered, RETURNED_NONE)
        self.reasons[key] = self.reasons.get(key, 0) + len(ids)

    def measured(self, took_s: float, events: int) -> None:
        """The method has taken so long for so many events."""
        self.took_s, self.events = took_s, events
        self.state.admission.batch_size.learn(events, len(self.starts), took_s)

    def note(self, event: Event, kind: OutcomeKind, reason: str, at: float, run_id: str | None = None) -> None:
        """Keep the event with its outcome, if the trigger is to; remember whom to tell of it."""
        compiled = self.state.compiled
        if compiled.config.persist_events:
            until = at + compiled.config.event_retention_days * 86400.0
            self.kept.append(KeptEvent(self._alone(event), self.state.name, kind.value, reason, run_id, until))
        if kind is OutcomeKind.FILTERED and "on_trigger_filtered" in compiled.definition.hooks:
            self.filtered.append((self._alone(event), reason))

    def _alone(self, event: Event) -> Event:
        """The event by itself: of a run's list the last, whose id it has."""
        if event.id in self.of_runs and self.state.compiled.together and isinstance(event.payload, list):
            return event.with_payload(event.payload[-1])
        return event

    def dead(self, event: Event, error: BaseException, at: float, claim: str | None) -> DeadLetter:
        """`claim` is that of the event's id, which is the letter's from now on. A run's letter stays one."""
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
        """The store did not take these letters: their events had come before."""
        for letter in [letter for letter in self.letters if letter.id in refused]:
            self.letters.remove(letter)
            if (entry := self._dead_entries.pop(letter.id, None)) is not None:
                self.entries.remove(entry)
                self.reasons[OutcomeKind.DEAD.value, letter.cause] -= 1
                self.reasons = {reason: times for reason, times in self.reasons.items() if times}
                self.duplicate(refused[letter.id], letter.event, at, by_key=False)

    def duplicate(self, first: Refusal | str, event: Event, at: float, *, by_key: bool) -> None:
        """`first`, a run's id or what the store says, has its declared key (`by_key`) or its id."""
        run_id = first.first_run if isinstance(first, Refusal) else first
        reason, count_as = taken_by(first, by_key=by_key), TAKEN if by_key else CAME
        self.add(OutcomeKind.DUPLICATE, reason, event, at, count_as=count_as, run_id=run_id)

    def bury(
        self, event: Event, error: BaseException, claim: str | None, taken: dict[str, Refusal | str], now: float
    ) -> None:
        """A dead letter, unless the event has come before."""
        if claim is None:
            self.dead(event, error, now, None)
        elif claim in taken:
            self.duplicate(taken[claim], event, now, by_key=False)
        else:
            taken[claim] = Refusal(letter=self.dead(event, error, now, claim).id)

    def taken(
        self, taken: dict[str, Refusal | str], claims: tuple[str | None, str | None], prepared: Prepared, i: int,
        at: float,
    ) -> None:  # fmt: skip
        """A duplicate of what the store has; of what came with it, that is still to be seen."""
        first, by_key = first_of(taken, *claims), claims[0] not in taken
        if isinstance(first, Refusal):
            self.duplicate(first, prepared.kept(i), at, by_key=by_key)
            return
        if self.behind is None:
            self.behind = Behind(prepared)
        self.behind.rows.append(Row(i, first, by_key, self.starts[-1].run_id))
        for claim in claims:  # it may yet have them
            if claim is not None:
                taken.setdefault(claim, "")

    def leave(self, prepared: Prepared, first: int, part: int) -> None:
        """Those from this number on are decided once it is known what became of those before them."""
        self.behind = Behind(prepared, part, is_rest=True)
        self.behind.rows = [Row(i, "", False, "") for i in range(first, len(prepared.events))]

    def is_rival(self, pending: PendingRun) -> None:
        """Another run of the batch is to be the singleton of its key; whether it comes to that is not known yet."""
        letter = self.redriven.get(pending.event_id)
        if letter is not None:
            self.redriven = {id: other for id, other in self.redriven.items() if other is not letter}
        self.rivals.append((pending, letter))

    def outrun(self, earlier: str, by: str) -> None:
        """A run of the batch makes room for a later one."""
        if self.behind is not None:
            self.behind.outrun[earlier] = by

    def spend(self, claim: str | None, at: float) -> None:
        """A later event has taken the place of the one with this id, so that its redelivery is not wanted."""
        if claim is not None:
            self.spent.append(Spent(self.state.name, claim, self.state.compiled.spent_until(at)))

    def overflow(self, event: Event, at: float, claim: str | None, *, rejected: bool) -> None:
        """The queue is full: the event is dropped, or rejected to the dead letters."""
        if rejected:
            state = self.state
            self.dead(event, QueueFull(f"{state.name}: {QUEUE_FULL} ({state.admission.size} events wait)"), at, claim)
        else:
            self.dropped.append(event)
            self.add(OutcomeKind.DROPPED, QUEUE_FULL, event, at)

    def refused(self, refusal: Refusal, event: Event, key: str | None, at: float, claim: str | None) -> None:
        """The store did not take it: another process, or another batch, was first."""
        if refusal.cooling_until is not None:
            self.cooling(refusal, event, key, at)
        elif refusal.error is None:
            has_key = self.state.compiled.trigger.gates.idempotency_key is not None  # a run has its id and its key
            self.duplicate(refusal, event, at, by_key=has_key)
        else:
            self.dead(event, refusal.error, at, claim)

    def cooling(self, refusal: Refusal, event: Event, key: str | None, at: float) -> None:
        """A run of this key has started too short a time ago."""
        self.add(OutcomeKind.FILTERED, COOLING, event, at, cooling_facts(refusal, key, at))

    def join(self, other: Decided) -> None:
        """Add what became of other events of the same trigger."""
        self.entries += other.entries
        self.letters += other.letters
        self._dead_entries.update(other._dead_entries)
        self.kept += other.kept
        self.filtered += other.filtered
        for key, times in other.reasons.items():
            self.reasons[key] = self.reasons.get(key, 0) + times

    def spread(self, members: Sequence[Member], at: float) -> None:
        """What became of the event that stands for a window became of its other events too: started, they belong to
        its run; else each has its own outcome and letter, in the order in which they came."""
        for pending in self.starts:
            pending.members = members
            until = at + self.state.compiled.config.event_retention_days * 86400.0
            self.kept += [KeptEvent(it.event, self.state.name, "started", "", pending.run_id, until) for it in members]
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


def _place(id: str) -> int:
    """In which order they were begun: of one process the ids count up."""
    return int(id.rpartition("-")[2])


def cooling_facts(refusal: Refusal, key: str | None, at: float) -> dict[str, Any]:
    """The numbers behind `COOLING`."""
    facts = {"run": refusal.first_run, "opens_in_s": round((refusal.cooling_until or at) - at, 3)}
    return facts if key is None else {**facts, "key": key}


def taken_by(first: Refusal | str, *, by_key: bool) -> str:
    """The reason of a duplicate, which names the first run and the cure."""
    said, by, name = (TAKEN, "by", "key") if by_key else (CAME, "as", "id")
    if isinstance(first, Refusal) and first.first_run is None:
        if first.letter is not None:
            return (f"{said} {by} dead letter {first.letter}; lab.redrive({first.letter!r}) decides it again "
                    f"if the letter is open, and lab.forget(trigger, {name}) frees it if not")  # fmt: skip
        if first.spent:
            return "it has come before, and a later event took its place"
        return f"{TAKEN} by an event that waits" if by_key else f"{CAME} and waits"
    run = first.first_run if isinstance(first, Refusal) else first
    if isinstance(first, Refusal) and first.first_status is not None:
        run = f"{run} ({first.first_status})"
    return f"{said} {by} run {run}; lab.forget(trigger, {name}) frees it"


def acceptance(decisions: Sequence[Decided]) -> Acceptance:
    """All that one transaction takes in."""
    batch = Acceptance()
    dead: list[DeadLetter] = []
    kept: list[KeptEvent] = []
    waiting: list[WaitingEvent] = []
    released: list[str] = []
    released_with: dict[str, str] = {}
    publications: list[Publication] = []
    spent: list[Spent] = []
    redriven: list[Redriven] = []
    for decided in decisions:
        batch.runs += decided.starts
        spent += decided.spent
        redriven += decided.redriven.values()
        kept += decided.kept
        waiting += decided.waiting
        released += [waiting.id for waiting in decided.released]
        if decided.starts:
            released_with.update((waiting.id, decided.starts[0].run_id) for waiting in decided.with_run)
        if decided.letters:
            letters = letters_only(decided.state, decided.letters)
            dead += letters.dead
            publications += letters.publications
    batch.dead, batch.kept, batch.waiting = dead, kept, waiting
    batch.released, batch.released_with, batch.publications = released, released_with, publications
    batch.spent, batch.redriven = spent, redriven
    return batch


def letters_only(state: TriggerState, letters: Sequence[DeadLetter]) -> Acceptance:
    """Dead letters, and what is published of them."""
    topic = state.compiled.config.dead_letter_topic
    publications = [] if topic is None else [publication_of(letter, topic) for letter in letters]
    return Acceptance(dead=letters, publications=publications)
