"""Interprets the rows of claims."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from sagaz_lab.abc import KEY_MARK, Refusal
from sagaz_lab.model.run import LIVE, RESTARTABLE, RunStatus
from sagaz_lab.stores.sql.damage import as_status

CLAIM_ENDED = frozenset(RunStatus) - LIVE - {RunStatus.HELD, RunStatus.NEEDS_CODE}
"""After these ends a claim that ends with its run is free. Runs waiting for a person or code keep theirs."""


ID_LENGTH = 512
"""Longer ids are claimed as their hash, in all versions of the tables."""


def holding(holder: tuple[Any, ...], at: float) -> Refusal | None:
    """The refusal of a claim's row; None if the claim is free.

    The end of a run that is no longer kept is unknown, but a claimed declared key shows that it was not undone.
    """
    run_id, status, until, kind = holder
    if kind == "waiting":
        return Refusal()
    if until is not None and until <= at:
        return None
    if kind == "letter":
        return Refusal(letter=run_id)
    if kind == "spent":
        return Refusal(spent=True)
    if kind == "id":
        return Refusal(run_id, None if status is None else as_status(status))
    first = as_status(status or RunStatus.COMPLETED)
    return None if first in (CLAIM_ENDED if kind == "live" else RESTARTABLE) else Refusal(run_id, first)


def id_claim(claim: str, event_id: Any) -> str | None:
    """The claim of an event's id in a store being upgraded, where `claim` may be that or a declared key.

    A claim that may be the id's is returned with its part; otherwise the id's claim outside a composite. None: the
    event has no id.
    """
    if not isinstance(event_id, str) or not event_id:
        return None
    hashed = "sha256:" + hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
    own = event_id if len(event_id) <= ID_LENGTH and not event_id.startswith(KEY_MARK) else hashed
    part = re.match("[0-9]+:", claim)
    if part is not None and claim != event_id and claim[part.end() :] in (event_id, own):
        return part.group() + own
    return own
