"""Every gate's verdict: on an event now, or on one already decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sagaz_lab.abc import Delivery, WaitingEvent
from sagaz_lab.errors import DecodeError, MissingKey, PayloadMismatch, QueueFull, SingletonTaken
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.decisions.decider import Decider
from sagaz_lab.runtime.gates.core import COOLING, LIVE_ALREADY, OVERLAP, QUEUE_FULL
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.window_policies import IN_PERIOD, IN_WINDOW, WINDOW_REASONS
from sagaz_lab.runtime.triggers.compiled import CompiledTrigger
from sagaz_lab.runtime.triggers.state import TriggerState

INTAKE, KEY, METHOD = "decode and validate", "idempotency", "trigger method"


@dataclass(frozen=True, slots=True)
class GateVerdict:
    """One gate's verdict: pass, wait, stop or not asked; `detail` has its numbers."""

    gate: str
    verdict: str
    detail: str


@dataclass(frozen=True, slots=True)
class Preview:
    """An event's outcome and every gate's verdict, with nothing stored and nothing started."""

    trigger: str
    outcome: OutcomeKind
    verdicts: Sequence[GateVerdict]
    context: Mapping[str, Any] | None

    def __repr__(self) -> str:
        gates = "; ".join(f"{v.gate}: {v.verdict} ({v.detail})" for v in self.verdicts)
        return f"Preview({self.trigger} -> {self.outcome}: {gates})"


def gates_of(compiled: CompiledTrigger) -> list[str]:
    """The gates of this trigger, in order."""
    gates = compiled.trigger.gates
    found = [INTAKE, KEY]
    if gates.debounce is not None:
        found.append("debounce")
    elif compiled.policy is not None:
        found.append(compiled.policy.gate)
    found.append(METHOD)
    found += [name for name in ("overlap",) if compiled.overlap == "skip"]
    found += [name for name in ("cooldown", "singleton") if getattr(gates, name) is not None]
    found.append("concurrency")
    if compiled.concurrency_key is not None:
        found.append("concurrency key")
    if gates.rate_limit_per_second is not None:
        found.append("rate")
    if gates.throttle is not None:
        found.append("throttle")
    found.append("queue")
    return found


_STOPPED_BY = {
    COOLING: "cooldown",
    LIVE_ALREADY: "singleton",
    OVERLAP: "overlap",
    QUEUE_FULL: "queue",
    IN_PERIOD: "debounce",
}
_WINDOWS = ("debounce", "batch", "all_of", "sequence", "absent")


def verdicts_on(outcome: Outcome, state: TriggerState | None, now: float) -> list[GateVerdict]:
    """Each gate's verdict on an event with this outcome; for a waiting event, the verdict now."""
    if state is None:
        return []
    gates = gates_of(state.compiled)
    numbers = ", ".join(f"{name}={value!r}" for name, value in (outcome.facts or {}).items())
    detail = ", ".join(part for part in (outcome.reason, numbers) if part)
    if outcome.kind is OutcomeKind.STARTED:
        return [GateVerdict(gate, "pass", "") for gate in gates]
    stop = _stopping_gate(outcome, gates)
    waits = outcome.kind is OutcomeKind.WAITING
    at = gates.index(stop) if stop in gates else len(gates)
    told = [GateVerdict(gate, "pass", "") for gate in gates[:at]]
    if waits and outcome.reason != IN_WINDOW:
        return told + _now(state, outcome, now)
    told.append(GateVerdict(stop, "wait" if waits else "stop", detail))
    return told + [GateVerdict(gate, "not asked", "") for gate in gates[at + 1 :]]


def _stopping_gate(outcome: Outcome, gates: Sequence[str]) -> str:
    if outcome.reason in _STOPPED_BY:
        return _STOPPED_BY[outcome.reason]
    if outcome.reason in WINDOW_REASONS:
        window = [gate for gate in gates if gate in _WINDOWS]
        return window[0] if window else "singleton"
    if outcome.kind is OutcomeKind.WAITING:
        return "concurrency"
    if outcome.kind is OutcomeKind.DEAD:
        return _failed_gate(outcome.reason, gates)
    return KEY if outcome.kind is OutcomeKind.DUPLICATE else METHOD


_FAILED_AT = {
    DecodeError: INTAKE,
    PayloadMismatch: INTAKE,
    SingletonTaken: "singleton",
    QueueFull: "queue",
}
_KEY_OF = {"concurrency_key": "concurrency key", "throttle key": "throttle", "cooldown": "cooldown"}


def _failed_gate(reason: str, gates: Sequence[str]) -> str:
    """The gate named by the text of the dead letter's error; any other error is the method's."""
    error, _, text = reason.partition(": ")
    for kind, gate in _FAILED_AT.items():
        if error == kind.__name__:
            return gate
    if error != MissingKey.__name__:
        return METHOD
    option = text.partition(": ")[2].partition("=")[0]
    if option == "key":
        return next((gate for gate in gates if gate in _WINDOWS), KEY)
    return _KEY_OF.get(option, KEY)


