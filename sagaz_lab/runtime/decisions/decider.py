"""The decision loop: the events of one `receive`, for one trigger, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from time import perf_counter
from typing import Any

from sagaz_lab.abc import IntakeStore, Member, WaitingEvent
from sagaz_lab.errors import MissingKey
from sagaz_lab.model.apart import UNCHANGING
from sagaz_lab.model.awaiting import is_awaitable
from sagaz_lab.model.event import Delivery, Event, is_as_sent, payload_as_sent, reader_of
from sagaz_lab.model.listener import tell
from sagaz_lab.model.run import OutcomeKind, RunStatus
from sagaz_lab.model.stopping import UserCode
from sagaz_lab.model.trigger import Skip
from sagaz_lab.model.variables import Caller, driven, in_own_context
from sagaz_lab.runtime.decisions.decided import RETURNED_NONE, Again, Decided
from sagaz_lab.runtime.decisions.hints import report_hidden_fields, report_slow
from sagaz_lab.runtime.decisions.prepared import ITSELF, Prepared, prepare
from sagaz_lab.runtime.decisions.returned import as_context
from sagaz_lab.runtime.decisions.seen import HANGS, WAITING_ID
from sagaz_lab.runtime.gates.cooldowns import Cooldown
from sagaz_lab.runtime.gates.pending_run import PendingRun
from sagaz_lab.runtime.gates.reservation import WAITS_IN_WINDOW, Reservation, Verdict
from sagaz_lab.runtime.gates.window_policies import Closing
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.compiled import CompiledTrigger
from sagaz_lab.runtime.triggers.state import TriggerState

_are_unchanging = UNCHANGING.issuperset
_AT_ONCE = frozenset({type(None), Skip, dict})
"""The usual results of a method, which need no await."""
_FILTERED = OutcomeKind.FILTERED
_RUNNING = RunStatus.RUNNING

Ask = Callable[[Reservation, PendingRun, float, str | None], Verdict | None]
"""A check before a run starts, which returns the refusal; the last argument is the run of the dead letter that it
comes from.
"""


class Decider:
    """Decides batches of deliveries and waiting events into a `Decided`, whose batch takes from the gates."""

    def __init__(self, store: IntakeStore, run_ids: Iterator[str], report: Report) -> None:
        self._store = store
        self._run_ids = run_ids
        self._report = report

    @in_own_context
    async def decide(
        self, decided: Decided, deliveries: Sequence[Delivery], now: float, *, part: int = 0, quiet: bool = False,
        callers: Sequence[Caller] = (),
    ) -> None:  # fmt: skip
        """Runs the trigger method on each event, or puts it into its window.

        `quiet`: no listener is called, and starting runs take neither slot nor place. `callers` fired the events, one
        each.
        """
        state, compiled = decided.state, decided.state.compiled
        hooks = {} if quiet else compiled.definition.hooks
        if received := hooks.get("on_trigger_received"):
            for delivery in deliveries:
                await tell(received, compiled.definition.name, delivery.event.source, delivery.event)
        prepared = await prepare(compiled, deliveries, part, decided.redriven)
        if callers:
            prepared, decided.mixed = prepared.fired_by(callers), True
        await self._ask(decided, prepared.all_claims(), now)
        first = 0
        for unfit in prepared.unfit:
            await self._pass(decided, prepared, first, unfit.before, now, quiet=quiet)
            decided.bury(unfit.event, unfit.error, unfit.claim, now)
            first = unfit.before
        await self._pass(decided, prepared, first, len(prepared.events), now, quiet=quiet)
        decided.settle_left(now)
        if not quiet:
            report_slow(self._report, decided)
            if not state.reported_hidden_fields and prepared.claims:
                report_hidden_fields(self._report, state, prepared.events[0])

    @in_own_context
    async def decide_due(self, decided: Decided, now: float) -> None:
        """Decides the windows that are due."""
        decided.state.core.due(decided.batch, now)
        if decided.batch.closed:
            await self._ask(decided, (), now)
            await self._decide_closed(decided, now)
        decided.settle_left(now)

    @in_own_context
    async def decide_whole(self, decided: Decided, events: Sequence[Event], now: float) -> None:
        """Runs the method on dead letters' events that have passed their window; none waits there again.

        For a window's list, the run claims the id and the key of the last event. If the list starts no run again, the
        letter is the run's again.
        """
        compiled, redriven = decided.state.compiled, decided.redriven
        decided.of_runs = {id: letter.run_id for id, letter in redriven.items() if letter.run_id is not None}
        fit: list[tuple[Event, Any, str | None, Event, str | None]] = []
        for event in events:
            claim = redriven[event.id].claim
            try:
                subject = compiled.subject_of(event)
                last = subject[-1] if compiled.together and isinstance(subject, list) else subject
                declared = compiled.declared(last, compiled.part_of(event))
            except BaseException as error:
                decided.dead(event, error, now, claim)
                continue
            fit.append((reader_of(event), subject, claim, event, declared))
        if fit:
            prepared = Prepared.of(fit)._replace(whole=True)
            await self._ask(decided, prepared.all_claims(), now)
            await self._pass(decided, prepared, 0, len(fit), now)
        decided.settle_left(now)

    @in_own_context
    async def decide_queued(self, decided: Decided, pending: PendingRun, now: float) -> PendingRun | None:
        """Runs the current revision's method on the event of a queued run.

        Returns the run as it would start now; None if none would.
        """
        compiled, event = decided.state.compiled, pending.event
        assert event is not None
        # A run loaded after a restart comes without its claims, and a window's list without its events.
        claim = pending.claim or _id_claim(compiled, event)
        alone = pending.alone or event
        if alone is event and isinstance(event.payload, list):
            decided.of_runs = {event.id: pending.run_id}
        try:
            subject, keyed = compiled.subject_of(event), compiled.subject_of(event)
            prepared = Prepared([reader_of(event)], [subject], [claim], [alone], keyed=keyed)
        except BaseException as error:
            decided.dead(alone, error, now, claim)
        else:
            await self._run_methods(decided, prepared, 0, 1, now, ask=_nothing)
        decided.spread(pending.members, now)
        return next(iter(decided.starts), None)

    @in_own_context
    async def settle_again(self, decided: Decided, again: Sequence[Again], refused: Container[str], now: float) -> None:
        """Settles what depended on others of a batch, given which of those the store refused."""
        await self._ask(decided, [claim for it in again for claim in it.claims()], now)
        for it in again:
            prepared, number = it.prepared, it.number
            if it.on is not HANGS and it.on not in refused:
                decided.settle(it, now)
            elif prepared.window:
                await self._decide_together(decided, prepared, now)
            else:
                await self._pass(decided, prepared, number, number + 1, now)
        decided.settle_left(now)

    # --- into the gates ---

    async def _ask(self, decided: Decided, claims: Sequence[str], now: float) -> None:
        """Who holds the claims, and which keys cool down. A dead letter's event may have its own claims."""
        state, seen = decided.state, decided.seen
        if claims:
            found = await self._store.seen(state.name, claims, at=now)
            seen.update(found)
            for letter, _, claim, run_id, _ in decided.redriven.values():
                refusal = found.get(claim)
                if refusal is not None and (refusal.letter == letter or refusal.first_run == run_id is not None):
                    del seen[claim]
        await self.learn_cooldowns(state, now)

    async def learn_cooldowns(self, state: TriggerState, now: float) -> None:
        """Have those in memory that the store has. Raises `StoreError`."""
        if state.has_unknown_cooldowns:
            cooling = await self._store.cooling(state.name, at=now)
            found = ((key, Cooldown(it.cooling_until or now, it.first_run or "")) for key, it in cooling.items())
            state.core.cooldowns.learn(found)

    async def _pass(
        self, decided: Decided, prepared: Prepared, first: int, end: int, now: float, *, quiet: bool = False
    ) -> None:
        """Passes the events of this range, end excluded, through all gates."""
        if not prepared.callers:
            await self._pass_together(decided, prepared, first, end, now, quiet=quiet)
            return
        for i in range(first, end):
            decided.origin = prepared.callers[i].origin
            work = self._pass_together(decided, prepared, i, i + 1, now, quiet=quiet)
            await driven(work, prepared.callers[i].decides)

    async def _pass_together(
        self, decided: Decided, prepared: Prepared, first: int, end: int, now: float, *, quiet: bool
    ) -> None:
        if first == end:
            return
        if decided.state.compiled.policy is None or prepared.whole:
            ask = decided.state.core.refuses if quiet else None
            await self._run_methods(decided, prepared, first, end, now, ask=ask)
        else:
            await self._hold(decided, prepared, first, end, now, quiet=quiet)

    async def _hold(
        self, decided: Decided, prepared: Prepared, first: int, end: int, now: float, *, quiet: bool
    ) -> None:
        """Puts events into their windows; a window that an event closes is decided before the next event."""
        state, seen, batch = decided.state, decided.seen, decided.batch
        read, arrive = state.compiled.window_key, state.core.arrive
        for i, event, given, claim, declared in prepared.each(first, end):
            if claim in seen or declared in seen:
                decided.taken(prepared, i, (claim, declared), now)
                continue
            kept = prepared.kept(i)
            try:
                key = None if read is None else read(event if given is ITSELF else given)
            except BaseException as error:
                decided.bury(kept, error, claim, now)
                continue
            id = WAITING_ID + next(self._run_ids).partition("-")[2]
            waiting = WaitingEvent(id, state.name, key, prepared.part, kept, claim, now, declared)
            verdict = arrive(batch, waiting, now)
            if verdict is not None and verdict is not WAITS_IN_WINDOW:
                decided.say(verdict, prepared, i, now)
                decided.spend_filtered(verdict, claim, now)
            if batch.closed and not quiet:
                await self._decide_closed(decided, now)

    async def _decide_closed(self, decided: Decided, now: float) -> None:
        """The windows closed by the batch or the time. Those of a removed trigger wait for its code."""
        closed = decided.batch.closed
        while closed:
            closing = closed.pop(0)
            if decided.state.removed:
                decided.state.core.reopen(closing)
            else:
                await self._decide_window(decided, closing, now)

    async def _decide_window(self, decided: Decided, closing: Closing, now: float) -> None:
        """Runs the method on a window's events, all together or the last. Its claims are its own."""
        compiled = decided.state.compiled
        fit: list[WaitingEvent] = []
        subjects: list[Any] = []
        stored = decided.take_out(closing.events)
        for event in closing.events:
            try:
                subjects.append(compiled.subject_of_one(event.event))
                fit.append(event)
            except BaseException as error:
                decided.dead(event.event, error, now, event.claim)
        decided.released += [event for event in stored if event not in fit]
        if fit:
            last = fit[-1]
            listed, keyed = None, None
            if closing.together:
                listed = last.event.with_payload([payload_as_sent(event.event) for event in fit])
                if compiled.concurrency_key is not None or compiled.pace_key is not None:
                    keyed = [compiled.subject_of_one(event.event) for event in fit]
            prepared = Prepared(
                [reader_of(listed or last.event)], [subjects if closing.together else subjects[-1]], [last.claim],
                [last.event], [last.declared], keyed=keyed, listed=listed, whole=True,
                members=[Member(event.event, event.claim, event.declared) for event in fit[:-1]],
                window=[event for event in stored if event in fit],
            )  # fmt: skip
            await self._decide_together(decided, prepared, now)

    async def _decide_together(self, decided: Decided, prepared: Prepared, now: float) -> None:
        own = decided.beside()
        await self._run_methods(own, prepared, 0, 1, now)
        decided.close(own, prepared, now)
        report_slow(self._report, own)

    # --- the method ---

    async def _run_methods(
        self, decided: Decided, prepared: Prepared, first: int, end: int, now: float, *, ask: Ask | None = None
    ) -> None:
        """Runs it on each event and offers its runs to the gates, or only applies the other checks."""
        compiled, core, seen, before = decided.state.compiled, decided.state.core, decided.seen, len(decided.starts)
        method, wants_event = compiled.method, compiled.wants_event
        noted = compiled.config.persist_events or "on_trigger_filtered" in compiled.definition.hooks
        leads = core.leading.active and not prepared.whole
        runs: list[PendingRun] | None = [] if core.plain and ask is None else None
        nones: list[str] = []
        code = UserCode()
        begun = perf_counter()
        for i, event, given, claim, declared in prepared.each(first, end):
            if claim in seen or (declared is not None and declared in seen):
                decided.taken(prepared, i, (claim, declared), now)
                continue
            subject = event if given is ITSELF else given
            if leads and not self._leads(decided, prepared, i, subject, now):
                continue
            try:
                result = method(subject, event) if wants_event else method(subject)
                if type(result) not in _AT_ONCE and is_awaitable(result):
                    waiting = perf_counter()
                    result = await code.awaited(result)
                    method = compiled.method  # its params may have changed meanwhile
                    begun += perf_counter() - waiting  # the wait did not block the loop
            except BaseException as error:
                if code.ends_by(error):
                    raise
                decided.bury(prepared.kept(i), error, claim, now)
                continue
            if result is None:
                # The most common case by far takes the shortest path.
                nones.append(event.id)
                if noted:
                    decided.note(prepared.kept(i), _FILTERED, RETURNED_NONE, now)
            elif type(result) is Skip:
                decided.add(_FILTERED, result.reason, prepared.kept(i) if noted else event, now, result.facts)
            else:
                self._start(decided, prepared, i, event, result, now, runs, ask)
        decided.measured(perf_counter() - begun, end - first, len(decided.starts) - before + len(runs or ()))
        if runs:
            core.offer_all(decided.batch, runs, now)
        decided.add_nones(nones, now)
        await code.withdraw()

    def _leads(self, decided: Decided, prepared: Prepared, i: int, subject: Any, now: float) -> bool:
        """Whether the event opens a period; otherwise it is filtered, or dead."""
        state, read = decided.state, decided.state.compiled.leading_key
        event, claim = prepared.kept(i), prepared.claims[i]
        try:
            key = None if read is None else read(subject)
        except BaseException as error:
            decided.bury(event, error, claim, now)
            return False
        exempt = prepared.sent[i].id in decided.redriven
        arrived = WaitingEvent("", state.name, key, 0, event, claim, now)
        if (verdict := state.core.arrive(decided.batch, arrived, now, exempt=exempt)) is not None:
            decided.say(verdict, prepared, i, now)
        return verdict is None

    def _start(
        self, decided: Decided, prepared: Prepared, i: int, event: Event, returned: Any, now: float,
        runs: list[PendingRun] | None, ask: Ask | None,
    ) -> None:  # fmt: skip
        """Offers the event's run, or adds it to the `runs` that are offered together; makes a dead letter if its
        context or a key cannot be read.
        """
        seen, compiled = decided.seen, decided.state.compiled
        definition, claim, keyed = compiled.definition, prepared.claims[i], None
        if prepared.listed is not None:
            event = prepared.listed
        elif not (prepared.shared and is_as_sent(event)):
            event = prepared.kept(i)
        flat = type(returned) is dict and _are_unchanging(map(type, returned.values()))
        try:
            context = returned.copy() if flat else as_context(returned, decided.state.name)
            if compiled.keyed:
                keyed = compiled.keys_of_run(compiled.subject_of(event) if prepared.keyed is None else prepared.keyed)
        except BaseException as error:
            decided.bury(prepared.kept(i), error, claim, now)
            return
        run_id = next(self._run_ids)
        run = PendingRun(run_id, definition.name, decided.state.name, definition.revision, event, context, now, flat,
                         _RUNNING, claim, None if claim is None else now + compiled.id_ttl_s,
                         started=definition.plan.roots)  # fmt: skip
        if decided.mixed:
            run.origin = decided.origin
        if keyed is not None:
            run.key, run.pace_key = keyed
        if prepared.declared is not None and (declared := prepared.declared[i]) is not None:
            run.declared, run.declared_until = declared, now + compiled.claim_ttl_s
            run.declared_ends = compiled.claim_ends
        if prepared.whole:
            run.alone, run.members = None if prepared.listed is None else prepared.sent[0], prepared.members
        if runs is None:
            self._offer(decided, prepared, i, run, now, ask)
            return
        runs.append(run)
        if claim is not None:
            seen[claim] = run_id
        if run.declared is not None:
            seen[run.declared] = run_id

    def _offer(
        self, decided: Decided, prepared: Prepared, i: int, run: PendingRun, now: float, ask: Ask | None
    ) -> None:
        letter = decided.redriven.get(prepared.sent[i].id) if decided.redriven else None
        offer = ask or decided.state.core.offer
        if (verdict := offer(decided.batch, run, now, None if letter is None else letter.run_id)) is not None:
            decided.say(verdict, prepared, i, now)
        elif ask is not None:
            decided.batch.starts[run.run_id] = run


def _nothing(batch: Reservation, run: PendingRun, now: float, of_letter: str | None) -> None:
    """The run has passed the gates."""


def _id_claim(compiled: CompiledTrigger, event: Event) -> str | None:
    try:
        return compiled.id_claim(event, compiled.part_of(event))
    except MissingKey:
        return None
