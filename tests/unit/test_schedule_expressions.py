"""A schedule that is accepted has a next tick, from any start, in any zone."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest

from sagaz_lab import Saga, trigger
from sagaz_lab.errors import DefinitionError
from sagaz_lab.model.schedule import check, ticks

EXPRESSIONS, SEEDS = 20_000, 8
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NOISE = "0123456789*/-,#?LWHRlw@ abc\u00e9\u2028\x00"


class Expressions:
    """Expressions at random: as people write them, as they mistype them, and what no one would write."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def draw(self) -> str:
        it = self._random
        if it.random() < 0.03:
            return "".join(it.choice(NOISE) for _ in range(it.randint(0, 20)))
        fields = [self._field(0, 59), self._field(0, 23), self._day(), self._month(), self._weekday()]
        if it.random() < 0.15:
            fields.append(self._field(0, 59))
        return " ".join(fields)

    def start(self) -> datetime:
        return datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=self._random.randrange(100 * 365 * 86_400))

    def zone(self) -> str:
        return self._random.choice(ZONES)

    def _field(self, low: int, high: int, names: list[str] | None = None) -> str:
        many = 1 if self._random.random() < 0.85 else self._random.randint(2, 3)
        return ",".join(self._item(low, high, names) for _ in range(many))

    def _item(self, low: int, high: int, names: list[str] | None) -> str:
        it = self._random
        first, last = (
            it.choice(names) if names and it.random() < 0.3 else str(it.randint(low, high + (it.random() < 0.02)))
            for _ in range(2)
        )
        forms = [first] * 7 + ["*"] * 5 + [f"{first}-{last}", f"*/{it.randint(0, high + 2)}"] * 2
        return it.choice([*forms, f"{first}-{last}/{it.randint(0, high)}", f"{first}/{it.randint(1, high)}"])

    def _or(self, plain: str, *rare: Callable[[], str]) -> str:
        return self._random.choice(rare)() if self._random.random() < 0.35 else plain

    def _day(self) -> str:
        n = self._random.randint
        return self._or(
            self._field(1, 31), lambda: "L", lambda: "?", lambda: f"{n(1, 31)}W", lambda: f"{n(28, 31)}", lambda: "L,5"
        )

    def _month(self) -> str:
        return self._or(self._field(1, 12, MONTHS), lambda: "2", lambda: "feb", lambda: "feb,apr")

    def _weekday(self) -> str:
        n, day = self._random.randint, self._random.choice(WEEKDAYS)
        return self._or(
            self._field(0, 7, WEEKDAYS), lambda: f"{n(0, 7)}#{n(1, 6)}", lambda: f"{day}#5", lambda: f"L{n(0, 7)}",
            lambda: f"{day}L", lambda: "?", lambda: f"{n(0, 6)}#5,{n(0, 6)}#{n(1, 5)}",
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(SEEDS))
def test_every_expression_that_is_accepted_has_a_next_tick(seed: int) -> None:
    expressions = Expressions(seed)
    accepted = 0
    for _ in range(EXPRESSIONS // SEEDS):
        expression, zone, start = expressions.draw(), expressions.zone(), expressions.start()
        if check(expression) is None:
            accepted += 1
            tick = next(ticks(expression, zone, start), None)
            assert tick is not None, expression
            assert tick > start, expression
    assert accepted > EXPRESSIONS / SEEDS / 3


@pytest.mark.parametrize(
    ("rare", "years"),
    [
        ("0 9 * 2 mon#5", [2044, 2072, 2112]),
        ("0 9 29 2 *", [2028, 2032, 2036]),
        ("*/30 * * feb thu#5", [2052, 2052, 2052]),
    ],
)
def test_what_comes_once_in_many_years_is_walked(rare: str, years: list[int]) -> None:
    assert check(rare) is None
    for zone in ZONES:
        found = list(islice(ticks(rare, zone, datetime(2026, 6, 1, tzinfo=UTC)), 3))
        assert [tick.year for tick in found] == years


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("0 9 3 feb L2", "one of the two would be ignored"),
        ("0 9 1-7 * mon#1", "one of the two would be ignored"),
        ("0 9 15W * mon-fri", "one of the two would be ignored"),
        ("0 9 31 4,6 *", "is not a cron schedule"),
        ("0 9 * * mon#6", "is not a cron schedule"),
        ("", "must have 5 fields"),
        ("0 9 \u3000 * *", "must have 5 fields"),
    ],
)
def test_what_cannot_be_walked_is_refused_where_it_is_written(bad: str, why: str) -> None:
    assert why in (check(bad) or "")
    with pytest.raises(DefinitionError, match="schedule"):

        class Bad(Saga, abstract=True):
            @trigger(source="cron", schedule=bad)
            def on_tick(self, event: object) -> None: ...
