"""A `Permanent` counts wherever it is in an `ExceptionGroup`: another attempt would not help."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Lab, Permanent, Saga, TriggerConfig, action, trigger
from sagaz_lab.errors import is_permanent
from tests.unit.tools import statuses, until


class NoCard(Permanent):
    """One of a user's own."""


PLAIN: list[Callable[[], Exception]] = [ValueError, OSError]
errors = st.recursive(
    st.sampled_from([*PLAIN, Permanent, NoCard]).map(lambda kind: kind()),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda them: ExceptionGroup("several", them)),
    max_leaves=12,
)


@given(errors)
def test_a_group_is_permanent_if_anything_in_it_is(error: Exception) -> None:
    assert is_permanent(error) == ("Permanent" in repr(error) or "NoCard" in repr(error))


@pytest.mark.parametrize(("raised", "tried"), [("group", 1), ("deep", 1), ("cause", 6), ("plain group", 6)])
async def test_neither_the_action_nor_the_run_is_tried_again(each_lab: Lab, raised: str, tried: int) -> None:
    trials: list[int] = []

    async def fails(error: Exception) -> None:
        raise error

    class Pays(Saga):
        trigger_config = TriggerConfig(max_retries=2, retry_backoff_seconds=0)

        @trigger(source="memory")
        def on(self, event):
            return {}

        @action(max_retries=1, retry_backoff_s=0)
        async def pay(self, ctx):
            trials.append(1)
            if raised == "cause":
                raise ValueError from Permanent("card expired")
            error = ValueError() if raised == "plain group" else NoCard("card expired")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(fails(ExceptionGroup("of the card", [error]) if raised == "deep" else error))

    await each_lab.fire("Pays.on", {})
    await until(lambda: len(each_lab.dead_letters()))
    assert (len(trials), statuses(each_lab)) == (tried, ["compensated"])
