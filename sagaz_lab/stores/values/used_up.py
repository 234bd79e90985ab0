"""Values that reading uses up: whoever comes second finds nothing, so that no store keeps one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Sequence
from itertools import chain, islice
from typing import Any

from sagaz_lab.abc import Acceptance, NewRun, Record, Redriven
from sagaz_lab.errors import UnstorableValue
from sagaz_lab.model.event import payload_as_sent

WHY = "it is used up by the first who reads it, and a retry reads it again"
CURE = "make it a list, or have an action yield its records"

LOOKED_AT, DEPTH = 100, 8
"""Items of a list or mapping that are looked at, and how deep."""

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_ONCE = (Iterator, AsyncIterator, Awaitable)


def check_run(new: NewRun) -> UnstorableValue | None:
    """What is wrong with the context or the payload of a run that a trigger has started, and that may be tried again.

    Who starts one by hand and waits for it may give it what can be read once.
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
    """The ids of those with which something is wrong."""
    if _are_plain(runs):  # most have plain values only, and one look at all costs least
        return ()
    return {new.run_id for new in runs if check_run(new) is not None}


def still_redriven(batch: Acceptance) -> Sequence[Redriven]:
    """Without those whose run is refused: their letters stay open until there are others."""
    if not batch.redriven:
        return ()
    refused = {new.claim for new in batch.runs if check_run(new) is not None}
    return [each for each in batch.redriven if each.claim not in refused]


def check_records(records: Sequence[Record]) -> None:
    """Raises `UnstorableValue` for what an action has returned or set."""
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
