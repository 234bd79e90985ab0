"""The gates that stand before the trigger method: the period of a leading debounce, and windows."""

from __future__ import annotations

from collections.abc import Iterator

from sagaz_lab.abc import Refusal, WaitingEvent
from sagaz_lab.model.run import OutcomeKind
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.prepared import Prepared
from sagaz_lab.runtime.gates.window_policies import IN_PERIOD


def lead(
    decided: Decided, prepared: Prepared, taken: dict[str, Refusal | str], steady: float, now: float, *, quiet: bool
) -> Prepared:
    """What is left when that is filtered which falls into a period that an earlier event has opened."""
    state = decided.state
    passed: list[int] = []
    read = state.compiled.leading_key
    for i, _, subject, claim, declared in prepared.each():
        if claim not in taken and declared not in taken:
            try:
                key = None if read is None else read(subject)
            except BaseException as error:
                decided.bury(prepared.kept(i), error, claim, taken, now)
                continue
            closes_in_s = state.leading.closes_in(key, steady)
            shut = closes_in_s > 0 if quiet else not state.leading.opens(key, steady, decided.periods)
            # The period may be the one that a dead letter's event has opened itself.
            if shut and prepared.sent[i].id not in decided.redriven:
                facts = {"key": key, "closes_in_s": round(closes_in_s, 3)}
                decided.add(OutcomeKind.FILTERED, IN_PERIOD, prepared.kept(i), now, facts)
                continue
        passed.append(i)
    return prepared.only(passed)


def wait(
    decided: Decided, prepared: Prepared, taken: dict[str, Refusal | str], part: int, steady: float, now: float,
    ids: Iterator[str],
) -> None:  # fmt: skip
    """Have them wait in their windows, once the store has them."""
    state = decided.state
    read = state.compiled.window_key
    for i, _, subject, claim, declared in prepared.each():
        event = prepared.kept(i)
        if claim in taken or declared in taken:
            decided.taken(taken, (claim, declared), prepared, i, now)
            continue
        try:
            key = None if read is None else read(subject)
        except BaseException as error:
            decided.bury(event, error, claim, taken, now)
            continue
        id = next(ids).replace("r-", "h-", 1)
        decided.waiting.append(WaitingEvent(id, state.name, key, part, event, claim, steady, declared))
