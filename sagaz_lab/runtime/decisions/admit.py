"""Who of a batch gets a slot, who waits, and who is turned away because a run of its key is live already."""

from __future__ import annotations

from sagaz_lab.errors import SingletonTaken
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.gates.pending_run import Ticket
from sagaz_lab.runtime.gates.window_policies import OUTDONE

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
        for ticket in at_once:
            ticket.status = _RUNNING
            ticket.started = roots
        admission.occupy_some(len(at_once))
        decided.starts, starts = at_once, starts[len(at_once) :]
    mine: dict[str, Ticket] = {}
    for ticket in starts:
        if singleton is not None and not _alone(decided, singleton, ticket, mine):
            continue
        if admission.enter(ticket, moment):
            ticket.status = _RUNNING
            ticket.started = roots
        elif config.backpressure_strategy in ("drop_newest", "reject") and (
            admission.held() + admission.coming >= admission.size
        ):
            _overflow(decided, ticket, rejected=config.backpressure_strategy == "reject")
            continue
        else:
            admission.comes(ticket)
        decided.starts.append(ticket)


def _overflow(decided: Decided, ticket: Ticket, *, rejected: bool) -> None:
    _unkeep(decided, ticket)
    for event, claim in ticket.claimed():
        decided.overflow(event, ticket.at, claim, rejected=rejected)


def _unkeep(decided: Decided, ticket: Ticket) -> None:
    """Its members are kept as having started it, which it does not."""
    if ticket.members:
        decided.kept = [kept for kept in decided.kept if kept.run_id != ticket.run_id]


def _alone(decided: Decided, mode: str, ticket: Ticket, mine: dict[str, Ticket]) -> bool:
    """Whether the run may go on its way; `mine` has the earlier ones of the batch, by key."""
    assert ticket.key is not None
    admission, key = decided.state.admission, ticket.key
    holder = mine[key].run_id if key in mine else admission.holder(key)
    if holder is None or mode == "cancel":
        if holder is not None:
            _replace(decided, ticket, mine.get(key))
        mine[key] = ticket
        return True
    if key in mine:
        decided.is_rival(ticket)
        return False
    _unkeep(decided, ticket)
    for event, claim in ticket.claimed():
        if mode == "error":
            error = SingletonTaken(f"{decided.state.name}: {LIVE_ALREADY}: {holder}")
            decided.dead(event, error, ticket.at, claim)
        else:
            kind = OutcomeKind.DUPLICATE if mode == "return_existing" else OutcomeKind.FILTERED
            facts = {"key": key, "run": holder}
            run_id = holder if mode == "return_existing" else None
            decided.add(kind, LIVE_ALREADY, event, ticket.at, facts, run_id=run_id)
    return False


def _replace(decided: Decided, ticket: Ticket, earlier: Ticket | None) -> None:
    """The latest wins: what is live or waits with its key makes room."""
    admission = decided.state.admission
    assert ticket.key is not None
    if earlier is not None and earlier.status is not RunStatus.RUNNING:
        admission.came(earlier)
        decided.starts.remove(earlier)
        decided.outrun(earlier.run_id, ticket.run_id)
        _unkeep(decided, earlier)
        for event, claim in earlier.claimed():
            decided.add(OutcomeKind.FILTERED, OUTDONE, event, ticket.at, {"key": ticket.key, "by": ticket.event_id})
            decided.spend(claim, ticket.at)
        return
    if earlier is not None:
        decided.replaced.append((ticket.run_id, earlier.run_id))
        return
    if (holder := admission.running(ticket.key)) is not None:
        decided.replaced.append((ticket.run_id, holder))
    decided.replaced += [(ticket.run_id, queued.run_id) for queued in admission.queued(ticket.key)]
