"""What is to be decided when a window closes, and in which order."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import takewhile

from sagaz_lab.abc import HeldEvent
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.gates.window_policies import Closing, Released
from sagaz_lab.runtime.gates.windows import Windows
from sagaz_lab.runtime.triggers.compiled import TriggerState


def settled_closings(decided: Decided, windows: Windows, gone: Collection[str]) -> Sequence[Closing]:
    """What is to be decided next, now that it is known which of the events the store has refused.

    An event that was refused outdoes none and fills no window: those go on waiting.
    """
    closings: list[Closing] = []
    released: list[Released] = []
    for by, superseded in decided.superseded:
        if by.id in gone:
            windows.put_back([held for held, _ in superseded if held.id not in gone])
        else:
            released += [one for one in superseded if one.held.id not in gone]
    if released:
        closings.append(Closing((), released, False))
    for closing in decided.closings:
        key = closing.events[0].key
        if gone and any(held.id in gone for held in closing.events):
            windows.put_back([held for held in closing.events if held.id not in gone])
            if windows.full(key):
                closings.append(windows.close(key))
        else:
            closings.append(closing)
    return closings


def without_gone(closing: Closing, state: TriggerState, gone: Collection[str], now: float) -> Sequence[Closing]:
    """What is to be decided in its place: an event that the store refused closes and outdoes nothing."""
    if not closing.events:
        released = [one for one in closing.released if one.held.id not in gone]
        return [Closing((), released, False)] if released else []
    key, windows = closing.events[0].key, state.windows
    assert windows is not None
    windows.put_back([held for held in events_of(closing) if held.id not in gone])
    return [windows.close(key)] if windows.full(key) else [*windows.close_due(now)]


def reopened(closings: deque[Closing], under_way: int, gone: Collection[str]) -> list[HeldEvent]:
    """Take out the events that are not being decided. What only releases stays: no code is asked for that."""
    rest = [closings.pop() for _ in range(len(closings) - under_way)][::-1]
    closings.extend(closing for closing in rest if not closing.events)
    return [held for closing in rest if closing.events for held in events_of(closing) if held.id not in gone]


def events_of(closing: Closing) -> list[HeldEvent]:
    return [*closing.events, *(held for held, _ in closing.released)]


def first_of(closings: Sequence[Closing]) -> tuple[int, Closing]:
    """How many of the closings are decided together, and as what: those that only release share a transaction."""
    if closings[0].events:
        return 1, closings[0]
    alike = list(takewhile(lambda closing: not closing.events, closings))
    return len(alike), Closing((), [released for closing in alike for released in closing.released], False)


def drop(decided: Decided, held: HeldEvent, now: float) -> None:
    """Its window gives it up, since the queue is full."""
    if held in decided.held:
        decided.held.remove(held)  # it came with this batch, so the store need not have it
    else:
        decided.released.append(held)
    decided.overflow(held.event, now, held.claim, rejected=False)
    decided.spend(held.claim, now)  # it would come again as the newest
