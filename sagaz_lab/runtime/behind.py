"""Events of a batch that came behind another with one of their claims: decided once it is known what became of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sagaz_lab.abc import Refusal
from sagaz_lab.runtime.decided import Behind, Decided, Row
from sagaz_lab.runtime.insisting import insist

if TYPE_CHECKING:
    from sagaz_lab.runtime.dispatcher import Dispatcher


async def decide_behind(
    dispatcher: Dispatcher, decisions: Sequence[Decided], refused: Mapping[str, Refusal], now: float
) -> Sequence[Decided]:
    """What the store has taken is decided; this decides what came behind it.

    Behind a run that was accepted all are duplicates. Behind one that never was they are decided one by one.
    """
    found: list[Decided] = []
    for before in decisions:
        if (behind := before.behind) is not None:
            accepted = {it.run_id for it in before.starts} | {held.id for held in before.held}
            duplicates, groups = behind.split(accepted - refused.keys())
            left = len(behind.rows)
            try:
                for rows in [duplicates, *groups] if duplicates else groups:
                    known = rows is duplicates
                    found.append(await _decide(dispatcher, before, behind, rows, known=known, now=now))
                    left -= len(rows)
            except BaseException:
                before.state.counters.deciding -= left
                before.state.counters.received -= left
                raise
    return found


async def _decide(
    dispatcher: Dispatcher, before: Decided, behind: Behind, rows: Sequence[Row], *, known: bool, now: float
) -> Decided:
    """The batch has been taken, so that these are too, however long the store is away."""
    ids = {behind.prepared.sent[row.number].id for row in rows}
    redriven = {id: letter for id, letter in behind.redriven.items() if id in ids}
    found: list[tuple[Decided, Mapping[str, Refusal]]] = []

    async def accept() -> None:
        decided = Decided(before.state, redriven)
        decided.of_runs, decided.answered = before.of_runs, before.answered
        if known:
            for row in rows:
                first = Refusal() if row.holder.startswith("h-") else row.holder
                decided.duplicate(first, behind.prepared.kept(row.number), now, by_key=row.by_key)
        else:
            prepared = behind.prepared.only([row.number for row in rows])
            await dispatcher.decider.decide_prepared(decided, prepared, behind.part, now)
        found.append((decided, await dispatcher.accept([decided], now)))

    await insist(dispatcher, accept, f"an event of {before.state.name}")
    decided, refused = found[0]
    await dispatcher.apply(decided, refused, now)
    return decided
