"""Who holds a claim, and until when."""

from __future__ import annotations

from typing import Any

from sagaz_lab.abc import Refusal
from sagaz_lab.model.run import LIVE, RESTARTABLE, RunStatus
from sagaz_lab.stores.damage import as_status

CLAIM_ENDED = frozenset(RunStatus) - LIVE - {RunStatus.HELD, RunStatus.NEEDS_CODE}
"""A run that ended so has no more use for a claim that ends with it. What waits for a person or for code goes on."""


def holding(holder: tuple[Any, ...], at: float) -> Refusal | None:
    """What a claim's row says to another: taken, or (None) free.

    How a run ended that is no longer kept is not known, but that it stands if its declared key is still claimed.
    """
    run_id, status, until, kind = holder
    if kind == "held":
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
