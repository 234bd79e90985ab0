"""A source hands over deliveries of events; a publisher takes publications. A clock tells the time."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, TypeVar

from sagaz_lab.abc.values import DeadLetter
from sagaz_lab.model.event import Delivery
from sagaz_lab.model.run import Outcome, Publication
from sagaz_lab.model.source_traits import SourceTraits

T = TypeVar("T")


class Clock(Protocol):
    """Real or virtual time. Durations are measured with `monotonic`, never with `now`."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds of this clock."""


class Missed(NamedTuple):
    """What came due while nobody read a source: how much, and how much of it comes now."""

    due: int
    come: int


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


def no_loss(count: int, why: str) -> None:
    """Where nobody listens it is logged."""
    logging.getLogger("sagaz_lab").warning("%d events are lost: %s", count, why)


def no_missed(missed: Missed) -> None:
    """Where nobody listens."""


class Shared(Protocol):
    """Gives several sources one thing, such as an HTTP server."""

    def __call__(
        self, key: Hashable, make: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AbstractAsyncContextManager[T]:
        """Entering gives the thing of this key, made and entered by the first who asks; the last to leave closes it."""


def not_shared(key: Hashable, make: Callable[[], AbstractAsyncContextManager[T]]) -> AbstractAsyncContextManager[T]:
    """Where there is one source only."""
    return make()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a source is built with besides its settings. `group` is a name private to this store.

    `reader` is the trigger that the source is opened for: of several that share it, the first by name. `number` counts
    the sources of this kind that the trigger reads, so that both name a position, whatever the settings are. `consumer`
    is a name private to this store and to who reads: the same after a restart, and for the process that takes over, so
    that both find what was fetched and not settled. `lease` is to be awaited before anything is fetched that others
    then do not get: it returns when the triggers are certain to be this process's still, and raises `LeaseLost`,
    whereupon nothing more is fetched or settled.

    `letters` gives the store's dead letters as `Store.letters_after` does. `report` takes the kind of a problem that
    the user must hear of, and its text. `lost` takes how many events are gone that were never delivered, as trimmed
    ones are, and why; they are counted and reported. `missed` takes what came due while nobody read the source, once it
    is entered. `shared` gives several sources one thing, which is entered and closed in a task of its own.
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
    lost: Callable[[int, str], None] = no_loss
    missed: Callable[[Missed], None] = no_missed
    shared: Shared = not_shared


Outcomes = Sequence[Sequence[Outcome]]
"""What became of deliveries: of each, in their order, one outcome for each trigger that read it. Built when read."""


class Source(AbstractAsyncContextManager["Source"], Protocol):
    """Hands over deliveries of events. Entering connects; leaving settles nothing and closes in bounded time.

    `receive` waits for one delivery and returns at most `limit`; cancelling it loses nothing. It raises
    `EndOfSource` when a finite source has given everything, `SourceUnavailable` when the connection is lost:
    the runtime then leaves the source, backs off and enters it again. So it does, reporting the error, after any other
    that the source raises once it was connected, be it a `CancelledError`; an error at the first connection fails the
    start. A `SourceError` of another kind ends the source. A redelivery keeps `event.id` and raises
    `event.attempt`. Payloads come as bytes wherever the broker carries bytes.

    `settle` and `nack` are idempotent. Each raises `StaleDelivery` for what the broker has taken back, which is
    harmless; the others are settled all the same. What is neither settled nor given back when the source is left is
    delivered again (if `traits.redelivers`).

    What it has handed over is the runtime's: the source changes no payload afterwards, and nobody else does.
    """

    name: str
    traits: ClassVar[SourceTraits]

    async def receive(self, limit: int) -> Sequence[Delivery]: ...

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        """They are in the store, and `outcomes` says what became of them. One call to the broker for all."""

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        """Give them back, to be delivered again after `delay_s` if the source can wait."""

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        """They cannot be settled yet, since the store is away: keep the broker from taking them back.

        The runtime calls this every second, or three times within `traits.keeps_s` if that is sooner, until the store
        answers. Raises `StaleDelivery` with those that the broker has taken back; the runtime drops these.
        """


class Publisher(AbstractAsyncContextManager["Publisher"], Protocol):
    """Publishes to a broker. Entering connects. Raises `SourceUnavailable` when the connection is lost."""

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        """Returns when the broker has them, those of one `order` in order. Each carries its id in `sagaz-id`.

        Returns by id those that the broker refuses, with the reason. What has the `order` of a refused one and stands
        behind it is not sent.
        """
