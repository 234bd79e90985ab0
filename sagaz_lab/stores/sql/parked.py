"""Parks publications that a broker refused, and those behind them, until their dead letters are settled."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sagaz_lab.stores.sql.transactions import Transactions


def park_refused(it: Transactions, numbers: Sequence[int], letters: Sequence[tuple[Any, ...]]) -> None:
    """Insert the dead letters' rows and remove the owner of these publications."""
    it.connection.executemany(it.sql["insert_letter"], letters)
    it.connection.executemany(it.sql["park_publication"], [(number, it.epoch) for number in numbers])


def park_behind(it: Transactions, rows: Sequence[tuple[int, str]]) -> Collection[str]:
    """Park publications of runs that already have a parked one; returns these runs."""
    parked = {run_id for (run_id,) in it.connection.execute(it.sql["parked_runs"])}
    behind = [(number, it.epoch) for number, run_id in rows if run_id in parked]
    it.connection.executemany(it.sql["park_publication"], behind)
    return parked & {run_id for _, run_id in rows}


def settle_refused(
    it: Transactions, ids: Sequence[str], state: str, reason: str | None, payloads: Mapping[str, bytes]
) -> Collection[str]:
    """Settle the open dead letters of parked publications and unpark these. Returns the dead letters' ids."""
    execute, sql = it.connection.execute, it.sql
    found = execute(sql["parked_publications"], (it.driver.texts(ids),)).fetchall()
    for letter, publication, _ in found:
        if state == "discarded":
            execute(sql["delete_publication"], (publication,))
        elif letter in payloads:
            execute(sql["replace_payload"], (payloads[letter], publication))
        execute(sql["settle_letter"], (state, reason, letter))
    if found:
        publications, runs = [row[1] for row in found], [row[2] for row in found if row[2]]
        execute(sql["release_publications"], (it.epoch, it.driver.texts(publications), it.driver.texts(runs)))
    return {letter for letter, _, _ in found}
