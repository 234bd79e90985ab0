"""Transfers claims of withdrawn runs, dead letters and superseded events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sagaz_lab.abc import NewRun, Redriven, Refusal, Spent
from sagaz_lab.stores.sql.retention import free_members
from sagaz_lab.stores.sql.transactions import Transactions
from sagaz_lab.stores.sql.translation import text


class DeadLetterRow(NamedTuple):
    """A dead letter to insert; `claim` is its trigger, claim, id and until."""

    values: Sequence[Any]
    claim: tuple[str, str, str, float | None] | None
    at: float


def withdraw(it: Transactions, withdrawn: Mapping[str, float | None]) -> None:
    """Remove waiting runs that never started. Frees their claims; those of ids are spent until the time, if given."""
    connection, sql = it.connection, it.sql
    for run_id, spent_until in withdrawn.items():
        row = connection.execute(sql["waiting_run"], (run_id,)).fetchone()
        if row is None:
            continue
        number, trigger, claim, declared = row
        trigger = trigger or ""
        if spent_until is not None:
            connection.execute(sql["spend_claim_of"], (spent_until, trigger, claim, run_id))
            connection.execute(sql["spend_members"], (spent_until, trigger, number, run_id))
        connection.execute(sql["delete_run"], (number,))
        for mine in (claim, declared):
            connection.execute(sql["delete_claim_of"], (trigger, mine, run_id))
        free_members(it, number, trigger, run_id, ids_outlive=False, keys_outlive=False)
        it.forget_run(run_id)


def redrive(it: Transactions, redriven: Iterable[Redriven]) -> None:
    """Settle the open dead letters and free their claims for the results."""
    for letter, trigger, claim, run_id, _ in redriven:
        if it.connection.execute(it.sql["settle_letter"], ("redriven", "", letter)).rowcount:
            for holder in (letter, run_id):
                it.connection.execute(it.sql["delete_claim_of"], (trigger, text(claim), holder))


def end_cooldowns(it: Transactions, redriven: Iterable[Redriven], news: Iterable[NewRun]) -> None:
    """End the cooldowns of dead letters' runs for the results of their events."""
    runs = {claim: run_id for _, _, claim, run_id, _ in redriven if run_id is not None}
    for new in news if runs else ():
        if new.cooldown is not None and (run_id := runs.get(new.claim or "")) is not None:
            it.connection.execute(it.sql["delete_cooldown_of"], (new.trigger, text(new.cooldown[0]), run_id))


def give_back(it: Transactions, redriven: Iterable[Redriven]) -> None:
    """Return untaken claims of redriven events to their dead letters."""
    rows = [(trigger, text(claim), letter, until) for letter, trigger, claim, _, until in redriven]
    it.connection.executemany(it.sql["claim_for_letter"], rows)


def spend(it: Transactions, spent: Iterable[Spent]) -> None:
    it.connection.executemany(it.sql["spend_claim"], [(trigger, text(claim), until) for trigger, claim, until in spent])


def bury(it: Transactions, letters: Iterable[DeadLetterRow]) -> dict[str, Refusal]:
    """Insert dead letters with their claims. Returns the refused ones by id; these are not published."""
    connection, sql = it.connection, it.sql
    refused: dict[str, Refusal] = {}
    kept = []
    for values, claim, at in letters:
        if claim is not None and not connection.execute(sql["claim_for_letter"], claim).rowcount:
            letter = claim[2]
            taken, free = it.look_at_claims([(*claim, "letter")], at, letter)
            if taken is not None:
                refused[letter] = taken
                connection.execute(sql["unpublish"], (letter,))
                continue
            it.take_claims(free)
        kept.append(values)
    connection.executemany(sql["insert_letter"], kept)
    return refused
