"""What the memory store has to publish."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from itertools import count, islice

from sagaz_lab.abc import Publication

PUBLICATIONS = 100_000
"""What is kept while a broker does not answer; past it the oldest are lost, which is told."""

logger = logging.getLogger(__name__)


class Outbox:
    """Publications by number, oldest first, each id once."""

    def __init__(self) -> None:
        self.by_number: dict[int, Publication] = {}
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
