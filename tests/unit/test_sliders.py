"""Params with bounds, and sliders that can be moved in sensible steps whatever the value."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Lab, Param, Saga, trigger
from sagaz_lab.errors import DefinitionError
from sagaz_lab.notebook.feed import Feed
from sagaz_lab.notebook.sliders import slider
from sagaz_lab.testing import TriggerTestHarness

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(FLOATS, FLOATS)
def test_a_float_moves_in_many_steps_between_bounds_around_it(value: float, default: float) -> None:
    found = slider(value, default, None)
    assert found is not None
    low, high, step = found
    assert low <= min(value, default) <= max(value, default) <= high
    assert step > 0
    assert 20 <= high / step - low / step <= 1100 or high < 1e-300


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_a_whole_number_stays_one(value: int, default: int) -> None:
    found = slider(value, default, None)
    assert found is not None
    assert found[2].is_integer()
    assert found[0] <= min(value, default)
    assert max(value, default) <= found[1]


@pytest.mark.parametrize(
    ("value", "param", "expected"),
    [
        (0.5, None, (0.0, 1.0, 0.01)),
        (-0.5, None, (-1.0, 1.0, 0.01)),
        (5.0, None, (0.0, 10.0, 0.1)),
        (0.0003, None, (0.0, 0.0006, 1e-06)),
        (3, None, (0.0, 10.0, 1.0)),
        (0.5, Param(0.5, min=0, max=1, step=0.05), (0, 1, 0.05)),
        (0.5, Param(0.5, min=0.25), (0.25, 1.0, 0.001)),
        (-7.0, Param(-7.0, max=-5), (-20.0, -5, 0.1)),
        ("text", None, None),
        (True, None, None),
    ],
)
def test_bounds_and_steps(value: Any, param: Param | None, expected: Any) -> None:
    assert slider(value, value, param) == (pytest.approx(expected) if expected else None)


def define(**params: Any) -> None:
    class Bounded(Saga):
        @trigger(source="memory", params=params)
        def on_event(self, event):
            return {"threshold": self.params.threshold}


async def test_a_change_keeps_the_bounds_of_its_param(each_lab: Lab) -> None:
    define(threshold=Param(0.5, min=0, max=1, step=0.01))
    await each_lab.set_params("Bounded.on_event", threshold=1)
    with pytest.raises(DefinitionError, match=r"threshold=1.5 is greater than max=1"):
        await each_lab.set_params("Bounded.on_event", threshold=1.5)
    (outcome,) = await each_lab.fire("Bounded.on_event")
    assert each_lab.context(str(outcome.run_id))["threshold"] == 1.0
    state = await Feed(each_lab).now(sample=False, look=False, refresh=False)
    (param,) = state["triggers"][0]["params"]
    assert param == {"name": "threshold", "value": 1.0, "default": 0.5, "range": (0, 1, 0.01)}


async def test_new_bounds_are_a_revision_and_end_a_change_beyond_them(tmp_path: Path) -> None:
    for most, threshold in ((None, 0.9), (0.8, 0.5)):
        async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
            define(threshold=Param(0.5, max=most))
            if most is None:
                await lab.set_params("Bounded.on_event", threshold=0.9)
            assert (await lab.params("Bounded.on_event")).threshold == threshold
            assert lab.sagas["Bounded"].revision == (1 if most is None else 2)


@pytest.mark.parametrize(
    ("param", "told"),
    [
        (Param(2, max=1), "threshold=2 is greater than max=1"),
        (Param(2, min=3, max=1), "min=3 must be less than max=1"),
        (Param(0.5, step=0), "step=0 must be greater than 0"),
        (Param(5, step=0.5), "step=0.5 must be a whole number"),
        (Param("x", min=0), "min= goes with a number, not with 'x'"),
        (Param(1.0, max=float("nan")), "max=nan must be a finite number"),
        (Param([1]), "must be a finite number, a string"),  # type: ignore[arg-type]
    ],
)
def test_a_param_that_contradicts_itself_is_refused_where_it_is_written(param: Param, told: str) -> None:
    with Lab("memory").activate(), pytest.raises(DefinitionError, match=told):
        define(threshold=param)


async def test_the_harness_keeps_the_bounds(each_lab: Lab) -> None:
    define(threshold=Param(0.5, max=1))
    with pytest.raises(DefinitionError, match="is greater than max=1"):
        TriggerTestHarness(each_lab.sagas["Bounded"].cls, params={"threshold": 2.0})
