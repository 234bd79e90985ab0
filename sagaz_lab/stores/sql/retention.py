"""Deletes rows past their retention, a bounded number at a time."""

from __future__ import annotations

import os

from sagaz_lab.model.run import RESTARTABLE
from sagaz_lab.stores.sql.transactions import RECORDS_PER_RUN, Transactions
from sagaz_lab.stores.values.artifacts import Artifacts

AT_ONCE = 500
"""Runs, events or dead letters deleted per heartbeat: a transaction of a few milliseconds."""

_OWNERS_S = 86400.0


_MEMBERS_AT_ONCE = 10_000
"""After this many claims of members, a heartbeat deletes no more runs."""


def drop_expired(transactions: Transactions, artifacts: Artifacts, retention_s: float) -> bool:
    """Delete ended runs with their data and settled dead letters older than this, and kept events past their time.

    Runs that need a person (held, partially committed, failed compensations) and waiting events stay. Returns whether
    there may be more to delete.

    Files are deleted first: after a crash the remaining rows still name them.
    """
    connection, sql = transactions.connection, transactions.sql
    more = _drop_runs(transactions, artifacts, retention_s)
    for name in ("expired_orphans", "expired_cooldowns"):
        more |= connection.execute(sql[name], (AT_ONCE,)).rowcount >= AT_ONCE
    for name, values in (
        ("expired_events", (AT_ONCE,)),
        ("expired_letters", (retention_s, AT_ONCE)),
        ("drop_folders", (AT_ONCE,)),
    ):
        dropped = connection.execute(sql[name], values).fetchall()
        for (folder,) in dropped:
            if folder is not None:
                artifacts.remove(folder)
        more |= len(dropped) >= AT_ONCE
    connection.execute(sql["forget_owners"], (_OWNERS_S,))
    return more


def _drop_runs(transactions: Transactions, artifacts: Artifacts, retention_s: float) -> bool:
    connection, sql = transactions.connection, transactions.sql
    members, artifacts_there = 0, os.path.lexists(artifacts.root)
    expired = connection.execute(sql["expired_runs"], (retention_s, AT_ONCE)).fetchall()
    for number, run_id, trigger, claim, declared, status in expired:
        if artifacts_there:
            artifacts.remove(run_id)
        first = number * RECORDS_PER_RUN
        connection.execute(sql["delete_records"], (first, first + RECORDS_PER_RUN))
        connection.execute(sql["delete_run"], (number,))
        outlives = status not in RESTARTABLE
        for mine, outlives_run in ((claim, True), (declared, outlives)):
            if mine is not None:
                key = (trigger or "", mine, run_id)
                if not (outlives_run and connection.execute(sql["orphan_claim"], key).rowcount):
                    connection.execute(sql["delete_claim_of"], key)
        members += free_members(transactions, number, trigger or "", run_id, ids_outlive=True, keys_outlive=outlives)
        if members > _MEMBERS_AT_ONCE:
            return True
    return len(expired) >= AT_ONCE


def free_members(
    transactions: Transactions, number: int, trigger: str, run_id: str, *, ids_outlive: bool, keys_outlive: bool
) -> int:
    """Free the claims of a run's members, except those that outlive the run. Returns how many."""
    connection, sql = transactions.connection, transactions.sql
    count: int = connection.execute(sql["count_members"], (number,)).fetchone()[0]
    if count:
        if ids_outlive:
            connection.execute(sql["orphan_members"], (trigger, number, run_id, keys_outlive))
        connection.execute(sql["free_members"], (trigger, number, run_id))
        connection.execute(sql["delete_members"], (number,))
    return count
