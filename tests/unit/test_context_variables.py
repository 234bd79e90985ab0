"""A run sees the context variables of whoever fired its event, and none that another event's code has set."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

import pytest

from sagaz_lab import Debounce, Lab, Saga, Throttle, TriggerConfig, action, trigger
from sagaz_lab.abc import Acceptance, Refusal
from sagaz_lab.errors import StoreError
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import Taps, until

TENANT: ContextVar[str | None] = ContextVar("tenant", default=None)
TENANTS = ["acme", None, "umbrella", None]

GATES = {
    "none": {},
    "key": {"concurrency_key": lambda event: "k"},
    "slots": {"max_concurrent_sagas": 1},
    "throttle": {"throttle": Throttle(50, "1s")},
    "rate": {"rate_limit_per_second": 50},
}

Seen = list[tuple[int, Any]]


def define(gates: dict[str, Any], seen: Seen, before: list[Any], failures: int = 0) -> None:
    class S(Saga):
        trigger_config = TriggerConfig(max_retries=failures, retry_backoff_seconds=0)

        @trigger(source="memory", topic="t", **gates)
        def on(self, event):
            before.append(TENANT.get())
            TENANT.set("of a trigger method")
            return {"n": event["n"]}

        @action()
        async def note(self, ctx):
            seen.append((ctx["n"], TENANT.get()))
            TENANT.set("of an action")
            await asyncio.sleep(0.005)
            if len([n for n, _ in seen if n == ctx["n"]]) <= failures:
                raise OSError("down")


async def fire_each(lab: Lab) -> None:
    async def request(n: int, tenant: str | None) -> None:
        TENANT.set(tenant)
        await lab.fire("S.on", {"n": n}, wait=False)
        assert TENANT.get() == tenant

    await asyncio.gather(*(request(n, tenant) for n, tenant in enumerate(TENANTS)))
    await lab.drain()


@pytest.mark.parametrize("gates", GATES.values(), ids=GATES)
async def test_a_run_executes_in_the_context_of_whoever_fired_its_event(each_lab: Lab, gates: dict[str, Any]) -> None:
    seen: Seen = []
    before: list[Any] = []
    define(gates, seen, before)
    await fire_each(each_lab)
    assert sorted(seen) == list(enumerate(TENANTS))
    assert before == TENANTS


@pytest.mark.parametrize("gates", [GATES["none"], GATES["key"]], ids=["at once", "key"])
async def test_a_retry_executes_in_the_same_context(each_lab: Lab, gates: dict[str, Any]) -> None:
    seen: Seen = []
    define(gates, seen, [], failures=1)
    await fire_each(each_lab)
    await until(lambda: len(seen) == 2 * len(TENANTS))
    await each_lab.drain()
    assert sorted(seen, key=lambda it: it[0]) == [it for it in enumerate(TENANTS) for _ in range(2)]


@pytest.mark.parametrize("gates", GATES.values(), ids=GATES)
async def test_the_runs_of_a_source_execute_in_the_context_in_which_it_was_started(gates: dict[str, Any]) -> None:
    taps, seen, before = Taps(), [], []  # type: ignore[var-annotated]
    lab = Lab("memory", sources={"memory": taps})
    await lab.open()
    with lab.activate():
        define(gates, seen, before)
    TENANT.set("of the start")
    await lab.start()
    TENANT.set("set later")
    for n in range(3):
        await taps["t"].put({"n": n})
        await until(lambda n=n: len(before) == n + 1)  # type: ignore[misc]
    await until(lambda: len(seen) == 3)
    await lab.stop()
    assert before == ["of the start"] * 3
    assert sorted(seen) == [(n, "of the start") for n in range(3)]


async def test_the_run_of_a_window_executes_in_the_context_in_which_the_lab_was_opened(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    seen: Seen = []
    define({"debounce": Debounce("1s", "5s")}, seen, [])
    for n, tenant in enumerate(["acme", "umbrella"]):
        TENANT.set(tenant)
        await timed_lab.fire("S.on", {"n": n}, wait=False)
    await clock.advance(2)
    await until(lambda: seen)
    assert seen == [(1, None)]


async def test_an_asynchronous_trigger_method_leaves_no_variables(each_lab: Lab) -> None:
    found: list[Any] = []

    class S(Saga):
        @trigger(source="memory")
        async def on(self, event):
            found.append(TENANT.get())
            TENANT.set("of a trigger method")
            await asyncio.sleep(0)
            found.append(TENANT.get())

    for _ in range(2):
        await each_lab.fire("S.on", {})
    assert found == [None, "of a trigger method"] * 2
    assert TENANT.get() is None


class Picky(MemoryStore):
    """Refuses a context that has `unstorable`, and waits a moment, so that other events come meanwhile."""

    async def accept(self, batch: Acceptance) -> Mapping[str, Refusal]:
        await asyncio.sleep(0)
        unfit = [run for run in batch.runs if "unstorable" in run.context]
        batch.runs = [run for run in batch.runs if run not in unfit]
        refused = {run.run_id: Refusal(error=StoreError("it cannot be stored")) for run in unfit}
        return {**await super().accept(batch), **refused}


async def test_runs_decided_after_one_that_the_store_refuses_execute_in_their_own_contexts() -> None:
    seen: Seen = []
    async with Lab(Picky()) as lab:

        class S(Saga):
            @trigger(source="memory", topic="t", idempotency_key="k")
            def on(self, event):
                return {"n": event["n"], **({"unstorable": True} if event["n"] in (1, 2) else {})}

            @action()
            async def note(self, ctx):
                seen.append((ctx["n"], TENANT.get()))

        async def request(n: int, key: str) -> str:
            TENANT.set(f"tenant {n}")
            [outcome] = await lab.fire("S.on", {"n": n, "k": key})
            return outcome.kind

        found = await asyncio.gather(*(request(n, key) for n, key in enumerate(["first", "a", "b", "a", "b"])))
        assert found == ["started", "dead", "dead", "started", "started"]
        await lab.drain()
    assert sorted(seen) == [(n, f"tenant {n}") for n in (0, 3, 4)]
