"""The interfaces of sources, publishers and clocks."""

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
    """Real or virtual time. `now` may be put forward or back at any time; `monotonic` may not."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never decreases."""

    async def sleep(self, seconds: float) -> None:
        """Sleep on this clock."""


class Missed(NamedTuple):
    """Ticks that fell due while the source was closed: how many, and how many are delivered now."""

    due: int
    come: int


class Positions(Protocol):
    """Small durable values by name: a source's persistent state."""

    async def get(self, name: str) -> str | None: ...

    async def put(self, name: str, value: str) -> None: ...


async def no_letters(number: int, limit: int) -> Sequence[tuple[int, DeadLetter]]:
    """The default without a store."""
    return ()


async def no_lease() -> None:
    """The default where no other process can take over."""


def no_report(kind: str, text: str) -> None:
    """The default without a listener: logs it."""
    logging.getLogger("sagaz_lab").warning("%s", text)


def no_loss(count: int, why: str) -> None:
    """The default without a listener: logs it."""
    logging.getLogger("sagaz_lab").warning("%d events are lost: %s", count, why)


def no_missed(missed: Missed) -> None:
    """The default without a listener."""


class Shared(Protocol):
    """Shares one resource, such as an HTTP server, between sources."""

    def __call__(
        self, key: Hashable, make: Callable[[], AbstractAsyncContextManager[T]]
    ) -> AbstractAsyncContextManager[T]:
        """Enter the resource of this key. The first user creates it, the last one closes it."""


def not_shared(key: Hashable, make: Callable[[], AbstractAsyncContextManager[T]]) -> AbstractAsyncContextManager[T]:
    """The default for a single source."""
    return make()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The Lab's services for a source. `group` is a name private to this store.

    `reader` is the trigger for which the source is opened; if several share it, the first by name. `number` is its
    index among the trigger's sources of this kind. Together they name a position, independent of the settings.
    `consumer` is a name private to this store and reader. It is stable across restarts and takeovers, so that unsettled
    deliveries are found again. Await `lease` before fetching anything exclusively: it returns once this process
    certainly still owns the triggers, and raises `LeaseLost`, after which nothing may be fetched or settled.

    `letters` reads the store's dead letters, as `Store.letters_after`. `report` reports a problem to the user, by kind
    and text. `lost` counts and reports events that were lost before delivery, such as trimmed ones, with the reason.
    `missed` takes the ticks that fell due while the source was closed, once it is entered. `shared` shares a resource
    between sources; it is entered and closed in its own task.
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
"""For each delivery, in order, one outcome per trigger that read it. Built on access."""


class Source(AbstractAsyncContextManager["Source"], Protocol):
    """Delivers events. Entering connects; exiting settles nothing and closes in bounded time.

    `receive` waits for a delivery and returns up to `limit`; cancelling it loses nothing. It raises `EndOfSource` when
    a finite source is exhausted and `SourceUnavailable` when the connection is lost: the runtime then exits the source,
    backs off and enters it again. It does the same, and reports the error, for any other error of a connected source,
    even a `CancelledError`. An error at the first connection fails the start. Another kind of `SourceError` ends the
    source. A redelivery keeps `event.id` and increments `event.attempt`. Payloads are bytes if the broker carries
    bytes.

    `settle` and `nack` are idempotent. Both raise `StaleDelivery` for deliveries that the broker has taken back, which
    is harmless; the others are settled all the same. A delivery that is neither settled nor given back when the source
    is exited is redelivered (if `traits.redelivers`).

    The runtime owns delivered payloads: the source must not change them afterwards.
    """

    name: str
    traits: ClassVar[SourceTraits]

    async def receive(self, limit: int) -> Sequence[Delivery]: ...

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Outcomes) -> None:
        """Settle stored deliveries, given their `outcomes`, in one call to the broker."""

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None:
        """Give deliveries back for redelivery, after `delay_s` if the source supports it."""

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None:
        """Keep the broker from taking back deliveries that cannot be settled during an outage of the store.

        The runtime calls this every second, or three times within `traits.keeps_s` if that is sooner, until the store
        answers. Raises `StaleDelivery` with those that the broker has taken back, which the runtime drops.
        """


class Publisher(AbstractAsyncContextManager["Publisher"], Protocol):
    """Publishes to a broker. Entering connects. Raises `SourceUnavailable` when the connection is lost."""

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        """Publish, in order within each `order` key, and wait for the broker. `sagaz-id` carries each id.

        Returns the publications that the broker refused, by id, with the reason. Those after a refused one with the
        same `order` are not sent.
        """
