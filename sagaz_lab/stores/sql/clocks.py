"""Corrects times left by a fast clock, which would otherwise last until the wrong time."""

from __future__ import annotations

from collections.abc import Mapping

from sagaz_lab.stores.sql.transactions import RECORDS_PER_RUN, Transactions

SLACK_S = 1.0
"""Smaller clock corrections are harmless."""

PAGE = 1000


def counts_by_kind(cooldowns: int, claims: int, waiting: int) -> Mapping[str, int]:
    """The counts by kind."""
    counts = {"cooldown(s)": cooldowns, "claim(s)": claims, "waiting event(s)": waiting}
    return {what: count for what, count in counts.items() if count}


def put_clock_right(it: Transactions, now: float) -> tuple[float, Mapping[str, int]]:
    """See `Store.put_clock_right`."""
    connection, sql = it.connection, it.sql
    cooldowns = connection.execute(sql["cut_cooldowns"], (now, now + SLACK_S)).rowcount
    waiting = connection.execute(sql["cut_waiting"], (now, now + SLACK_S)).rowcount
    before, latest, claims = 1 << 62, now, 0
    while True:
        # Runs started after now are among the newest.
        rows = connection.execute(sql["newest_runs"], (before, PAGE)).fetchall()
        ahead = [row for row in rows if row[5] > now + SLACK_S]
        for seq, trigger, claim, declared, run_id, started_at, ended_at in ahead:
            latest = max(latest, started_at)
            values = (now, started_at, trigger or "", claim, declared, seq, run_id)
            claims += connection.execute(sql["cut_claims"], values).rowcount
            shift_s = (started_at if ended_at is None else ended_at) - now
            connection.execute(sql["shift_run"], (shift_s, shift_s, seq))
            first = seq * RECORDS_PER_RUN
            connection.execute(sql["shift_records"], (shift_s, first, first + RECORDS_PER_RUN))
        if not ahead:
            return latest - now, counts_by_kind(cooldowns, claims, waiting)
        before = rows[-1][0]
