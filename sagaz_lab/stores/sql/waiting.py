"""Rows of waiting events, and their claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sagaz_lab.abc import Refusal
from sagaz_lab.stores.sql.rows import ClaimRow
from sagaz_lab.stores.sql.transactions import Transactions


class WaitingRow(NamedTuple):
    """A waiting event to insert. `folder` has its files, if any."""

    id: str
    trigger: str
    key: str | None
    part: int
    claim: str | None
    event: bytes
    at: float
    folder: str | None
    declared: str | None

    def claims(self) -> list[ClaimRow]:
        claims = (claim for claim in (self.claim, self.declared) if claim is not None)
        return [(self.trigger, claim, self.id, None, "waiting") for claim in claims]


def wait(transactions: Transactions, rows: Iterable[WaitingRow]) -> Mapping[str, Refusal]:
    """Insert them with their claims. Returns the refused ones by id."""
    connection, sql = transactions.connection, transactions.sql
    refused = {}
    for row in rows:
        taken, claims = transactions.look_at_claims(row.claims(), row.at)
        if taken is None and not connection.execute(sql["insert_waiting"], row).rowcount:
            taken = Refusal()
        if taken is not None:
            refused[row.id] = taken
        else:
            transactions.take_claims(claims)
    return refused


def release(transactions: Transactions, ids: Iterable[str]) -> None:
    """Delete them and their claims. The next heartbeat, after the commit, deletes their files."""
    connection, sql = transactions.connection, transactions.sql
    for id in ids:
        for trigger, claim, declared, folder in connection.execute(sql["release_event"], (id,)).fetchall():
            for mine in (claim, declared):
                if mine is not None:
                    connection.execute(sql["free_waiting_claim"], (trigger, mine, id))
            if folder is not None:
                connection.execute(sql["loosen_folder"], (folder,))
