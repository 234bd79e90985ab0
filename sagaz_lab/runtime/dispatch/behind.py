"""Events of a batch that came behind another with one of their claims: decided once it is known what became of that."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sagaz_lab.abc import Redriven, Refusal
from sagaz_lab.runtime.decisions.decided import Decided, Row
from sagaz_lab.runtime.dispatch.insisting import insist
from sagaz_lab.runtime.gates.pending_run import PendingRun

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatch.dispatcher import Dispatcher


Rivals = Sequence[tuple[PendingRun, Redriven | None]]
Settled = tuple[Decided, Mapping[str, Refusal]]
"""And which of it the store has refused."""


async def decide_behind(
    dispatcher: Dispatcher, decisions: Sequence[Decided], refused: Mapping[str, Refusal], now: float
) -> Sequence[Decided]:
    """What the store has taken is decided; this decides what came behind it.

    Behind a run that was accepted all are duplicates. Behind one that never was they are decided one by one.
    """
    found: list[Decided] = []
    todo = deque((before, refused) for before in decisions)
    while todo:
        before, refused = todo.popleft()
        if before.rivals or before.behind:
            accepted = {it.run_id for it in before.starts} - refused.keys()
            try:
                settled = await _settle(dispatcher, before, accepted, now)
            except BaseException:
                left = sum(pending.size for pending, _ in before.rivals)
                left += len(before.behind.rows) if before.behind is not None else 0
                before.state.counters.deciding -= left
                before.state.counters.received -= left
                raise
            found += [decided for decided, _ in settled]
            todo.extendleft(reversed(settled))
    return found


async def _settle(dispatcher: Dispatcher, before: Decided, accepted: set[str], now: float) -> Sequence[Settled]:
    """Of one trigger. What is settled is left behind no more, and may have left others behind."""
    found: list[Settled] = []
    while before.rivals:
        decided, refused = await _take(dispatcher, before, partial(_of_rivals, before, before.rivals), now)
        before.rivals, decided.rivals = decided.rivals, []  # where the first one never was either
        accepted |= {it.run_id for it in decided.starts} - refused.keys()
        found.append((decided, refused))
    if (behind := before.behind) is not None:
        if behind.is_rest:
            await dispatcher.window_timers.decided(before.state.name)  # which may free a claim
        duplicates, groups = behind.split(accepted)
        for rows in [duplicates, *groups] if duplicates else groups:
            make = partial(_of_rows, dispatcher, before, rows, rows is duplicates, now)
            found.append(await _take(dispatcher, before, make, now))
            behind.rows = behind.rows[len(rows) :]  # from here on it only counts how many are left
    return found


async def _take(dispatcher: Dispatcher, before: Decided, make: Callable[[], Awaitable[Decided]], now: float) -> Settled:
    """The batch has been taken, so that these are too, however long the store is away."""
    found: list[Settled] = []

    async def accept() -> None:
        decided = await make()
        decided.of_runs, decided.answered = before.of_runs, before.answered
        decided.origin = before.origin
        try:
            found.append((decided, await dispatcher.accept([decided], now)))
        except BaseException:
            before.state.leading.take_back(decided.periods)
            raise

    await insist(dispatcher, accept, f"an event of {before.state.name}")
    decided, refused = found[0]
    await dispatcher.apply(decided, refused, now)
    return found[0]


async def _of_rivals(before: Decided, rivals: Rivals) -> Decided:
    decided = Decided(before.state, {pending.event_id: letter for pending, letter in rivals if letter is not None})
    decided.starts = [pending for pending, _ in rivals]
    return decided


async def _of_rows(
    dispatcher: Dispatcher, before: Decided, rows: Sequence[Row], are_duplicates: bool, now: float
) -> Decided:
    behind = before.behind
    assert behind is not None
    ids = {behind.prepared.sent[row.number].id for row in rows}
    decided = Decided(before.state, {id: letter for id, letter in behind.redriven.items() if id in ids})
    if are_duplicates:
        for row in rows:
            decided.duplicate(row.holder, behind.prepared.kept(row.number), now, by_key=row.by_key)
    else:
        prepared = behind.prepared.only([row.number for row in rows])
        await dispatcher.decider.decide_prepared(decided, prepared, behind.part, now, rest=behind.is_rest)
        if decided.behind is not None:
            decided.redriven = decided.behind.keep_letters(decided.redriven)
    return decided
