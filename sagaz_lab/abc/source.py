"""A source hands over deliveries of events; a publisher takes publications. A clock tells the time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from sagaz_lab.abc.values import DeadLetter
from sagaz_lab.model.event import Delivery
from sagaz_lab.model.run import Publication


class Clock(Protocol):
    """Real or virtual time. Durations are measured with `monotonic`, never with `now`."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of this clock."""


class SourceTraits(NamedTuple):
    """How a source differs from its siblings, so that the suite can ask for what it promises."""

    ordered: bool = True
    redelivers: bool = True
    delays_nack: bool = False
    finite: bool = False


class Missed(NamedTuple):
    """What came due while nobody read a source: how much, and how much of it comes now."""

    due: int
    come: int


OnLost = Callable[[int, str], None]
"""Called with how many events are gone, and what to do about it."""


class Positions(Protocol):
    """Small durable values by name, where a source keeps what it must remember."""

    async def get(self, name: str) -> str | None: ...

    async def put(self, name: str, value: str) -> None: ...


async def no_letters(number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
    """Where there is no store."""
    return ()


async def no_lease() -> None:
    """Where nobody can take the triggers over."""


def no_report(kind: str, text: str) -> None:
    """Where nobody listens it is logged."""
    logging.getLogger("sagaz_lab").warning("%s", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a source is built with besides its settings. `group` is a name private to this store.

    `reader` is the trigger that the source is opened for: of several that share it, the first by name. `number` counts
    the sources of this kind that the trigger reads, so that both name a position, whatever the settings are. `consumer`
    is a name private to this store and to who reads: the same after a restart, and for the process that takes over, so
    that both find what was fetched and not settled. `lease` is to be awaited before anything is fetched that others
    then do not get: it returns when the triggers are certain to be this process's still, and raises `LeaseLost`,
    whereupon nothing more is fetched or settled.

    `letters` gives the store's dead letters as `Store.letters_after` does; `report` takes the kind of a problem that no
    caller hears of, and its text.
    """

    clock: Clock
    positions: Positions
    group: str
    reader: str = ""
    number: int = 0
    consumer: str = ""
    lease: Callable[[], Awaitable[None]] = no_lease
    letters: Callable[[int, int], Awaitable[Sequence[tuple[int, DeadLetter]]]] = no_letters
    report: Callable[[str, str], None] = no_report


class Source(AbstractAsyncContextManager["Source"], Protocol):
    """Hands over deliveries of events. Entering connects; leaving settles nothing and closes in bounded time.

    `receive` waits for one delivery and returns at most `limit`; cancelling it loses nothing. It raises
    `EndOfSource` when a finite source has given everything, `SourceUnavailable` when the connection is lost:
    the runtime then leaves the source, backs off and enters it again. So it does, reporting the error, after any other
    that the source raises once it was connected, be it a `CancelledError`; an error at the first connection fails the
    start. A `SourceError` of another kind ends the source. A redelivery keeps `event.id` and raises
    `event.attempt`. Payloads come as bytes wherever the broker carries bytes.

    Settling is idempotent; settling what the broker took back raises `StaleDelivery`, which is harmless. What is
    neither acked nor nacked when the source is left is delivered again (if `traits.redelivers`).

    What it has handed over is the runtime's: the source changes no payload afterwards, and nobody else does.

    A source that knows what came due while nobody read it has that in an attribute `missed: Missed` once it is entered.
    One that can find out that events are gone which it has not delivered, as trimmed ones are, has an attribute
    `on_lost: OnLost | None` and calls it then; the runtime sets it, and reports and counts them.
    """

    name: str
    traits: ClassVar[SourceTraits]

    async def receive(self, limit: int) -> Sequence[Delivery]: ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle: recorded here. One call to the broker for all."""

    async def nack(self, delivery: Delivery, *, delay_s: float = 0.0) -> None:
        """Give it back, to be delivered again after `delay_s` if the source can wait."""


class Publisher(AbstractAsyncContextManager["Publisher"], Protocol):
    """Publishes to a broker. Entering connects. Raises `SourceUnavailable` when the connection is lost."""

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        """Returns when the broker has them, those of one `order` in order. Each carries its id in `sagaz-id`.

        Returns by id those that the broker refuses, with the reason. What has the `order` of a refused one and stands
        behind it is not sent.
        """
