"""What waits for its turn or its retry when its saga is removed, or while the store is away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sagaz_lab import Lab, Saga, SagaListener, TriggerConfig, action, trigger
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, counted, statuses, until


def failing(tries: list[int], fails: int, max_retries: int = 3) -> None:
    """A saga whose run fails so often."""

    class Retried(Saga):
        trigger_config = TriggerConfig(max_retries=max_retries)

        @trigger(source="memory", topic="t", max_concurrent_sagas=1)
        def on_event(self, event):
            return {}

        @action()
        async def work(self, ctx):
            tries.append(1)
            if len(tries) <= fails:
                raise ValueError("not yet")


@pytest.mark.parametrize(("max_retries", "status"), [(3, "completed"), (1, "compensated")])
async def test_a_run_that_waits_for_its_retry_goes_on_to_its_end(
    timed_lab: Lab, clock: VirtualClock, max_retries: int, status: str
) -> None:
    tries: list[int] = []
    failing(tries, 2, max_retries)
    await timed_lab.start()
    await timed_lab.fire("Retried.on_event", {})
    await until(lambda: statuses(timed_lab) == ["waiting"])
    timed_lab.unregister("Retried")
    for delay_s in (11.0, 61.0):
        await clock.advance(delay_s)
        await timed_lab.drain()
    assert statuses(timed_lab) == [status]
    assert len(timed_lab.dead_letters()) == (status == "compensated")
    assert_adds_up(timed_lab)


async def test_events_that_wait_for_their_turn_wait_for_the_code_and_hold_up_no_drain(each_lab: Lab) -> None:
    gate, told = asyncio.Event(), list[str]()
    each_lab.on_report(lambda _, text: told.append(text))

    def define() -> None:
        class Waiting(Saga):
            @trigger(source="memory", max_concurrent_sagas=1)
            def on_event(self, event):
                return {}

            @action()
            async def work(self, ctx):
                await gate.wait()

    define()
    await each_lab.start()
    fired = [await each_lab.fire("Waiting.on_event", wait=False) for _ in range(4)]
    each_lab.unregister("Waiting")
    gate.set()
    async with asyncio.timeout(10):
        await each_lab.drain()
    assert statuses(each_lab) == ["completed", *["needs_code"] * 3]
    for [outcome] in fired[1:]:
        assert f"run {outcome.run_id} waits for the code of saga 'Waiting': define it" in told
    assert_adds_up(each_lab)
    define()
    await until(lambda: statuses(each_lab) == ["completed"] * 4)
    assert counted(each_lab, "Waiting.on_event") == {"received": 4, "started": 4}


async def test_a_turned_away_event_that_the_store_has_is_waited_for_while_the_store_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagaz_lab.runtime.dispatch.run_queue.IN_MEMORY", 0)
    monkeypatch.setattr("sagaz_lab.runtime.lifetime.lifetime.STORE_RETRY_S", (0.01,))
    gate, dropped = asyncio.Event(), list[int]()

    class Hears(SagaListener):
        def on_trigger_dropped(self, saga_name: str, event: Any, reason: str) -> None:
            dropped.append(event["n"])

    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

        class Full(Saga):
            listeners: ClassVar[Any] = [Hears()]
            trigger_config = TriggerConfig(queue_size=1, backpressure_strategy="drop_oldest")

            @trigger(source="memory", topic="t", max_concurrent_sagas=1)
            def on_event(self, event):
                return {"n": event["n"]}

            @action()
            async def work(self, ctx):
                await gate.wait()

        load, away = lab.store.load, 3

        async def loads(run_id: str) -> Any:
            nonlocal away
            away -= 1
            if away >= 0:
                raise StoreUnavailable("away")
            return await load(run_id)

        monkeypatch.setattr(lab.store, "load", loads)
        for n in range(3):
            [outcome] = await lab.fire("Full.on_event", {"n": n}, wait=False)
            assert outcome.kind == ("started" if n == 0 else "waiting")
        assert dropped == [1]
        assert "waits for the store" in str(lab.status().warnings)
        assert counted(lab, "Full.on_event") == {"received": 3, "started": 1, "dropped": 1, "waiting": 1}
        gate.set()
        await lab.drain()