def _now(state: TriggerState, outcome: Outcome, now: float) -> list[GateVerdict]:
    pending = state.core.admission.find(outcome.run_id or "")
    return [] if pending is None else [GateVerdict(*said) for said in state.core.admission.verdicts(pending, now)]


def said_by(verdicts: Sequence[GateVerdict]) -> str:
    """The verdicts in one line: passed gates by name, the others with their numbers."""
    passed = [verdict.gate for verdict in verdicts if verdict.verdict == "pass" and not verdict.detail]
    told = [f"{v.gate}: {v.verdict} ({v.detail})" for v in verdicts if v.verdict != "not asked" and v.detail]
    return "; ".join([*([f"passed {', '.join(passed)}"] if passed else []), *told])


async def preview(decider: Decider, state: TriggerState, delivery: Delivery, now: float) -> Preview:
    """Runs the trigger method on the event, and the gates around it."""
    decided = Decided(state)
    try:
        await decider.decide(decided, [delivery], now, quiet=True)
    finally:
        decided.batch.rollback()
    if decided.batch.waiting:
        return _window_preview(state, next(iter(decided.batch.waiting.values())), now)
    if not decided.starts:
        kind, reason, event_id, *_, at, facts = decided.entries[0]
        outcome = Outcome(OutcomeKind(kind), reason, str(event_id), state.name, None, 0, at, facts)
        return Preview(state.name, outcome.kind, verdicts_on(outcome, state, now), None)
    return _start_preview(state, next(iter(decided.starts)), now)


def _window_preview(state: TriggerState, event: WaitingEvent, now: float) -> Preview:
    windows = state.core.windows
    assert windows is not None
    waiting = windows.of(event.key)
    closes_in_s = windows.policy.due_at([*waiting, event]) - now
    key = "" if event.key is None else f" for {event.key!r}"
    detail = f"{len(waiting)} wait{key}, closes in {closes_in_s:.3g} s at the latest"
    gates = gates_of(state.compiled)
    window = gates.index(METHOD) - 1
    verdicts = [GateVerdict(gate, "pass", "") for gate in gates[:window]] + [GateVerdict(gates[window], "wait", detail)]
    verdicts += [GateVerdict(gate, "not asked", "") for gate in gates[window + 1 :]]
    return Preview(state.name, OutcomeKind.WAITING, verdicts, None)


def _start_preview(state: TriggerState, pending: PendingRun, now: float) -> Preview:
    compiled, context = state.compiled, pending.context
    free = f"key {pending.claim!r} is free" if pending.claim else "the id is new"
    details = {INTAKE: "it fits", KEY: free, METHOD: f"returned {dict(context)!r}"[:500]}
    if pending.cooldown is not None:
        details["cooldown"] = f"open for {pending.cooldown[0]!r}" if pending.cooldown[0] else "open"
    outcome = OutcomeKind.STARTED
    verdicts: list[GateVerdict] = []
    for gate in gates_of(compiled):
        if gate == "singleton":
            verdict, outcome = _singleton(state, pending)
            verdicts.append(verdict)
            if outcome is not OutcomeKind.STARTED:
                return Preview(state.name, outcome, verdicts, context)
        elif gate == "concurrency":
            break
        else:
            verdicts.append(GateVerdict(gate, "pass", details.get(gate, "")))
    waiting = [GateVerdict(*said) for said in state.core.admission.verdicts(pending, now)]
    if any(verdict.verdict != "pass" for verdict in waiting):
        outcome = OutcomeKind.WAITING
        strategy = compiled.config.backpressure_strategy
        if state.core.admission.full() and strategy in ("drop_newest", "reject"):
            outcome = OutcomeKind.DEAD if strategy == "reject" else OutcomeKind.DROPPED
            waiting = [_full(verdict, strategy) for verdict in waiting]
    return Preview(state.name, outcome, verdicts + waiting, context)


def _full(verdict: GateVerdict, strategy: str) -> GateVerdict:
    return GateVerdict("queue", "stop", f"{verdict.detail}: {strategy}") if verdict.gate == "queue" else verdict


def _singleton(state: TriggerState, pending: PendingRun) -> tuple[GateVerdict, OutcomeKind]:
    mode = state.compiled.singleton
    holder = state.core.admission.holder(pending.key or "")
    if holder is None:
        return GateVerdict("singleton", "pass", f"no run of {pending.key!r} is live"), OutcomeKind.STARTED
    if mode == "cancel":
        return GateVerdict("singleton", "pass", f"run {holder} would be cancelled"), OutcomeKind.STARTED
    ends = {"skip": OutcomeKind.FILTERED, "return_existing": OutcomeKind.DUPLICATE, "error": OutcomeKind.DEAD}
    return GateVerdict("singleton", "stop", f"run {holder} of {pending.key!r} is live: {mode}"), ends[str(mode)]
