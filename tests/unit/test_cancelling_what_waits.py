"""A run that waits can be cancelled like any other, and an action that waits for its own run is told so."""

import asyncio

import pytest

from sagaz_lab import Lab, OutcomeKind, RunStatus, Saga, SagaListener, TriggerConfig, action, trigger
from sagaz_lab.errors import RunError
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, statuses, until


async def test_a_run_that_waits_for_its_retry_can_be_cancelled(each_lab: Lab) -> None:
    done = []

    class Retried(Saga):
        trigger_config = TriggerConfig(retry_backoff_seconds=(3600.0,))

        @trigger(source="memory", topic="retried", idempotency_key="n", concurrency_key="n")
        def on_event(self, event):
            return {"fails": event["fails"]}

        @action("work")
        async def work(self, ctx):
            done.append(ctx.run_id)
            if ctx["fails"]:
                raise ValueError("no")

    (first,) = await each_lab.fire("Retried.on_event", {"n": 1, "fails": True})
    await until(lambda: statuses(each_lab) == ["waiting"] and done)
    assert await each_lab.compensate_run(first.run_id or "") is RunStatus.CANCELLED
    assert statuses(each_lab) == ["cancelled"]
    (again,) = await each_lab.fire("Retried.on_event", {"n": 1, "fails": False}, id="another")
    await each_lab.drain()
    assert done == [first.run_id, again.run_id], "the key is free, and its turn too"
    assert_adds_up(each_lab)


async def test_a_run_whose_attempt_is_about_to_end_in_a_retry_can_be_cancelled(each_lab: Lab) -> None:
    reached, gate = asyncio.Event(), asyncio.Event()

    class Slow(SagaListener):
        async def on_saga_failed(self, saga_name, run_id, ctx, error):
            reached.set()
            await gate.wait()

    class Retried(Saga):
        listeners = (Slow(),)

        @trigger(source="memory", topic="retried")
        def on_event(self, event):
            return {}

        @action("work")
        async def work(self, ctx):
            raise ValueError("no")

    (outcome,) = await each_lab.fire("Retried.on_event", {})
    await reached.wait()
    cancelling = asyncio.create_task(each_lab.compensate_run(outcome.run_id or ""))
    await asyncio.sleep(0)
    gate.set()
    assert await cancelling is RunStatus.CANCELLED
    assert statuses(each_lab) == ["cancelled"]


async def test_a_run_that_waits_for_its_turn_can_be_cancelled(each_lab: Lab) -> None:
    gate, done = asyncio.Event(), []

    class Turns(Saga):
        @trigger(source="memory", topic="turns", max_concurrent_sagas=1)
        def on_event(self, event):
            return {"n": event["n"]}

        @action("work")
        async def work(self, ctx):
            await gate.wait()
            done.append(ctx["n"])

    await each_lab.fire("Turns.on_event", {"n": 1}, wait=False)
    (second,) = await each_lab.fire("Turns.on_event", {"n": 2}, wait=False)
    waiting = asyncio.create_task(each_lab.fire("Turns.on_event", {"n": 3}))
    await until(lambda: each_lab.counters()["Turns.on_event"]["waiting"] == 2)
    assert second.kind is OutcomeKind.WAITING
    assert await each_lab.compensate_run(second.run_id or "") is RunStatus.CANCELLED
    gate.set()
    await waiting
    await each_lab.drain()
    assert done == [1, 3]
    assert statuses(each_lab) == ["completed", "cancelled", "completed"]
    assert set(each_lab.outcomes()["outcome"]) == {"started"}
    assert_adds_up(each_lab)


