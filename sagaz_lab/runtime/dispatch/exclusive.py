"""One decision per trigger at a time: the next batch waits until the store has accepted the previous one."""

from __future__ import annotations

from asyncio import Lock
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from contextvars import Context, ContextVar

from sagaz_lab.abc import Delivery
from sagaz_lab.model.inside import waits_for_itself
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.triggers.state import Reader, TriggerState


class Decision:
    """A decision in progress. User code that it waits for may begin an inner one, whose `outer` it is.

    `locked` are its triggers, `wants` those that it or an inner one waits for. It is `open` while it calls user code,
    and its batches may grow: an event that this code fires to one of its triggers joins the batch; `fired` are these.
    """

    __slots__ = ("batches", "fired", "locked", "now", "open", "outer", "over", "wants")

    def __init__(self, outer: Decision | None) -> None:
        self.outer = outer
        self.locked: list[TriggerState] = []
        self.wants: list[TriggerState] = []
        self.batches: dict[TriggerState, Decided] = {}
        self.fired: list[tuple[Reader, Delivery]] = []
        self.now = 0.0
        self.open = True
        self.over = False

    def with_outer(self) -> Iterator[Decision]:
        decision: Decision | None = self
        while decision is not None:
            yield decision
            decision = decision.outer


_current: ContextVar[Decision | None] = ContextVar("decision", default=None)


def _innermost() -> Decision | None:
    """The decision that waits for the calling code."""
    decision = _current.get()
    while decision is not None and not decision.open:
        decision = decision.outer
    return decision


def open_decision_of(state: TriggerState) -> Decision | None:
    """The decision of this trigger that waits for the calling code, if its batch may still grow."""
    decision = _innermost()
    if decision is None:
        return None
    return next((it for it in decision.with_outer() if state in it.batches), None)


_turn: ContextVar[Lock | None] = ContextVar("turn", default=None)


@asynccontextmanager
async def one_at_a_time() -> AsyncIterator[None]:
    """Of those that join a batch at the same time; what the code of one fires in turn is its own part."""
    turn = _turn.get() or Lock()
    _turn.set(turn)
    async with turn:
        _turn.set(Lock())
        try:
            yield
        finally:
            _turn.set(turn)


def within_a_decision() -> bool:
    """Whether any decision waits for the calling code."""
    return _innermost() is not None


def within(context: Context) -> Context:
    """A copy of this context for code that the current decision waits for."""
    own = context.copy()
    own.run(_current.set, _current.get())
    own.run(_turn.set, _turn.get())
    return own


class Exclusive:
    """Begins decisions in order of request; `on_freed` are called with each trigger without a current decision."""

    def __init__(self) -> None:
        self.on_freed: list[Callable[[TriggerState], None]] = []
        self._holders: dict[TriggerState, Decision] = {}

    async def begin(self, states: Collection[TriggerState]) -> Decision:
        """Returns when no other decision of these triggers is in progress.

        Raises `RunError` if the other one waits for the calling code.
        """
        decision = Decision(_innermost())
        try:
            while decision.outer is None and not await self._lock_all(decision, states):
                self._give_back(decision)  # it holds nothing, so the others proceed
            if decision.outer is not None:
                await self.extend(decision, states)
        except BaseException:
            self._give_back(decision)
            raise
        _current.set(decision)
        _turn.set(Lock())
        return decision

    async def extend(self, decision: Decision, states: Collection[TriggerState]) -> None:
        """`begin` for further triggers of a decision."""
        if not await self._lock_all(decision, states):
            names = ", ".join(sorted(state.name for state in states))
            cure = "fire to it from an action, or publish to it"
            raise waits_for_itself(f"a decision of {names}", "the decision of another event", cure)

    async def _lock_all(self, decision: Decision, states: Collection[TriggerState]) -> bool:
        """False if it would wait for a decision that waits for it."""
        # Each once and in one order, so that concurrent decisions do not deadlock.
        for state in sorted(set(states), key=lambda it: it.name):
            if not await self._lock(decision, state):
                return False
        return True

    async def _lock(self, decision: Decision, state: TriggerState) -> bool:
        if state.exclusive.locked():
            if self._closes_a_circle(decision, state):
                return False
            waiting = list(decision.with_outer())
            for it in waiting:
                it.wants.append(state)
            try:
                await state.exclusive.acquire()
            finally:
                for it in waiting:
                    it.wants.remove(state)
        else:
            await state.exclusive.acquire()
        self._holders[state] = decision
        decision.locked.append(state)
        state.deciding = True
        return True

    def _closes_a_circle(self, decision: Decision, state: TriggerState) -> bool:
        mine, asked, wanted = set(decision.with_outer()), set[TriggerState](), [state]
        while wanted:
            holder = self._holders.get(one := wanted.pop())
            if holder in mine:
                return True
            if holder is not None and one not in asked:
                asked.add(one)
                wanted += holder.wants
        return False

    def end(self, decision: Decision) -> None:
        """The decision is complete or was dropped; idempotent."""
        if not decision.over:
            decision.over, decision.open = True, False
            self._give_back(decision)

    @staticmethod
    def leave(decision: Decision) -> None:
        """In the caller's context: later work is not part of the decision, which may continue elsewhere."""
        _current.set(decision.outer)

    def _give_back(self, decision: Decision) -> None:
        locked, decision.locked = decision.locked, []
        for state in locked:
            state.deciding = False
            del self._holders[state]
            state.exclusive.release()
        for state in locked:
            if not state.deciding:
                self.freed(state)

    def freed(self, state: TriggerState) -> None:
        """The trigger has no current decision: handle what arrived meanwhile, ends of runs first."""
        meanwhile, state.meanwhile = state.meanwhile, []
        for take in meanwhile:
            take()
        for follow in self.on_freed:
            follow(state)

    def when_free(self, state: TriggerState, take: Callable[[], object]) -> None:
        """Apply changes of runs to the gates: now, or after the current decision, since no run ends during one."""
        state.meanwhile.append(take)
        if not state.deciding:
            self.freed(state)
