"""Notices of dead letters that the store has: to the saga's listeners, in reports, and of too many of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from sagaz_lab.abc import DeadLetter
from sagaz_lab.model.listener import tell
from sagaz_lab.runtime.lifetime.lifetime import Lifetime
from sagaz_lab.runtime.lifetime.tasks import Report
from sagaz_lab.runtime.triggers.state import TriggerState

SPIKE_LETTERS, SPIKE_S = 20, 60.0
"""More letters of one trigger than this within so many seconds are a spike; it is over at half as many."""

LOOP_DEATHS = 3
"""An event that dies so often, redriven each time, will die again."""

LOOP_OVER_S = 600.0
"""A trigger's loop is over when none of its events has died so often for this long."""

WATCHED = 1000
"""Triggers that are watched; those whose letters came longest ago are forgotten first."""


class _Watched:
    __slots__ = ("looped_at", "spiking", "times")

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=SPIKE_LETTERS + 1)
        self.spiking = False
        self.looped_at: float | None = None


class DeadLetterWatch:
    """Reports, once for each episode, that letters come in a flood or that one event dies again and again."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._watched: dict[str, _Watched] = {}

    def note(self, letter: DeadLetter, now: float) -> None:
        """A letter was stored; `now` is the Lab's clock."""
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
    """Of the letters of all triggers."""

    def __init__(self, life: Lifetime) -> None:
        self._life = life
        self._watch = DeadLetterWatch(life.report)

    def note(self, letter: DeadLetter) -> None:
        """The store has it."""
        self._watch.note(letter, letter.at)

    async def tell(self, state: TriggerState, letters: Sequence[DeadLetter]) -> None:
        """The store has these: note them, wake the relay for their topic, call the listeners."""
        if letters and state.compiled.config.dead_letter_topic is not None:
            self._life.published()
        for letter in letters:
            self.note(letter)
            hooks = state.compiled.definition.hooks.get("on_trigger_dead", ())
            await tell(hooks, letter.saga, letter.event, letter.error)

    def report(self, letters: Sequence[DeadLetter]) -> None:
        """Report those of events whose outcome no caller waits for."""
        for letter in letters:
            self._life.report(
                f"dead:{letter.trigger}:{letter.cause}",
                f"{letter.trigger}: event {letter.event.id} is dead: {letter.error}",
            )
