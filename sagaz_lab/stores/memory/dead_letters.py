"""The dead letters of the memory store."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from sagaz_lab.abc import DeadLetter, NewRun, Redriven
from sagaz_lab.stores.memory.claims import Claims
from sagaz_lab.stores.memory.cooldowns import Cooldowns
from sagaz_lab.stores.memory.frames import StoredDeadLetter

LETTERS = 10_000
"""Maximum number of dead letters."""


class DeadLetters(dict[str, StoredDeadLetter]):
    """By id, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = count(1)

    def bury(self, letter: DeadLetter) -> None:
        if letter.id not in self:
            self[letter.id] = StoredDeadLetter(letter, next(self._numbers))
        if len(self) > LETTERS:
            for old in list(islice(self, LETTERS // 100)):
                del self[old]

    def open(self, ids: Sequence[str]) -> list[DeadLetter]:
        wanted = set(ids)
        return [entry.letter for id, entry in self.items() if id in wanted and entry.state == "open"]

    def after(self, number: int, limit: int) -> list[tuple[int, DeadLetter]]:
        later = ((entry.number, entry.letter) for entry in self.values() if entry.number > number)
        return list(islice(later, limit))

    def settle(self, ids: Sequence[str], state: str) -> int:
        """Returns how many were open."""
        entries = [self[id] for id in dict.fromkeys(ids) if id in self]
        still_open = [entry for entry in entries if entry.state == "open"]
        for entry in still_open:
            entry.state = state
        return len(still_open)


def redrive(
    redriven: Sequence[Redriven], news: Sequence[NewRun], letters: DeadLetters, claims: Claims, cooldowns: Cooldowns
) -> None:
    """Settle the open dead letters and free their claims and cooldowns for the results."""
    runs = {each.claim: each.run_id for each in redriven if each.run_id is not None}
    for letter, trigger, claim, run_id, _ in redriven:
        if letters.settle([letter], "redriven"):
            claims.leave(trigger, claim, letter, run_id)
    for new in news if runs else ():
        if new.cooldown is not None and (its_run := runs.get(new.claim or "")) is not None:
            cooldowns.leave(new.trigger or "", new.cooldown[0], its_run)
