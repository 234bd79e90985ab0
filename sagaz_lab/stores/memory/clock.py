"""Corrects times left by a fast clock in the memory store."""

from __future__ import annotations

from collections.abc import Mapping

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.stores.memory.claims import Claims
from sagaz_lab.stores.memory.cooldowns import Cooldowns
from sagaz_lab.stores.memory.runs import MemoryRun
from sagaz_lab.stores.sql.clocks import SLACK_S, counts_by_kind


def put_clock_right(
    runs: Mapping[str, MemoryRun],
    claims: Claims,
    cooldowns: Cooldowns,
    waiting: dict[str, WaitingEvent],
    now: float,
) -> tuple[float, Mapping[str, int]]:
    """See `Store.put_clock_right`."""
    ahead = {run.run_id: run.at for run in runs.values() if run.at > now + SLACK_S}
    cooling = cooldowns.cut(ahead, now)
    cut = claims.cut({run_id: at - now for run_id, at in ahead.items()}, now)
    late = [id for id, event in waiting.items() if event.at > now + SLACK_S]
    for id in late:
        waiting[id] = waiting[id]._replace(at=now)
    for run_id, at in ahead.items():
        run = runs[run_id]
        shift_s = (at if run.ended_at is None else run.ended_at) - now
        run.at -= shift_s
        if run.ended_at is not None:
            run.ended_at = now
    return max(ahead.values(), default=now) - now, counts_by_kind(cooling, cut, len(late))
