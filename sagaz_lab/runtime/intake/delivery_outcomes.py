"""The outcomes of a batch's deliveries, for the source that settles them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from sagaz_lab.abc import Delivery, Outcome
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.triggers.decode import id_text
from sagaz_lab.runtime.triggers.outcomes import outcomes_of


class DeliveryOutcomes(Sequence[Sequence[Outcome]]):
    """For each delivery, in order, one outcome per trigger that read it.

    Computed on first read: most sources never read it.
    """

    def __init__(self, deliveries: Sequence[Delivery], decisions: Sequence[Decided]) -> None:
        self._deliveries = deliveries
        self._decisions = decisions

    def __len__(self) -> int:
        return len(self._deliveries)

    def __getitem__(self, index: Any) -> Any:
        return self._found[index]

    @cached_property
    def _found(self) -> list[tuple[Outcome, ...]]:
        of_trigger: dict[str, list[Decided]] = defaultdict(list)
        for decided in self._decisions:
            of_trigger[decided.state.name].append(decided)
        given = [delivery.event.id for delivery in self._deliveries]
        ids = [id if type(id) is str else id_text(id) for id in given]
        columns = [_in_order(ids, decisions) for decisions in of_trigger.values()]
        return [tuple(outcome for outcome in row if outcome is not None) for row in zip(*columns, strict=True)]


def _in_order(ids: Sequence[str], decisions: Iterable[Decided]) -> list[Outcome | None]:
    """One trigger's outcomes for these ids, in order: of several events with one id, the later ones came after the
    first.

    For a composite that reads the source by several parts, the last part's.
    """
    found: dict[str, list[Outcome]] = defaultdict(list)
    for decided in decisions:
        for entry in decided.entries:
            for outcome in outcomes_of(entry):
                found[outcome.event_id].append(outcome)
    left = {id: iter(found[id][-count:]) for id, count in Counter(ids).items()}
    return [next(left[id], None) for id in ids]
