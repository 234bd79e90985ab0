"""The claims of the memory store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from sagaz_lab.abc import KEY_MARK, Redriven, Refusal, WaitingEvent
from sagaz_lab.model.run import RESTARTABLE, RunStatus
from sagaz_lab.stores.memory.runs import MemoryRun
from sagaz_lab.stores.sql.claims import CLAIM_ENDED

CLAIMS = 1_000_000
"""Maximum claims per trigger, about 200 MB; beyond it the oldest are dropped, a thousand at a time."""

_TOGETHER = 100
"""Claims taken together: many, since they share an object, but few enough for a quick scan."""


class Taken:
    """Claims of one trigger taken together by runs, until the same time.

    There may be a million claims, most of runs no longer kept, so the claims of a batch share an object.
    """

    __slots__ = ("_all", "_claims", "_gone", "_runs", "until")

    def __init__(
        self, all_claims: dict[str, Holder], until: float | None, claims: tuple[str, ...], runs: tuple[str, ...]
    ) -> None:
        self.until = until
        self._all = all_claims
        # Tuples of strings, which the garbage collector untracks.
        self._claims, self._runs = claims, runs
        self._gone = 0

    def lose(self) -> None:
        """One of them was freed or taken over. Repacks once most are gone, to release memory."""
        self._gone += 1
        if 2 * self._gone > len(self._claims):
            still = [pair for pair in zip(self._claims, self._runs, strict=True) if self._all.get(pair[0]) is self]
            self._claims, self._runs = zip(*still, strict=True) if still else ((), ())
            self._gone = 0

    def __len__(self) -> int:
        return len(self._claims) - self._gone

    def first(self) -> str:
        """The first of their runs, or "" if there is none."""
        return self._runs[0] if self._runs else ""

    def run_of(self, claim: str) -> str:
        return self._runs[self._claims.index(claim)]


class OfDeadLetter(NamedTuple):
    """A claim held by a dead letter."""

    letter: str
    until: float | None


Holder = Taken | str | OfDeadLetter | float
"""The holder of a claim: a run, a waiting event (by id), a dead letter, or a time until which it is spent."""


def drop(claims: dict[str, Holder], claim: str) -> None:
    """Free the claim."""
    if isinstance(holder := claims.pop(claim, None), Taken):
        holder.lose()


class Claims:
    """By trigger, then by claim. A run missing from `runs` has completed."""

    def __init__(self, runs: Mapping[str, MemoryRun]) -> None:
        self._runs = runs
        self._by_trigger: defaultdict[str, dict[str, Holder]] = defaultdict(dict)

    def seen(self, trigger: str, claims: Sequence[str], at: float) -> dict[str, Refusal]:
        """The taken ones."""
        known = self._by_trigger.get(trigger)
        if not known or known.keys().isdisjoint(claims):
            return {}
        said = ((claim, self.refusal(trigger, claim, at)) for claim in claims)
        return {claim: refusal for claim, refusal in said if refusal is not None}

    def refusal(self, trigger: str, claim: str, at: float) -> Refusal | None:
        """The refusal for another taker; None if the claim is free."""
        holder = self._by_trigger[trigger].get(claim)
        if holder is None:
            return None
        if isinstance(holder, str):
            return Refusal()
        if isinstance(holder, float):
            return None if holder <= at else Refusal(spent=True)
        if holder.until is not None and holder.until <= at:
            return None
        if isinstance(holder, OfDeadLetter):
            return Refusal(letter=holder.letter)
        run_id = holder.run_of(claim)
        run = self._runs.get(run_id)
        if run is None:
            return Refusal(run_id, RunStatus.COMPLETED if claim.startswith(KEY_MARK) else None)
        free = CLAIM_ENDED if run.declared_ends else RESTARTABLE
        return None if claim.startswith(KEY_MARK) and run.status in free else Refusal(run_id, run.status)

    def of(self, trigger: str) -> Collection[str]:
        """All claims taken now or before."""
        return self._by_trigger[trigger]

    def counts(self) -> dict[str, int]:
        """The number of claims taken by runs, now or before, by trigger."""
        found = {trigger: sum(isinstance(holder, Taken) for holder in claims.values())
                 for trigger, claims in self._by_trigger.items()}  # fmt: skip
        return {trigger: n for trigger, n in found.items() if n}

    def take(self, trigger: str, until: float | None, runs: Mapping[str, str]) -> None:
        """Take new claims for their runs."""
        known = self._by_trigger[trigger]
        pairs = iter(runs.items())
        while some := list(islice(pairs, _TOGETHER)):
            claims, ids = zip(*some, strict=True)
            known.update(dict.fromkeys(claims, Taken(known, until, claims, ids)))
        self._bound(known)

    def take_over(self, trigger: str, until: float | None, claim: str, run_id: str) -> None:
        """Take a claim for the run from any holder."""
        drop(self._by_trigger[trigger], claim)  # so that it counts as the youngest
        self.take(trigger, until, {claim: run_id})

    def wait(self, trigger: str, claims: Sequence[str], event_id: str, at: float) -> Refusal | None:
        """Take claims for a waiting event."""
        for claim in claims:
            if (refusal := self.refusal(trigger, claim, at)) is not None:
                return refusal
        for claim in claims:
            self._put(trigger, claim, event_id)
        return None

    def release(self, trigger: str, claims: Sequence[str], event_id: str) -> None:
        """The event has stopped waiting."""
        known = self._by_trigger[trigger]
        for claim in claims:
            if known.get(claim) == event_id:
                del known[claim]

    def fill(self, trigger: str, claim: str, holder: OfDeadLetter | float) -> None:
        """Set the holder of a free claim."""
        if claim not in self._by_trigger[trigger]:
            self._put(trigger, claim, holder)

    def bury(self, trigger: str, claim: str, letter: OfDeadLetter, at: float) -> Refusal | None:
        """Take a claim for a dead letter."""
        refusal = self.refusal(trigger, claim, at)
        if refusal is None or refusal.letter == letter.letter:
            self._put(trigger, claim, letter)
            return None
        return refusal

    def leave(self, trigger: str, claim: str, letter: str, run_id: str | None) -> None:
        """Free the claim of the dead letter or its run."""
        holder = self._by_trigger[trigger].get(claim)
        mine = holder.letter if isinstance(holder, OfDeadLetter) else None
        if mine == letter or (isinstance(holder, Taken) and holder.run_of(claim) == run_id):
            drop(self._by_trigger[trigger], claim)

    def give_back(self, redriven: Sequence[Redriven]) -> None:
        """Return untaken claims of redriven events to their dead letters."""
        for letter, trigger, claim, _, until in redriven:
            self.fill(trigger, claim, OfDeadLetter(letter, until))

    def _put(self, trigger: str, claim: str, holder: Holder) -> None:
        known = self._by_trigger[trigger]
        drop(known, claim)  # so that it counts as the youngest
        known[claim] = holder
        self._bound(known)

    def _bound(self, known: dict[str, Holder]) -> None:
        while len(known) > CLAIMS:
            for old in list(islice(known, 1000)):
                drop(known, old)

    def withdraw(self, run: MemoryRun, spent_until: float | None = None) -> None:
        """Free the claims of a withdrawn run. Those of ids are spent until the time, if given."""
        for claim in run.claims():
            if self._is_of(run, claim):
                drop(self._by_trigger[run.trigger], claim)
                if spent_until is not None and not claim.startswith(KEY_MARK):
                    self._put(run.trigger, claim, spent_until)

    def outlive(self, run: MemoryRun) -> None:
        """Drop an ended run: claims of ids outlive it, and those of declared keys unless they are free."""
        if run.declared_ends or run.status in RESTARTABLE:
            for claim in run.claims():
                if claim.startswith(KEY_MARK) and self._is_of(run, claim):
                    drop(self._by_trigger[run.trigger], claim)

    def cut(self, shifts: Mapping[str, float], now: float) -> int:
        """Shorten the claims of these runs by seconds; claims taken together share one end. Returns how many."""
        count = 0
        for taken in {id(it): it for known in self._by_trigger.values() for it in known.values()}.values():
            if isinstance(taken, Taken) and taken.until is not None and taken.until > now and taken.first() in shifts:
                taken.until -= shifts[taken.first()]
                count += len(taken)
        return count

    def _is_of(self, run: MemoryRun, claim: str) -> bool:
        holder = self._by_trigger[run.trigger].get(claim)
        return isinstance(holder, Taken) and holder.run_of(claim) == run.run_id

    def forget(self, trigger: str, key: str | None) -> int:
        """Free the id and declared key with this text, or all, except those of waiting events. Returns how many."""
        claims = self._by_trigger.get(trigger, {})
        if key is not None:
            mine = [it for it in (key, KEY_MARK + key) if it in claims and not isinstance(claims[it], str)]
            for claim in mine:
                drop(claims, claim)
            return len(mine)
        waiting: dict[str, Holder] = {claim: holder for claim, holder in claims.items() if isinstance(holder, str)}
        self._by_trigger[trigger] = waiting
        return len(claims) - len(waiting)


def claims_of(waiting: WaitingEvent) -> list[str]:
    return [claim for claim in (waiting.claim, waiting.declared) if claim is not None]
