"""Owners and their leases: which process runs what, and when another may take over."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from sagaz_lab.abc import Choose, Owner
from sagaz_lab.errors import TriggersOwned
from sagaz_lab.stores.sql.driver import Connection, Raced
from sagaz_lab.stores.sql.transactions import RECORDS_PER_RUN, Transactions

LEASE_S = 15.0
"""How long a lease lasts after the last heartbeat, by the database's clock."""

TRUSTED = 0.9
"""How much of its lease an owner relies on without renewal; the rest is a margin for its next step."""


@cache
def this_host() -> str:
    """Identifies the scope of process ids: machine, boot and container."""
    parts = [socket.gethostname()]
    for path, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", os.readlink)):
        try:
            parts.append(str(read(Path(path))).strip())
        except OSError:
            continue
    return "/".join(parts)


def started(pid: int) -> str:
    """Start time of the process in ticks since boot, which detects a reused process id; "" if unknown."""
    state, ticks = _stat(pid)
    return "" if state == "Z" else ticks


def is_dead(host: str, pid: int, pid_started: str) -> bool:
    """Whether that process is certainly gone, so that its lease need not run out."""
    if os.name != "posix" or host != this_host():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    state, ticks = _stat(pid)
    return state == "Z" or (ticks != "" and pid_started not in ("", ticks))


def _stat(pid: int) -> tuple[str, str]:
    try:
        # The process name before it may contain spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def enter(connection: Connection, sql: Mapping[str, str], name: str) -> Owner:
    """Register as an owner."""
    id, pid = uuid4().hex, os.getpid()
    row = (id, name, this_host(), pid, started(pid))
    return Owner(id, name, connection.execute(sql["insert_owner"], row).fetchone()[0])


def take_over(
    transactions: Transactions, choose: Choose | None = None
) -> list[tuple[Sequence[Any], list[Sequence[Any]]]]:
    """Fence off all owners that are gone and take over their publications.

    Returns the rows of their unfinished runs selected by `choose`, each with its records' rows.
    """
    connection, sql = transactions.connection, transactions.sql
    for epoch, host, pid, pid_started, lapsed in connection.execute(
        sql["lapsed_owners"], (LEASE_S, transactions.epoch)
    ).fetchall():
        if lapsed:
            connection.execute(sql["fence_lapsed"], (epoch, LEASE_S))
        elif is_dead(host, pid, pid_started):
            connection.execute(sql["fence_owner"], (epoch,))
    connection.execute(sql["take_publications"], (transactions.epoch,))
    runs = connection.execute(sql["live_runs_of_others"]).fetchall()
    if choose is not None:
        taken = set(choose([(run[2], run[3]) for run in runs]))
        runs = [run for run in runs if run[2] in taken]
    connection.executemany(sql["take_run"], [(transactions.epoch, run[0]) for run in runs])
    return [(run, records_of(connection, sql, run[0])) for run in runs]


def records_of(connection: Connection, sql: Mapping[str, str], number: int) -> list[Sequence[Any]]:
    first = number * RECORDS_PER_RUN
    rows: list[Sequence[Any]] = connection.execute(sql["select_records"], (first, first + RECORDS_PER_RUN)).fetchall()
    return rows


def adopt(transactions: Transactions, run_id: str) -> bool:
    """Make the run this owner's, unless a live owner has it."""
    connection, sql = transactions.connection, transactions.sql
    row = connection.execute(sql["run_owner"], (run_id,)).fetchone()
    if row is None:
        return False
    number, owner, ended_at = row
    if ended_at is None and owner != transactions.epoch:
        if _living(transactions, owner) is not None:
            return False
        _fence(transactions, owner)
    connection.execute(sql["adopt_run"], (transactions.epoch, number))
    if owner != transactions.epoch:
        # A run's publications go in order, so new ones must not overtake the pending ones.
        connection.execute(sql["take_publications_of"], (transactions.epoch, owner, run_id))
    return True


def own_triggers(transactions: Transactions, names: Sequence[str]) -> float | None:
    """Make this owner run exactly these triggers. Raises `TriggersOwned`.

    Returns how long ago an owner of any of them was last seen; None if never.
    """
    connection, sql = transactions.connection, transactions.sql
    (last_seen_s,) = connection.execute(sql["last_seen"], (transactions.driver.texts(names),)).fetchone()
    others = dict(connection.execute(sql["trigger_owners"], (transactions.epoch,)).fetchall())
    for name in names:
        living = _living(transactions, others[name]) if name in others else None
        if living is not None:
            raise TriggersOwned(f"{name} is already run by {living}; stop it there first")
    # In the same transaction: an owner with a lapsed lease may wake up at any moment and renew it.
    for epoch in dict.fromkeys(others[name] for name in names if name in others):
        _fence(transactions, epoch)
    connection.execute(sql["disown_triggers"], (transactions.epoch,))
    for name in names:
        if not connection.execute(sql["own_trigger"], (name, transactions.epoch, others.get(name))).rowcount:
            raise Raced
    return None if last_seen_s is None else max(0.0, float(last_seen_s))


def left_waiting(transactions: Transactions) -> dict[str, int]:
    """The number of waiting events by trigger, without the triggers of other live owners."""
    connection, sql = transactions.connection, transactions.sql
    others = dict(connection.execute(sql["trigger_owners"], (transactions.epoch,)).fetchall())
    return {
        name if isinstance(name, str) else repr(name): events
        for name, events in connection.execute(sql["waiting_of_triggers"]).fetchall()
        if name not in others or _living(transactions, others[name]) is None
    }


def _living(transactions: Transactions, epoch: int) -> str | None:
    """The owner's name if it is alive."""
    row = transactions.connection.execute(transactions.sql["owner"], (LEASE_S, epoch)).fetchone()
    if row is None:
        return None
    name, host, pid, pid_started, lapsed = row
    if lapsed or is_dead(host, pid, pid_started):
        return None
    return f"{name} (process {pid} on {host.partition('/')[0]})"


def _fence(transactions: Transactions, epoch: int) -> None:
    """Fence off a dead owner. Raises `Raced` if it has renewed its lease."""
    connection, sql = transactions.connection, transactions.sql
    if not connection.execute(sql["fence_lapsed"], (epoch, LEASE_S)).rowcount:
        if _living(transactions, epoch) is not None:
            raise Raced
        connection.execute(sql["fence_owner"], (epoch,))