async def test_who_waits_for_the_outcome_of_a_cancelled_run_has_it(timed_lab: Lab, clock: VirtualClock) -> None:
    class Paced(Saga):
        @trigger(source="memory", topic="paced", rate_limit_per_second=0.001)
        def on_event(self, event):
            return {}

    await timed_lab.fire("Paced.on_event", {})
    waiting = asyncio.create_task(timed_lab.fire("Paced.on_event", {}))
    await until(lambda: statuses(timed_lab)[1:] == ["waiting"])
    assert await timed_lab.compensate_run(timed_lab.runs()["run_id"][0]) is RunStatus.CANCELLED
    (outcome,) = await waiting
    assert outcome.kind is OutcomeKind.STARTED
    assert_adds_up(timed_lab)


@pytest.mark.parametrize("turn", range(0, 12, 2))
async def test_a_run_can_be_cancelled_at_any_moment_of_its_start(each_lab: Lab, turn: int) -> None:
    gate = asyncio.Event()

    class Turns(Saga):
        @trigger(source="memory", topic="turns", max_concurrent_sagas=1)
        def on_event(self, event):
            return {}

        @action("work")
        async def work(self, ctx):
            await gate.wait()

    await each_lab.fire("Turns.on_event", {}, wait=False)
    (second,) = await each_lab.fire("Turns.on_event", {}, wait=False)
    gate.set()
    for _ in range(turn):
        await asyncio.sleep(0)
    try:
        assert await each_lab.compensate_run(second.run_id or "") is RunStatus.CANCELLED
    except RunError as error:
        assert "is completed" in str(error)  # noqa: PT017
    await each_lab.drain()
    assert_adds_up(each_lab)
    assert not each_lab.status().warnings or "cancelled" in str(each_lab.status().warnings)


async def test_an_action_that_waits_for_an_event_behind_its_own_run_is_reported(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    class Chain(Saga):
        @trigger(source="memory", topic="chain", max_concurrent_sagas=1)
        def on_link(self, event):
            return {"n": event["n"]}

        @action("next")
        async def next(self, ctx):
            if ctx["n"] < 1:
                await timed_lab.fire("Chain.on_link", {"n": ctx["n"] + 1})

    await timed_lab.fire("Chain.on_link", {"n": 0})
    await until(lambda: timed_lab.counters()["Chain.on_link"]["waiting"])
    await clock.advance(2.0)
    (told,) = timed_lab.status().warnings
    assert "Chain.next of run" in told
    assert "Chain.on_link, which waits" in told
    assert "wait=False" in told


async def test_an_action_that_waits_for_room_in_its_own_trigger_is_reported(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    class Full(Saga):
        @trigger(source="memory", topic="full", max_concurrent_sagas=1, config=TriggerConfig(queue_size=1))
        def on_event(self, event):
            return {"n": event["n"]}

        @action("fill")
        async def fill(self, ctx):
            for n in range(1, 10 if ctx["n"] == 0 else 0):
                await timed_lab.fire("Full.on_event", {"n": n}, wait=False)

    await timed_lab.fire("Full.on_event", {"n": 0})
    await until(lambda: timed_lab.counters()["Full.on_event"]["waiting"])
    await clock.advance(2.0)
    assert "which has no room for it" in str(timed_lab.status().warnings)


async def test_an_action_that_waits_a_moment_is_not_reported(lab: Lab) -> None:
    class Other(Saga):
        @trigger(source="memory", topic="other", rate_limit_per_second=50)
        def on_event(self, event):
            return {}

    class Asks(Saga):
        @action("ask")
        async def ask(self, ctx):
            for _ in range(3):
                await lab.fire("Other.on_event", {})

    await Asks().run()
    assert not lab.status().warnings


async def test_drain_in_an_action_is_one_error(lab: Lab) -> None:
    class Drains(Saga):
        @action("drain")
        async def drain(self, ctx):
            await lab.drain()

    with pytest.raises(RunError, match="drain"):
        await Drains().run()


async def test_an_action_may_drain_another_lab(lab: Lab) -> None:
    class Drains(Saga):
        @action("drain")
        async def drain(self, ctx):
            async with Lab("memory") as other:
                await other.drain()

    await Drains().run()
    assert statuses(lab) == ["completed"]
