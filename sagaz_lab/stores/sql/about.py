"""Reads the rows of one event through its claims, without scanning all runs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from sagaz_lab.stores.sql.damage import as_text
from sagaz_lab.stores.sql.driver import ALL, Connection, Driver
from sagaz_lab.stores.sql.translation import text

NEWEST = 2_000
"""The newest runs scanned for those of an event without a claim."""

About = tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]]


def read_about(
    driver: Driver, event_id: str, claims: Collection[str], run_ids: Collection[str], everywhere: bool
) -> About:
    """See `ViewStore.about`."""
    with driver.reading() as connection:
        return ([], []) if connection is None else _about(driver, connection, event_id, claims, run_ids, everywhere)


def _about(
    driver: Driver,
    connection: Connection,
    event_id: str,
    claims: Collection[str],
    run_ids: Collection[str],
    everywhere: bool,
) -> About:
    as_texts = driver.texts

    def select(name: str, *values: Any) -> list[tuple[Any, ...]]:
        return connection.execute(driver.sql[name], values).fetchall()

    id = text(event_id)
    triggers = [name for (name,) in select("claim_triggers")]
    holders = select("claimants", as_texts(triggers), as_texts(map(text, claims)))
    waiting = [holder for holder, kind in holders if kind == "waiting"]
    runs = [holder for holder, kind in holders if kind == "id"]
    rows = [
        *select("outcomes_of_runs", as_texts(runs)),
        *select("outcomes_of_waiting", as_texts(waiting)),
        *select("outcomes_of_newest", ALL if everywhere else NEWEST, id),
        *select("outcomes_of_dead", id),
        *select("outcomes_of_kept", id),
    ]
    outcomes = [(event_id, *row) for row in sorted(dict.fromkeys(rows), key=lambda row: row[-1], reverse=True)]
    found = select("runs_by_id", as_texts({*(row[4] for row in outcomes), *run_ids}))
    return [tuple(map(as_text, row)) for row in outcomes], [tuple(map(as_text, row)) for row in found]
