"""How many events a trigger is given at one time."""

from __future__ import annotations

TURN_S = 0.005
"""A batch should not hold up the loop for longer."""

MARGIN = 1.5
"""So many times what is expected must have room, since no batch is like the one before."""

FORGET = 0.8
"""What is left of what was learnt, after each batch that had less to do."""


class BatchSize:
    """Learns from each batch what share of the events starts a run, and how long it takes to decide one.

    Most triggers let few events through: given as many events as runs may start, they would leave most slots empty
    and pay for a batch's fixed costs ten times over.
    """

    __slots__ = ("_event_s", "_share")

    def __init__(self) -> None:
        self._share = 1.0
        self._event_s = 0.0

    def learn(self, events: int, starts: int, took_s: float) -> None:
        """More to do counts at once, less to do only by and by."""
        self._share = max(starts / events, self._share * FORGET)
        self._event_s = max(took_s / events, self._event_s * FORGET)

    def events_for(self, slots: int) -> int:
        """How many events are likely to find a slot for each run that they start, and at least as many as slots."""
        likely = slots / (MARGIN * self._share)
        return max(slots, int(min(likely, TURN_S / self._event_s if self._event_s else likely)))
