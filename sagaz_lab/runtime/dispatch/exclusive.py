"""A trigger makes one decision at a time: the next batch waits until the store has taken the one before."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextvars import Context, ContextVar

from sagaz_lab.runtime.triggers.state import TriggerState


class Decision:
    """One that is under way. What the user's code fires within it does not wait for it: `locked` is empty then."""

    __slots__ = ("locked", "outer", "over", "states")

    def __init__(
        self, states: Collection[TriggerState], locked: Collection[TriggerState], outer: Decision | None
    ) -> None:
        self.states = states
        self.locked = locked
        self.outer = outer
        self.over = False


_current: ContextVar[Decision | None] = ContextVar("decision", default=None)


def within_a_decision_of(state: TriggerState) -> bool:
    """Whether the caller is code that such a decision waits for."""
    decision = _current.get()
    while decision is not None:
        if not decision.over and state in decision.states:
            return True
        decision = decision.outer
    return False


def within_a_decision() -> bool:
    """Whether the caller is code that any decision waits for."""
    decision = _current.get()
    return decision is not None and not decision.over


def within(context: Context) -> Context:
    """A copy of this context, for code that the current decision waits for."""
    own = context.copy()
    own.run(_current.set, _current.get())
    return own


class Exclusive:
    """Begins decisions in the order in which they are asked for; `on_freed` are called with a trigger that has none."""

    def __init__(self) -> None:
        self.on_freed: list[Callable[[TriggerState], None]] = []

    async def begin(self, states: Collection[TriggerState]) -> Decision:
        """Returns when no other decision of these triggers is under way.

        Called by the code that a decision waits for, it returns at once: the two would wait for each other.
        """
        outer = _current.get()
        if outer is not None and not outer.over:
            return Decision(states, (), outer)
        mine: list[TriggerState] = []
        try:
            # Each once, and in one order, so that no two wait for each other.
            for state in sorted(set(states), key=lambda it: it.name):
                await state.exclusive.acquire()
                mine.append(state)
                state.deciding = True
        except BaseException:
            self._give_back(mine, mine)
            raise
        decision = Decision(states, mine, outer)
        _current.set(decision)
        return decision

    def end(self, decision: Decision) -> None:
        """It is made, or nothing came of it; idempotent."""
        if not decision.over:
            decision.over = True
            self._give_back(decision.locked, decision.states)

    @staticmethod
    def leave(decision: Decision) -> None:
        """In the caller's context: what it does next is no part of the decision, which may go on elsewhere."""
        _current.set(decision.outer)

    def _give_back(self, locked: Collection[TriggerState], states: Collection[TriggerState]) -> None:
        for state in locked:
            state.deciding = False
            state.exclusive.release()
        for state in states:
            if not state.deciding:
                self.freed(state)

    def freed(self, state: TriggerState) -> None:
        """No decision of the trigger is under way: what came meanwhile is seen to, ends of runs first."""
        meanwhile, state.meanwhile = state.meanwhile, []
        for take in meanwhile:
            take()
        for follow in self.on_freed:
            follow(state)

    def when_free(self, state: TriggerState, take: Callable[[], object]) -> None:
        """Take what has happened to runs into the gates: now, or when the decision that is under way is made, as no run
        ends inside one."""
        state.meanwhile.append(take)
        if not state.deciding:
            self.freed(state)
