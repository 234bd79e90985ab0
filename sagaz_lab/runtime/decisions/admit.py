"""Who of a batch gets a slot, who waits, and who is turned away because a run of its key is live already."""

from __future__ import annotations

from sagaz_lab.errors import SingletonTaken
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.window_policies import SUPERSEDED

_RUNNING = RunStatus.RUNNING
LIVE_ALREADY = "a run is live already"


def admit(decided: Decided, moment: float) -> None:
    """Give each run to be started its slot, or its place among those that come to wait.

    No other task may come between this and the store's answer: what is decided here is what holds.
    """
    state = decided.state
    compiled, admission, config = state.compiled, state.admission, state.compiled.config
    roots = compiled.definition.plan.roots
    singleton = compiled.singleton
    starts, decided.starts = decided.starts, []
    if compiled.concurrency_key is None:
        at_once = starts[: admission.at_once()]
        for pending in at_once:
            pending.status = _RUNNING
            pending.started = roots
        admission.occupy_some(len(at_once))
        decided.starts, starts = at_once, starts[len(at_once) :]
    mine: dict[str, PendingRun] = {}
    for pending in starts:
        if singleton is not None and not _alone(decided, singleton, pending, mine):
            continue
        if admission.enter(pending, moment):
            pending.status = _RUNNING
            pending.started = roots
        elif config.backpressure_strategy in ("drop_newest", "reject") and (
            admission.all_waiting() + admission.coming >= admission.size
        ):
            _overflow(decided, pending, rejected=config.backpressure_strategy == "reject")
            continue
        else:
            admission.comes(pending)
        decided.starts.append(pending)


def _overflow(decided: Decided, pending: PendingRun, *, rejected: bool) -> None:
    _unkeep(decided, pending)
    for event, claim in pending.claimed():
        decided.overflow(event, pending.at, claim, rejected=rejected)


def _unkeep(decided: Decided, pending: PendingRun) -> None:
    """Its members are kept as having started it, which it does not."""
    if pending.members:
        decided.kept = [kept for kept in decided.kept if kept.run_id != pending.run_id]


def _alone(decided: Decided, mode: str, pending: PendingRun, mine: dict[str, PendingRun]) -> bool:
    """Whether the run may go on its way; `mine` has the earlier ones of the batch, by key."""
    assert pending.key is not None
    admission, key = decided.state.admission, pending.key
    holder = mine[key].run_id if key in mine else admission.holder(key)
    if holder is None or mode == "cancel":
        if holder is not None:
            _replace(decided, pending, mine.get(key))
        mine[key] = pending
        return True
    if key in mine:
        decided.is_rival(pending)
        return False
    _unkeep(decided, pending)
    for event, claim in pending.claimed():
        if mode == "error":
            error = SingletonTaken(f"{decided.state.name}: {LIVE_ALREADY}: {holder}")
            decided.dead(event, error, pending.at, claim)
        else:
            kind = OutcomeKind.DUPLICATE if mode == "return_existing" else OutcomeKind.FILTERED
            facts = {"key": key, "run": holder}
            run_id = holder if mode == "return_existing" else None
            decided.add(kind, LIVE_ALREADY, event, pending.at, facts, run_id=run_id)
    return False


def _replace(decided: Decided, pending: PendingRun, earlier: PendingRun | None) -> None:
    """The latest wins: what is live or waits with its key makes room."""
    admission = decided.state.admission
    assert pending.key is not None
    if earlier is not None and earlier.status is not RunStatus.RUNNING:
        admission.came(earlier)
        decided.starts.remove(earlier)
        decided.outrun(earlier.run_id, pending.run_id)
        _unkeep(decided, earlier)
        facts = {"key": pending.key, "by": pending.event_id}
        for event, claim in earlier.claimed():
            decided.add(OutcomeKind.FILTERED, SUPERSEDED, event, pending.at, facts)
            decided.spend(claim, pending.at)
        return
    if earlier is not None:
        decided.replaced.append((pending.run_id, earlier.run_id))
        return
    if (holder := admission.running(pending.key)) is not None:
        decided.replaced.append((pending.run_id, holder))
    decided.replaced += [(pending.run_id, queued.run_id) for queued in admission.queued(pending.key)]
