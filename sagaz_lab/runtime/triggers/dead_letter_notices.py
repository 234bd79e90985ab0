"""Notices of stored dead letters: calls of the saga's listeners, reports, and warnings about too many of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sagaz_lab.abc import DeadLetter
from sagaz_lab.model.listener import tell
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.state import TriggerState

SPIKE_LETTERS, SPIKE_S = 20, 60.0
"""More dead letters of one trigger within `SPIKE_S` are a spike; it ends at half as many."""

LOOP_DEATHS = 3
"""After this many deaths of one redriven event, redriving it again is unlikely to help."""

LOOP_OVER_S = 600.0
"""A loop ends when no event of the trigger has died this often for this long."""

WATCHED = 1000
"""Number of triggers watched; the ones with the oldest dead letters are dropped first."""


class _Watched:
    __slots__ = ("looped_at", "spiking", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=SPIKE_LETTERS + 1)
        self.spiking = False
        self.looped_at: float | None = None


class DeadLetterWatch:
    """Reports, once per episode, a spike of dead letters or an event that dies again and again."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._watched: dict[str, _Watched] = {}

    def note(self, letter: DeadLetter, now: float) -> None:
        """A dead letter was stored; `now` is the Lab's clock."""
        watched = self._watched.pop(letter.trigger, None) or _Watched()
        self._watched[letter.trigger] = watched
        if len(self._watched) > WATCHED:
            del self._watched[next(iter(self._watched))]
        self._note_spike(watched, letter, now)
        if letter.redriven + 1 >= LOOP_DEATHS:
            self._note_loop(watched, letter, now)

    def _note_spike(self, watched: _Watched, letter: DeadLetter, now: float) -> None:
        watched.times.append(now)
        recent = sum(now - at <= SPIKE_S for at in watched.times)
        if watched.spiking:
            watched.spiking = recent > SPIKE_LETTERS // 2
        elif recent > SPIKE_LETTERS:
            watched.spiking = True
            self._report(
                f"letters:spike:{letter.trigger}",
                f"{letter.trigger}: more than {SPIKE_LETTERS} dead letters within {SPIKE_S:g} s; "
                f"lab.dead_letters(by='cause') groups them, the last is: {letter.error}",
            )

    def _note_loop(self, watched: _Watched, letter: DeadLetter, now: float) -> None:
        known = watched.looped_at is not None and now - watched.looped_at <= LOOP_OVER_S
        watched.looped_at = now
        if not known:
            self._report(
                f"letters:loop:{letter.trigger}",
                f"{letter.trigger}: event {letter.event.id} has died {letter.redriven + 1} times, redriven each time; "
                f"fix its cause or its payload, or lab.discard it: {letter.error}",
            )


class DeadLetterNotices:
    """The notices of all triggers."""

    def __init__(self, life: Lifetime) -> None:
        self._life = life
        self._watch = DeadLetterWatch(life.report)

    def note(self, letter: DeadLetter) -> None:
        """The dead letter is stored."""
        self._watch.note(letter, letter.at)

    async def announce(self, state: TriggerState, letters: Sequence[DeadLetter]) -> None:
        """The dead letters are stored: note them, wake the relay for their topic, call the listeners."""
        if letters and state.compiled.config.dead_letter_topic is not None:
            self._life.published()
        for letter in letters:
            self.note(letter)
            hooks = state.compiled.definition.hooks.get("on_trigger_dead", ())
            await tell(hooks, letter.saga, letter.event, letter.error)

    def report(self, letters: Sequence[DeadLetter]) -> None:
        """Report dead letters of events whose outcome no caller awaits."""
        for letter in letters:
            self._life.report(
                f"dead:{letter.trigger}:{letter.cause}",
                f"{letter.trigger}: event {letter.event.id} is dead: {letter.error}",
            )
