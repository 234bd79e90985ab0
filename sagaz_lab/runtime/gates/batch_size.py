"""How many events a trigger decides per batch."""

from __future__ import annotations

TURN_S = 0.005
"""Target time per batch, so that the loop is not blocked for longer."""

MARGIN = 1.5
"""Safety factor on the expected number of starts, since batches vary."""

FORGET = 0.8
"""Weight of the past after a batch with less work."""


class BatchSize:
    """Learns the share of events that start a run, and the time per decision.

    Most triggers let few events through: a batch no larger than the free slots would leave most slots empty and pay the
    fixed cost of a batch ten times over.
    """

    __slots__ = ("_event_s", "_share")

    def __init__(self) -> None:
        self._share = 1.0
        self._event_s = 0.0

    def learn(self, events: int, starts: int, took_s: float) -> None:
        """More work counts at once, less work only gradually."""
        self._share = max(starts / events, self._share * FORGET)
        self._event_s = max(took_s / events, self._event_s * FORGET)

    def events_for(self, slots: int) -> int:
        """How many events are likely to fill the slots; at least as many as slots."""
        likely = slots / (MARGIN * self._share)
        return max(slots, int(min(likely, TURN_S / self._event_s if self._event_s else likely)))
