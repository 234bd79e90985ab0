"""The limits of a trigger, changed while events flow."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from sagaz_lab import Lab, Saga, Throttle, action, trigger
from sagaz_lab.errors import DefinitionError, UnknownName
from tests.unit.tools import until

LIMITED = "Limited.on_event"


def limited(gate: asyncio.Event | None = None, **options: object) -> list[int]:
    """Have the current Lab know the saga; returns the numbers of the events whose runs have started."""
    begun: list[int] = []

    class Limited(Saga):
        @trigger(source="memory", topic="limited", **options)
        def on_event(self, event):
            return {"n": event.n}

        @action()
        async def work(self, ctx):
            begun.append(ctx["n"])
            if gate is not None:
                await gate.wait()

    return begun


def limits_of(lab: Lab) -> dict[str, object]:
    (status,) = lab.status().triggers
    return {name: value for name, (value, _) in status.limits.items()}


async def test_more_runs_go_at_once_as_soon_as_the_limit_is_raised(lab: Lab) -> None:
    gate = asyncio.Event()
    begun = limited(gate, max_concurrent_sagas=1)
    for n in range(5):
        await lab.fire(LIMITED, {"n": n}, wait=False)
    await until(lambda: begun == [0])
    assert await lab.set_limits(LIMITED, max_concurrent_sagas=3) == {
        "max_concurrent_sagas": 3,
        "rate_limit_per_second": None,
    }
    await until(lambda: begun == [0, 1, 2])
    await lab.set_limits(LIMITED, max_concurrent_sagas=None)  # as if it were not given
    await until(lambda: begun == [0, 1, 2, 3, 4])
    gate.set()


async def test_what_waits_for_a_slow_pace_starts_when_the_pace_is_raised(lab: Lab) -> None:
    begun = limited(rate_limit_per_second=0.001)
    for n in range(3):
        await lab.fire(LIMITED, {"n": n}, wait=False)
    await until(lambda: begun == [0])
    await lab.set_limits(LIMITED, rate_limit_per_second=100)
    await until(lambda: begun == [0, 1, 2])
    await lab.set_limits(LIMITED, rate_limit_per_second=None)
    assert limits_of(lab) == {"max_concurrent_sagas": None, "rate_limit_per_second": None}


@pytest.mark.parametrize(
    ("options", "values", "told"),
    [
        ({}, {"max_concurrent_sagas": 0}, "Limited.on_event: max_concurrent_sagas=0 must be a whole number, 1 or more"),
        ({}, {"rate_limit_per_second": "5"}, "rate_limit_per_second='5' must be a number greater than 0"),
        (
            {"throttle": Throttle(limit=1, per="1s")},
            {"rate_limit_per_second": 5},
            "rate_limit_per_second= and throttle= contradict each other",
        ),
        ({}, {"rate_limit": 5}, "no limit 'rate_limit'; did you mean 'rate_limit_per_second'?"),
    ],
)
async def test_a_wrong_limit_is_told_and_changes_nothing(lab: Lab, options, values, told) -> None:
    limited(**options)
    before = limits_of(lab)
    with pytest.raises((DefinitionError, UnknownName)) as raised:
        await lab.set_limits(LIMITED, **values)
    assert told in str(raised.value)
    assert limits_of(lab) == before


@pytest.fixture
def restarted(tmp_path: Path) -> Callable[[], Lab]:
    return lambda: Lab(f"sqlite:///{tmp_path}/lab.db")


async def test_a_changed_limit_holds_until_the_cell_says_another(restarted: Callable[[], Lab]) -> None:
    async with restarted() as lab:
        limited(max_concurrent_sagas=2)
        await lab.set_limits(LIMITED, max_concurrent_sagas=7)
        limited(max_concurrent_sagas=2, priority=1)
        assert limits_of(lab)["max_concurrent_sagas"] == 7
    async with restarted() as lab:
        limited(max_concurrent_sagas=2)
        assert (await lab.set_limits(LIMITED))["max_concurrent_sagas"] == 7
        limited(max_concurrent_sagas=3)
        assert limits_of(lab)["max_concurrent_sagas"] == 3


@pytest.mark.parametrize(
    ("changed", "option"),
    [
        ({"rate_limit_per_second": 5}, {"throttle": Throttle(1, per="1s")}),
        ({"max_concurrent_sagas": 7}, {"singleton": "skip"}),
    ],
)
async def test_a_changed_limit_gives_way_to_an_option_that_contradicts_it(
    tmp_path: Path, changed: dict[str, int], option: dict[str, object]
) -> None:
    url = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(url) as lab:
        limited()
        await lab.set_limits(LIMITED, **changed)
    async with Lab(url) as lab:
        limited(**option)  # the cell as it is edited before the next start
        assert limits_of(lab) == {"max_concurrent_sagas": None, "rate_limit_per_second": None}
        limited()
        await lab.set_limits(LIMITED, **changed)
        limited(**option)  # and while it is started
        assert limits_of(lab) == {"max_concurrent_sagas": None, "rate_limit_per_second": None}
