"""What is stored of one event: found through its claims, without a look at every run."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sagaz_lab.stores.sql.connection import NOW, connect_to_read, unavailable
from sagaz_lab.stores.sql.damage import as_json, shown
from sagaz_lab.stores.sql.statements import statements
from sagaz_lab.stores.sql.translation import text

NEWEST = 2_000
"""Runs that are looked at one by one: that of an event without a claim is found among these."""

ALL = 1 << 62

About = tuple[Sequence[Sequence[Any]], Sequence[Sequence[Any]]]


def read_about(path: Path, event_id: str, claims: Collection[str], run_ids: Collection[str], everywhere: bool) -> About:
    """See `Store.about`."""
    if not path.exists():
        return [], []
    try:
        with closing(connect_to_read(path)) as connection:
            return _about(connection, event_id, claims, run_ids, everywhere)
    except sqlite3.Error as error:
        raise unavailable(path, error) from error


def _about(
    connection: sqlite3.Connection,
    event_id: str,
    claims: Collection[str],
    run_ids: Collection[str],
    everywhere: bool,
) -> About:
    def select(name: str, *values: Any) -> list[tuple[Any, ...]]:
        return connection.execute(statements(NOW)[name], values).fetchall()

    id = text(event_id)
    triggers = [name for (name,) in select("claim_triggers")]
    holders = select("claimants", as_json(triggers), as_json(map(text, claims)))
    waiting = [holder for holder, kind in holders if kind == "waiting"]
    runs = [holder for holder, kind in holders if kind == "id"]
    rows = [
        *select("outcomes_of_runs", as_json(runs)),
        *select("outcomes_of_waiting", as_json(waiting)),
        *select("outcomes_of_newest", ALL if everywhere else NEWEST, id),
        *select("outcomes_of_dead", id),
        *select("outcomes_of_kept", id),
    ]
    outcomes = [(event_id, *row) for row in sorted(dict.fromkeys(rows), key=lambda row: row[-1], reverse=True)]
    found = select("runs_by_id", as_json({*(row[4] for row in outcomes), *run_ids}))
    return [tuple(map(shown, row)) for row in outcomes], [tuple(map(shown, row)) for row in found]
