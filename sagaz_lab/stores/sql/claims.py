"""Who holds a claim, and until when."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from sagaz_lab.abc import KEY_MARK, Refusal
from sagaz_lab.model.run import LIVE, RESTARTABLE, RunStatus
from sagaz_lab.stores.sql.damage import as_status

CLAIM_ENDED = frozenset(RunStatus) - LIVE - {RunStatus.HELD, RunStatus.NEEDS_CODE}
"""A run that ended so has no more use for a claim that ends with it. What waits for a person or for code goes on."""


ID_LENGTH = 512
"""A longer id was claimed as its hash in every version of the tables."""


def holding(holder: tuple[Any, ...], at: float) -> Refusal | None:
    """What a claim's row says to another: taken, or (None) free.

    How a run ended that is no longer kept is not known, but that it stands if its declared key is still claimed.
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
    """The claim of an event's id in a store that is upgraded, where `claim` may be that or a declared key.

    If it may be the id's, it is returned with the part that it is of; else the claim as it is outside a composite.
    None: the event has no id.
    """
    if not isinstance(event_id, str) or not event_id:
        return None
    hashed = "sha256:" + hashlib.sha256(event_id.encode("utf-8", "surrogatepass")).hexdigest()
    own = event_id if len(event_id) <= ID_LENGTH and not event_id.startswith(KEY_MARK) else hashed
    part = re.match("[0-9]+:", claim)
    if part is not None and claim != event_id and claim[part.end() :] in (event_id, own):
        return part.group() + own
    return own
