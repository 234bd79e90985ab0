"""What has outlived its time is dropped, a bounded number of rows at a time."""

from __future__ import annotations

from sagaz_lab.model.run import RESTARTABLE
from sagaz_lab.stores.artifacts import Artifacts
from sagaz_lab.stores.transactions import RECORDS_PER_RUN, Transactions

AT_ONCE = 500
"""Runs, events or letters that one heartbeat drops; a transaction of a few milliseconds."""

_OWNERS_S = 86400.0


def drop_expired(transactions: Transactions, artifacts: Artifacts, retention_s: float) -> None:
    """Drop ended runs with all that is theirs, kept events and settled letters older than this.

    Runs that wait for a person (held, partially committed, failed compensations) stay.

    Files go first: what a crash leaves is then found again by the rows that name it.
    """
    connection, sql = transactions.connection, transactions.sql
    for number, run_id, trigger, claim, status in connection.execute(
        sql["expired_runs"], (retention_s, AT_ONCE)
    ).fetchall():
        artifacts.remove(run_id)
        first = number * RECORDS_PER_RUN
        connection.execute(sql["delete_records"], (first, first + RECORDS_PER_RUN))
        connection.execute(sql["delete_run"], (number,))
        if claim is not None:
            key = (trigger or "", claim, run_id)
            outlives = status not in RESTARTABLE and connection.execute(sql["orphan_claim"], key).rowcount
            if not outlives:
                connection.execute(sql["delete_claim_of"], key)
    connection.execute(sql["expired_orphans"], (AT_ONCE,))
    for name in ("expired_events", "expired_letters"):
        for (folder,) in connection.execute(sql[name], (retention_s, AT_ONCE)).fetchall():
            if folder is not None:
                artifacts.remove(folder)
    connection.execute(sql["forget_owners"], (_OWNERS_S,))
