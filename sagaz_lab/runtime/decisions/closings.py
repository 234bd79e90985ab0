"""What is to be decided when a window closes, and in which order."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from itertools import takewhile

from sagaz_lab.abc import WaitingEvent
from sagaz_lab.runtime.decisions.decided import Decided
from sagaz_lab.runtime.gates.window_policies import Closing, Released
from sagaz_lab.runtime.gates.windows import Windows
from sagaz_lab.runtime.triggers.compiled import TriggerState


def settled_closings(decided: Decided, windows: Windows, gone: Collection[str]) -> Sequence[Closing]:
    """What is to be decided next, now that it is known which of the events the store has refused.

    An event that was refused supersedes none and fills no window: those go on waiting.
    """
    closings: list[Closing] = []
    released: list[Released] = []
    for by, superseded in decided.superseded:
        if by.id in gone:
            windows.put_back([waiting for waiting, _ in superseded if waiting.id not in gone])
        else:
            released += [one for one in superseded if one.waiting.id not in gone]
    if released:
        closings.append(Closing((), released, False))
    for closing in decided.closings:
        key = closing.events[0].key
        if gone and any(waiting.id in gone for waiting in closing.events):
            windows.put_back([waiting for waiting in closing.events if waiting.id not in gone])
            if windows.full(key):
                closings.append(windows.close(key))
        else:
            closings.append(closing)
    return closings


def without_gone(closing: Closing, state: TriggerState, gone: Collection[str], now: float) -> Sequence[Closing]:
    """What is to be decided in its place: an event that the store refused closes and supersedes nothing."""
    if not closing.events:
        released = [one for one in closing.released if one.waiting.id not in gone]
        return [Closing((), released, False)] if released else []
    key, windows = closing.events[0].key, state.windows
    assert windows is not None
    windows.put_back([waiting for waiting in events_of(closing) if waiting.id not in gone])
    return [windows.close(key)] if windows.full(key) else [*windows.close_due(now)]


def reopened(closings: deque[Closing], under_way: int, gone: Collection[str]) -> list[WaitingEvent]:
    """Take out the events that are not being decided. What only releases stays: no code is asked for that."""
    rest = [closings.pop() for _ in range(len(closings) - under_way)][::-1]
    closings.extend(closing for closing in rest if not closing.events)
    return [waiting for closing in rest if closing.events for waiting in events_of(closing) if waiting.id not in gone]


def events_of(closing: Closing) -> list[WaitingEvent]:
    return [*closing.events, *(waiting for waiting, _ in closing.released)]


def first_of(closings: Sequence[Closing]) -> tuple[int, Closing]:
    """How many of the closings are decided together, and as what: those that only release share a transaction."""
    if closings[0].events:
        return 1, closings[0]
    alike = list(takewhile(lambda closing: not closing.events, closings))
    return len(alike), Closing((), [released for closing in alike for released in closing.released], False)


def drop(decided: Decided, waiting: WaitingEvent, now: float) -> None:
    """Its window gives it up, since the queue is full."""
    if waiting in decided.waiting:
        decided.waiting.remove(waiting)  # it came with this batch, so the store need not have it
    else:
        decided.released.append(waiting)
    decided.overflow(waiting.event, now, waiting.claim, rejected=False)
    decided.spend(waiting.claim, now)  # it would come again as the newest
