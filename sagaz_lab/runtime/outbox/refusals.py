"""Publications that a broker refuses: after some tries each becomes a dead letter, and those behind it wait."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sagaz_lab.abc import Clock, DeadLetter, Event, Publication
from sagaz_lab.errors import Unreadable, describe
from sagaz_lab.runtime.triggers.dead_letters import letter_id, text_of

TRIES = 5
"""Tries of a refused publication before it becomes a dead letter: 7.5 seconds in all, with the pauses below."""

FIRST_PAUSE_S = 0.5

REFUSED = "sagaz-publication"
"""The header, with the topic, that distinguishes a publication's dead letter from an event's."""

Row = tuple[int, Publication]


class Refused(NamedTuple):
    """The first remaining publication of a run or of another order key."""

    number: int
    publication: Publication
    error: BaseException
    tries: int
    due: float


class Refusals:
    """The publications that one broker refuses, by order key."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refused: dict[str, Refused] = {}

    def ready(self, rows: Sequence[Row]) -> list[Row]:
        """Those that may be sent now: nothing of their order key is refused, or its next try is due."""
        if not self._refused:
            return list(rows)
        now = self._clock.monotonic()
        waiting = {order for order, it in self._refused.items() if it.due > now}
        return [row for row in rows if row[1].order not in waiting]

    def sent(self, rows: Sequence[Row], errors: Mapping[str, BaseException]) -> list[int]:
        """The numbers of those that the broker took."""
        if not errors and not self._refused:
            return [number for number, _ in rows]
        taken: list[int] = []
        stopped: set[str] = set()
        for number, publication in rows:
            order = publication.order
            if (error := errors.get(publication.id)) is not None and order not in stopped:
                self._note(number, publication, error)
                stopped.add(order)
            elif order not in stopped:
                self._refused.pop(order, None)
                taken.append(number)
        return taken

    def _note(self, number: int, publication: Publication, error: BaseException) -> None:
        known = self._refused.get(publication.order)
        tries = known.tries + 1 if known is not None and known.number == number else 1
        due = self._clock.monotonic() + FIRST_PAUSE_S * 2.0 ** (tries - 1)
        self._refused[publication.order] = Refused(number, publication, error, tries, due)

    def given_up(self) -> list[Refused]:
        """Those out of tries."""
        return [it for it in self._refused.values() if it.tries >= TRIES]

    def buried(self, refused: Sequence[Refused]) -> None:
        """These are dead letters now."""
        for it in refused:
            self._refused.pop(it.publication.order, None)

    def pause_s(self) -> float | None:
        """Seconds until the next try; None if there is none."""
        if not self._refused:
            return None
        return max(0.0, min(it.due for it in self._refused.values()) - self._clock.monotonic())


def sound_and_damaged(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Refused]]:
    """Separate the rows to send from the unreadable ones, which no retry helps and which hold up those behind them."""
    sound, unfit, stopped = list[Row](), list[Refused](), set[str]()
    for row in rows:
        number, publication = row
        if publication.order in stopped:
            continue
        try:
            json.loads(publication.payload)
        except (ValueError, TypeError) as error:
            why = f"the stored payload cannot be read: {describe(error)}; redrive it with fix=, or discard it"
            unfit.append(Refused(number, publication, Unreadable(why), 1, 0.0))
            stopped.add(publication.order)
        else:
            sound.append(row)
    return sound, unfit


def _payload_of(publication: Publication) -> Any:
    """The payload, or the stored text if it cannot be read; `fix` gets that text."""
    try:
        return json.loads(publication.payload)
    except (ValueError, TypeError):
        return str(publication.payload, "utf-8", "backslashreplace")


def letter_of(refused: Refused, broker: str, saga: str, revision: int, at: float) -> DeadLetter:
    """Its event is the publication, with its id and payload."""
    it, topic = refused.publication, refused.publication.topic
    headers = {REFUSED: topic, "sagaz-run": it.run_id}
    moment = datetime.fromtimestamp(at, UTC)
    return DeadLetter(
        id=letter_id(),
        event=Event(_payload_of(it), it.id, f"publication to {topic}", None, headers, moment),
        trigger=it.trigger or "",
        saga=saga,
        cause=f"publications to {topic!r} are damaged"
        if isinstance(refused.error, Unreadable)
        else f"{broker} refuses publications to {topic!r}",
        error=f"publication to {topic!r}: {describe(refused.error)}",
        traceback=text_of(refused.error),
        attempts=refused.tries,
        revision=revision,
        at=at,
        run_id=it.run_id,
    )


def is_refused(letter: DeadLetter) -> bool:
    """Whether it is a publication's dead letter, not an event's."""
    return bool(letter.event.headers) and REFUSED in letter.event.headers
