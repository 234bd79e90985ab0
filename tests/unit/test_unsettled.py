"""The ledger of unsettled deliveries, against a model."""

from __future__ import annotations

from datetime import UTC, datetime

from sagaz_lab.abc import Delivery, Event
from sagaz_lab.sources.unsettled import Unsettled
from sagaz_lab.testing.clock import VirtualClock


def deliveries(*numbers: int) -> list[Delivery]:
    return [Delivery(Event({}, f"e{n}", "s", timestamp=datetime(2024, 1, 1, tzinfo=UTC)), n) for n in numbers]


def numbers_of(found: list[Delivery]) -> list[tuple[int, int]]:
    return [(delivery.token, delivery.event.attempt) for delivery in found]


def test_the_lowest_unsettled_is_where_the_settled_prefix_ends() -> None:
    ledger = Unsettled(VirtualClock())
    one, two, three = deliveries(1, 2, 3)
    ledger.add([one, two, three])
    assert ledger.settle([three, one]) == [3, 1]
    assert ledger.lowest == 2
    ledger.give_back([two])
    assert ledger.lowest == 2
    assert ledger.settle(ledger.take(1)) == [2]
    assert ledger.lowest is None


def test_settling_and_giving_back_count_once() -> None:
    ledger = Unsettled(VirtualClock())
    one, two = deliveries(1, 2)
    ledger.add([one, two])
    assert (ledger.settle([one]), ledger.settle([one])) == ([1], [])
    ledger.give_back([two, one])
    ledger.give_back([two])
    assert ledger.settle([two]) == []
    again = ledger.take(10)
    assert numbers_of(again) == [(2, 2)]
    assert ledger.settle(again) == [2]


async def test_a_delay_goes_by_the_clock() -> None:
    clock = VirtualClock()
    ledger = Unsettled(clock)
    one, two = deliveries(1, 2)
    ledger.add([one, two])
    ledger.give_back([one], delay_s=5.0)
    ledger.give_back([two])
    assert numbers_of(ledger.take(10)) == [(2, 2)]
    await clock.advance(5)
    assert ledger.arrived.is_set()
    assert numbers_of(ledger.take(10)) == [(1, 2)]


async def test_what_lies_here_comes_again_once_the_source_was_left() -> None:
    ledger = Unsettled(VirtualClock())
    one, two, three = deliveries(1, 2, 3)
    ledger.add([one, two])
    ledger.queue([three])
    ledger.give_back([two], delay_s=60)
    ledger.left()
    assert numbers_of(ledger.take(10)) == [(1, 2), (2, 2), (3, 1)]  # the third one was not out
    assert ledger.settle([one, two]) == []


def test_what_the_broker_has_again_is_stale() -> None:
    ledger = Unsettled(VirtualClock())
    one, two, three = deliveries(1, 2, 3)
    ledger.add([one, two, three])
    ledger.settle([one])
    ledger.revoke()
    assert ledger.settle([one, two]) == []
    assert ledger.revoked([one, two]) == [two]
    assert ledger.held([three]) == []
    (again,) = deliveries(3)
    ledger.add([again])
    assert ledger.held([three]) == []
    assert ledger.settle([three]) == []
    assert ledger.settle([again]) == [3]
