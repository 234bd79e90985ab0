"""Rejects exhaustible values, such as iterators: a second reader finds nothing, so no store keeps them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sagaz_lab.abc import Acceptance, NewRun, Record, Redriven
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.model.event import payload_as_sent

WHY = "the first read exhausts it, and a retry reads it again"
CURE = "make it a list, or have an action yield its records"

LOOKED_AT, DEPTH = 100, 8
"""Items of a list or mapping that are checked, and the depth."""

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_ONCE = (Iterator, AsyncIterator, Awaitable)


def check_run(new: NewRun) -> UnstorableValue | None:
    """The problem with the context or payload of a triggered run, which may be retried.

    A run started by hand with a waiting caller may have exhaustible values.
    """
    if new.trigger is None:
        return None
    values = [*new.context.items(), ("payload", None if new.event is None else payload_as_sent(new.event))]
    for key, value in values:
        if _is_used_up(value):
            return UnstorableValue(f"run {new.run_id}", key, value, WHY, CURE)
    return None


def _are_plain(runs: Sequence[NewRun]) -> bool:
    mappings: list[Any] = [new.context for new in runs if not new.flat]
    mappings += [payload_as_sent(new.event) for new in runs if new.event is not None]
    return set(map(type, mappings)) <= {dict} and _PLAIN.issuperset(
        map(type, chain.from_iterable(map(dict.values, mappings)))
    )


def unstorable(runs: Sequence[NewRun]) -> Collection[str]:
    """Ids of the runs with a problem."""
    if _are_plain(runs):  # most have plain values only, and one check of all is cheapest
        return ()
    return {new.run_id for new in runs if check_run(new) is not None}


def still_redriven(batch: Acceptance) -> Sequence[Redriven]:
    """Without those whose run is refused: their dead letters stay open."""
    if not batch.redriven:
        return ()
    refused = {new.claim for new in batch.runs if check_run(new) is not None}
    return [each for each in batch.redriven if each.claim not in refused]


def check_records(records: Sequence[Record]) -> None:
    """Raises `UnstorableValue` for a result or change of an action."""
    for record in records:
        if record.value is not None or record.changes is not None:
            owner = f"run {record.run_id}, action {record.action!r}"
            if record.codec in (None, "joblib") and _is_used_up(record.value):
                raise UnstorableValue(owner, record.action, record.value, WHY, CURE)
            for key, value in (record.changes or {}).items():
                if _is_used_up(value):
                    raise UnstorableValue(owner, key, value, WHY, CURE)


def _is_used_up(value: Any, depth: int = DEPTH) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return False
    if kind is dict or kind is list or kind is tuple:
        items = list(islice(value.values() if kind is dict else value, LOOKED_AT))
        return depth > 0 and any(_is_used_up(item, depth - 1) for item in items)
    return isinstance(value, _ONCE)
