"""Stores the parts of a batch other than runs: waiting events, dead letters, kept events, counts, publications."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from sagaz_lab.abc import Acceptance, DeadLetter, Redriven, Refusal
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.stores.sql.handing_over import DeadLetterRow, bury, end_cooldowns, give_back, redrive, spend, withdraw
from sagaz_lab.stores.sql.transactions import Transactions, Write
from sagaz_lab.stores.sql.translation import kept_row, letter_row, publication_rows, text, waiting_row
from sagaz_lab.stores.sql.waiting import WaitingRow, release, wait
from sagaz_lab.stores.values.artifacts import Artifacts
from sagaz_lab.stores.values.encoding import NeedsFiles


def has_rest(batch: Acceptance) -> bool:
    """Whether the batch has more than runs."""
    return bool(batch.waiting or batch.released or batch.filtered or batch.kept or batch.dead or batch.publications
                or batch.withdrawn or batch.redriven or batch.spent)  # fmt: skip


class Rest:
    """A batch without its runs, some of which are `refused`. `in_thread` calls a function in a thread."""

    def __init__(
        self,
        batch: Acceptance,
        refused: Mapping[str, Refusal],
        artifacts: Artifacts,
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        self._batch = batch
        self._refused = refused
        self._artifacts = artifacts
        self._in_thread = in_thread
        self._waiting: list[WaitingRow] = []
        self._redriven: Sequence[Redriven] = ()

    async def join(self, write: Write) -> Mapping[str, Refusal]:
        """Add it to the write of the runs. Returns the waiting events with unstorable values."""
        batch = self._batch
        refused: dict[str, Refusal] = {}
        if batch.waiting:
            self._waiting = await self._waiting_rows(refused)
        notes = await self._notes() if batch.dead or batch.filtered or batch.kept else None
        write.publications = publication_rows(batch.publications)
        self._redriven = self._still_redriven(refused)
        if batch.released or batch.withdrawn or self._redriven:
            write.first = self._begin
        if self._waiting or notes or batch.spent or self._redriven:
            write.call = lambda it: self._finish(it, notes)
        return refused

    def _still_redriven(self, refused: Mapping[str, Refusal]) -> Sequence[Redriven]:
        """Without those whose event cannot be stored: their dead letters stay open."""
        batch, unstored = self._batch, {**self._refused, **refused}
        claims = {run.claim for run in batch.runs if run.run_id in unstored}
        claims |= {waiting.claim for waiting in batch.waiting if waiting.id in unstored}
        return [each for each in batch.redriven if each.claim not in claims]

    async def clean_up(self, refused: Mapping[str, Refusal]) -> None:
        """Remove the files of refused waiting events."""
        for row in self._waiting:
            if row.folder is not None and row.id in refused:
                await asyncio.to_thread(self._artifacts.remove, row.folder)

    async def _waiting_rows(self, refused: dict[str, Refusal]) -> list[WaitingRow]:
        rows = []
        for waiting in self._batch.waiting:
            try:
                try:
                    rows.append(waiting_row(waiting, None, ""))
                except NeedsFiles:
                    folder = f"waiting-{uuid4().hex}"
                    rows.append(await self._in_thread(waiting_row, waiting, self._artifacts, folder))
            except UnstorableValue as error:
                refused[waiting.id] = Refusal(error=error)
        return rows

    async def _notes(self) -> Callable[[Transactions], Mapping[str, Refusal]]:
        batch = self._batch

        def rows(artifacts: Artifacts | None) -> tuple[list[Any], list[Any]]:
            letters = [DeadLetterRow(letter_row(it, artifacts), _claim_of(it), it.at) for it in batch.dead]
            return letters, [kept_row(kept, artifacts, f"event-{uuid4().hex}") for kept in batch.kept]

        try:
            letters, kept = rows(None)
        except NeedsFiles:
            letters, kept = await self._in_thread(rows, self._artifacts)
        counts = [(*map(text, names), count) for names, count in batch.filtered.items()]

        def note(it: Transactions) -> Mapping[str, Refusal]:
            refused = bury(it, letters)
            for name, values in (("insert_kept", kept), ("add_count", counts)):
                it.connection.executemany(it.sql[name], values)
            return refused

        return note

    def _begin(self, it: Transactions) -> None:
        """Remove what leaves, which frees its claims for the new runs."""
        release(it, self._batch.leaving(self._refused))
        withdraw(it, self._batch.withdrawn)
        redrive(it, self._redriven)
        end_cooldowns(it, self._redriven, self._batch.runs)

    def _finish(
        self, it: Transactions, notes: Callable[[Transactions], Mapping[str, Refusal]] | None
    ) -> Mapping[str, Refusal]:
        refused = wait(it, self._waiting)
        if notes is not None:
            refused = {**refused, **notes(it)}
        spend(it, self._batch.spent)
        give_back(it, self._redriven)
        return refused


def _claim_of(letter: DeadLetter) -> tuple[str, str, str, float | None] | None:
    claim = text(letter.claim)
    return None if claim is None else (letter.trigger, claim, letter.id, letter.claim_until)
