"""What is stored of one event: found through its claims, without a look at every run."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from sagaz_lab.stores.connection import NOW, connect_to_read, unavailable
from sagaz_lab.stores.statements import statements
from sagaz_lab.stores.translation import text

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
    holders = select("claimants", json.dumps(triggers), json.dumps([text(claim) for claim in claims]))
    held = [holder for holder, kind in holders if kind == "held"]
    runs = [holder for holder, kind in holders if kind == "id"]
    rows = [
        *select("outcomes_of_runs", json.dumps(runs)),
        *select("outcomes_of_held", json.dumps(held)),
        *select("outcomes_of_newest", ALL if everywhere else NEWEST, id),
        *select("outcomes_of_dead", id),
        *select("outcomes_of_kept", id),
    ]
    outcomes = [(event_id, *row) for row in sorted(dict.fromkeys(rows), key=lambda row: row[-1], reverse=True)]
    wanted = {row[4] for row in outcomes if row[4] is not None} | set(run_ids)
    return outcomes, select("runs_by_id", json.dumps(sorted(wanted)))
