"""The pure core by itself: a plain loop that decides recorded events in virtual time, as a backtest does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.model.event import Alike
from sagaz_lab.model.policy import seconds
from sagaz_lab.model.run import RunStatus
from sagaz_lab.model.trigger import Gates
from sagaz_lab.runtime.gates.admission import Slots
from sagaz_lab.runtime.gates.core import Core, Rules
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.reservation import Reservation
from tests.benchmarks.ours_gates import EVERY_GATE
from tests.benchmarks.workload import events, keeps

INTERVAL_S = 0.001
"""Between two events."""

BATCH = 1000
_AT = datetime(2026, 1, 1, tzinfo=UTC)


class Claims(dict[str, str]):
    """Of runs that all complete, so that no claim is ever free again."""

    def take(self, run: PendingRun) -> None:
        if run.claim is not None:
            self[run.claim] = run.run_id
        if run.declared is not None:
            self[run.declared] = run.run_id

    def wait(self, event: WaitingEvent) -> None:
        """No event waits."""

    def leave(self, event: WaitingEvent | PendingRun, *, spent: bool) -> None:
        """So none leaves."""


async def measure(n: int, *, keep_every: int = 10, every_gate: bool = False) -> float:
    """Microseconds an event."""
    payloads = events(n, keep_every)
    recorded = Alike(payloads, [f"e{i}" for i in range(n)], "recording", _AT)
    options = {name: value for name, value in EVERY_GATE.items() if name != "priority"} if every_gate else {}
    gates = Gates(**options)
    cooldown_s = None if gates.cooldown is None else seconds(gates.cooldown, "cooldown")
    core = Core(Rules("noop.on_event", gates, None, cooldown_s, None, 1000, "block"), Slots())
    start = time.perf_counter()
    started = decide(core, recorded) if not every_gate else decide_by_keys(core, recorded)
    elapsed_s = time.perf_counter() - start
    assert started == (n - 1) // keep_every + 1
    return elapsed_s / n * 1e6


def decide(core: Core, recorded: Sequence[Any]) -> int:
    """By its filter and its claims. Each run ends when it has begun."""
    now, claims, started = 0.0, Claims(), 0
    batch = Reservation(claims)
    for number, event in enumerate(recorded):
        now += INTERVAL_S
        claim = event.id
        if claim in claims or not keeps(event):
            continue
        run = PendingRun(str(number), "noop", "noop.on_event", 1, event, {}, now, True, RunStatus.RUNNING, claim)
        if core.offer(batch, run, now) is None:
            started += 1
            core.ended(run)
        if len(batch.starts) == BATCH:
            batch = Reservation(claims)
    return started


def decide_by_keys(core: Core, recorded: Sequence[Any]) -> int:
    """By every gate, of which each reads its key."""
    now, claims, started = 0.0, Claims(), 0
    batch = Reservation(claims)
    for number, event in enumerate(recorded):
        now += INTERVAL_S
        claim, key = event.id, str(event["n"])
        declared = "\x1f" + key
        if claim in claims or declared in claims or not keeps(event):
            continue
        run = PendingRun(str(number), "noop", "noop.on_event", 1, event, {}, now, True, RunStatus.RUNNING, claim)
        run.declared, run.key, run.pace_key = declared, key, event["model_id"]
        if core.offer(batch, run, now) is None:
            started += 1
            core.ended(run)
        if len(batch.starts) == BATCH:
            batch = Reservation(claims)
    return started
