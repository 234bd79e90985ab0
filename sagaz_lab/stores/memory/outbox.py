"""The outbox of the memory store."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import count, islice

from sagaz_lab.abc import DeadLetter, Publication
from sagaz_lab.texts import logger_of

PUBLICATIONS = 100_000
"""Maximum pending publications during a broker outage; beyond it the oldest are lost, with a warning."""

logger = logger_of(__name__)


class Outbox:
    """Publications by number, oldest first, each id once. Refused ones and those behind them are `parked`."""

    def __init__(self) -> None:
        self.by_number: dict[int, Publication] = {}
        self.parked: dict[int, Publication] = {}
        self._ids: set[str] = set()
        self._numbers = count(1)

    def add(self, publications: Iterable[Publication]) -> None:
        for publication in publications:
            if publication.id not in self._ids:
                self.by_number[next(self._numbers)] = publication
                self._ids.add(publication.id)
        lost = self.oldest(len(self.by_number) - PUBLICATIONS)
        if lost:
            logger.warning("%d publications are lost: more than %d wait for a broker", len(lost), PUBLICATIONS)
            self.remove(number for number, _ in lost)

    def remove(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            publication = self.by_number.pop(number, None)
            if publication is not None:
                self._ids.discard(publication.id)

    def oldest(self, limit: int) -> Sequence[tuple[int, Publication]]:
        return list(islice(self.by_number.items(), max(0, limit)))

    def all(self) -> Sequence[Publication]:
        return [publication for _, publication in sorted([*self.by_number.items(), *self.parked.items()])]

    def park(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if number in self.by_number:
                self.parked[number] = self.by_number.pop(number)

    async def park_behind(self, rows: Sequence[tuple[int, str]]) -> Collection[str]:
        """See `Store.park_behind`."""
        runs = await self.parked_runs()
        self.park(number for number, run_id in rows if run_id in runs)
        return runs & {run_id for _, run_id in rows}

    async def parked_runs(self) -> set[str]:
        return {publication.run_id for publication in self.parked.values() if publication.run_id}

    def settle(self, letters: Sequence[DeadLetter], state: str, payloads: Mapping[str, bytes]) -> Sequence[str]:
        """Requeue or drop these dead letters' parked publications and requeue those behind; returns the ids."""
        letter_of = {it.event.id: it.id for it in letters}
        refused = {it.id: number for number, it in self.parked.items() if it.id in letter_of}
        runs = {self.parked[number].run_id for number in refused.values()} - {""}
        if state == "discarded":
            for number in refused.values():
                self._ids.discard(self.parked.pop(number).id)
        back = {number: it for number, it in self.parked.items() if it.id in refused or it.run_id in runs}
        for number, it in back.items():
            del self.parked[number]
            self.by_number[number] = it._replace(payload=payloads.get(letter_of.get(it.id, ""), it.payload))
        if back:
            self.by_number = dict(sorted(self.by_number.items()))
        return [letter_of[id] for id in refused]
