"""What is taken in with runs, or without any: held events, letters, kept events, counts and publications."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import uuid4

from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.stores.artifacts import Artifacts
from sagaz_lab.stores.encoding import NeedsFiles
from sagaz_lab.stores.held import HeldRow, hold, release
from sagaz_lab.stores.transactions import Transactions, Write
from sagaz_lab.stores.translation import held_row, kept_row, letter_row, publication_rows, text


def has_rest(batch: Acceptance) -> bool:
    """Whether there is more to take in than runs."""
    return bool(batch.held or batch.released or batch.filtered or batch.kept or batch.dead or batch.publications)


class Rest:
    """All of a batch but its runs. `in_thread` calls a function that writes files in a thread."""

    def __init__(self, batch: Acceptance, artifacts: Artifacts, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self._batch = batch
        self._artifacts = artifacts
        self._in_thread = in_thread
        self._held: list[HeldRow] = []

    async def join(self, write: Write) -> Mapping[str, Refusal]:
        """Add it to the write of the runs. Returns the held events whose values cannot be stored."""
        batch = self._batch
        refused: dict[str, Refusal] = {}
        if batch.held:
            self._held = await self._held_rows(refused)
        notes = await self._notes() if batch.dead or batch.filtered or batch.kept else None
        write.publications = publication_rows(batch.publications)
        if batch.released:
            write.first = lambda it: release(it, batch.released)
        if self._held or notes:
            write.call = lambda it: self._finish(it, notes)
        return refused

    async def clean_up(self, refused: Mapping[str, Refusal]) -> None:
        """Remove the files of held events that were refused."""
        for row in self._held:
            if row.folder is not None and row.id in refused:
                await asyncio.to_thread(self._artifacts.remove, row.folder)

    async def _held_rows(self, refused: dict[str, Refusal]) -> list[HeldRow]:
        rows = []
        for held in self._batch.held:
            try:
                try:
                    rows.append(held_row(held, None, ""))
                except NeedsFiles:
                    folder = f"held-{uuid4().hex}"
                    rows.append(await self._in_thread(held_row, held, self._artifacts, folder))
            except UnstorableValue as error:
                refused[held.id] = Refusal(error=error)
        return rows

    async def _notes(self) -> Callable[[Transactions], None]:
        batch = self._batch

        def rows(artifacts: Artifacts | None) -> tuple[list[Any], list[Any]]:
            letters = [letter_row(letter, artifacts) for letter in batch.dead]
            return letters, [kept_row(kept, artifacts, f"event-{uuid4().hex}") for kept in batch.kept]

        try:
            letters, kept = rows(None)
        except NeedsFiles:
            letters, kept = await self._in_thread(rows, self._artifacts)
        counts = [(*map(text, names), count) for names, count in batch.filtered.items()]

        def note(it: Transactions) -> None:
            for name, values in (("insert_letter", letters), ("insert_kept", kept), ("add_count", counts)):
                it.connection.executemany(it.sql[name], values)

        return note

    def _finish(self, it: Transactions, notes: Callable[[Transactions], None] | None) -> Mapping[str, Refusal]:
        if notes is not None:
            notes(it)
        return hold(it, self._held)
