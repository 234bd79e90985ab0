"""What ours and every baseline do alike: the same events, the same filter, the same two no-ops."""

from __future__ import annotations

from typing import Any

ENTRY_BYTES = 200


def events(n: int, keep_every: int) -> list[dict[str, Any]]:
    """`n` small events; the filter keeps one in `keep_every`, the last one among them."""
    return [event(i, n, keep_every) for i in range(n)]


def event(i: int, n: int, keep_every: int) -> dict[str, Any]:
    # The last event is kept, so that the end of the last run is the end of all work.
    kept = (n - 1 - i) % keep_every == 0
    return {"model_id": "churn", "n": i, "score": 0.95 if kept else 0.1}


def kept_of(n: int, keep_every: int) -> int:
    return (n - 1) // keep_every + 1


def keeps(event: Any) -> bool:
    score: float = event["score"]
    return score > 0.9


async def first(event: Any) -> None:
    """A no-op."""


async def second(event: Any) -> None:
    """A no-op."""
