"""Who has the claims, in the memory store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice

from sagaz_lab.abc import Refusal
from sagaz_lab.model.run import RESTARTABLE, RunStatus
from sagaz_lab.stores.claims import CLAIM_ENDED
from sagaz_lab.stores.memory_runs import MemoryRun

CLAIMS = 1_000_000
"""Claims of a trigger that are kept, about 200 MB; past it the oldest go, a thousand at a time."""

_TOGETHER = 100
"""Claims that are taken together: many, since they share an object, but soon looked through."""


class Taken:
    """Claims of one trigger that runs have taken together, until the same time.

    There may be a million claims, most of them of runs that are not kept any more: so those of a batch share an object.
    """

    __slots__ = ("_all", "_claims", "_gone", "_runs", "until")

    def __init__(
        self, all_claims: dict[str, Holder], until: float | None, claims: tuple[str, ...], runs: tuple[str, ...]
    ) -> None:
        self.until = until
        self._all = all_claims
        # Tuples of texts, which the garbage collector leaves alone once it has seen them.
        self._claims, self._runs = claims, runs
        self._gone = 0

    def lose(self) -> None:
        """One of them is another's now, or nobody's. What most have left is packed anew, so that it keeps no more."""
        self._gone += 1
        if 2 * self._gone > len(self._claims):
            still = [pair for pair in zip(self._claims, self._runs, strict=True) if self._all.get(pair[0]) is self]
            self._claims, self._runs = zip(*still, strict=True) if still else ((), ())
            self._gone = 0

    def __len__(self) -> int:
        return len(self._claims) - self._gone

    def first(self) -> str:
        """The first of their runs, or an empty text."""
        return self._runs[0] if self._runs else ""

    def run_of(self, claim: str) -> str:
        return self._runs[self._claims.index(claim)]


Holder = Taken | str
"""Who has a claim: a run, or (its id) an event that is held."""


def drop(claims: dict[str, Holder], claim: str) -> None:
    """Nobody has it any more."""
    if isinstance(holder := claims.pop(claim, None), Taken):
        holder.lose()


class Claims:
    """By trigger, then by claim. `runs` are those that are kept: any other has completed."""

    def __init__(self, runs: Mapping[str, MemoryRun]) -> None:
        self._runs = runs
        self._by_trigger: defaultdict[str, dict[str, Holder]] = defaultdict(dict)

    def seen(self, trigger: str, claims: Sequence[str], at: float) -> dict[str, Refusal]:
        """Which of them are taken."""
        known = self._by_trigger.get(trigger)
        if not known or known.keys().isdisjoint(claims):
            return {}
        said = ((claim, self.refusal(trigger, claim, at)) for claim in claims)
        return {claim: refusal for claim, refusal in said if refusal is not None}

    def refusal(self, trigger: str, claim: str, at: float) -> Refusal | None:
        """What another who wants the claim is told; None if it is free."""
        holder = self._by_trigger[trigger].get(claim)
        if isinstance(holder, str):
            return Refusal()
        if holder is None or (holder.until is not None and holder.until <= at):
            return None
        run_id = holder.run_of(claim)
        run = self._runs.get(run_id)
        if run is None:
            return Refusal(run_id, RunStatus.COMPLETED)
        free = CLAIM_ENDED if run.claim_ends else RESTARTABLE
        return None if run.status in free else Refusal(run_id, run.status)

    def of(self, trigger: str) -> Collection[str]:
        """All that somebody has or has had."""
        return self._by_trigger[trigger]

    def counts(self) -> dict[str, int]:
        """By trigger, how many runs have or have had."""
        found = {trigger: sum(isinstance(holder, Taken) for holder in claims.values())
                 for trigger, claims in self._by_trigger.items()}  # fmt: skip
        return {trigger: n for trigger, n in found.items() if n}

    def take(self, trigger: str, until: float | None, runs: Mapping[str, str]) -> None:
        """Take these for their runs. Nobody has had any of them."""
        known = self._by_trigger[trigger]
        pairs = iter(runs.items())
        while some := list(islice(pairs, _TOGETHER)):
            claims, ids = zip(*some, strict=True)
            known.update(dict.fromkeys(claims, Taken(known, until, claims, ids)))
        while len(known) > CLAIMS:
            for old in list(islice(known, 1000)):
                drop(known, old)

    def take_over(self, trigger: str, until: float | None, claim: str, run_id: str) -> None:
        """Take one for the run, whoever had it before."""
        drop(self._by_trigger[trigger], claim)  # so that it counts as the youngest
        self.take(trigger, until, {claim: run_id})

    def hold(self, trigger: str, claim: str, held_id: str, at: float) -> Refusal | None:
        """Take it for an event that is held."""
        refusal = self.refusal(trigger, claim, at)
        if refusal is None:
            drop(self._by_trigger[trigger], claim)
            self._by_trigger[trigger][claim] = held_id
        return refusal

    def release(self, trigger: str, claim: str, held_id: str) -> None:
        """The event is not held any more."""
        claims = self._by_trigger[trigger]
        if claims.get(claim) == held_id:
            del claims[claim]

    def withdraw(self, run: MemoryRun) -> None:
        """Free those of a run that goes."""
        claims = self._by_trigger[run.trigger]
        for claim in run.claims():
            holder = claims.get(claim)
            if isinstance(holder, Taken) and holder.run_of(claim) == run.run_id:
                drop(claims, claim)

    def outlive(self, run: MemoryRun) -> None:
        """The run has ended and is not kept any more: if it has completed its claims remember it, else they go."""
        if run.claim_ends or run.status in RESTARTABLE:
            self.withdraw(run)

    def cut(self, shifts: Mapping[str, float], now: float) -> int:
        """Those of these runs end so many seconds earlier. How many there are; those taken together have one end."""
        count = 0
        for taken in {id(it): it for known in self._by_trigger.values() for it in known.values()}.values():
            if isinstance(taken, Taken) and taken.until is not None and taken.until > now and taken.first() in shifts:
                taken.until -= shifts[taken.first()]
                count += len(taken)
        return count

    def forget(self, trigger: str, claim: str | None) -> int:
        """Free one, or all, but for those of held events. How many there were."""
        claims = self._by_trigger.get(trigger, {})
        if claim is not None:
            if not isinstance(claims.get(claim), Taken):
                return 0
            drop(claims, claim)
            return 1
        still_held: dict[str, Holder] = {claim: holder for claim, holder in claims.items() if isinstance(holder, str)}
        self._by_trigger[trigger] = still_held
        return len(claims) - len(still_held)
