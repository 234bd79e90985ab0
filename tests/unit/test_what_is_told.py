"""What the Lab says of events, runs and sources is what happened."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Lab, Saga, TriggerConfig, action, trigger
from sagaz_lab.errors import TriggerPaused
from sagaz_lab.model.run import RunStatus
from sagaz_lab.notebook.feed import Feed, _run
from sagaz_lab.runtime.status import RunProgress
from tests.unit.tools import settle, until


def define(**options: Any) -> None:
    class Told(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", topic="t", **options)
        def on_event(self, event):
            return {"n": event.n}

        @action()
        async def work(self, ctx):
            if ctx["n"] == 13:
                raise ValueError("unlucky")


@pytest.mark.parametrize("target", ["Told.on_event", "memory"])
@pytest.mark.parametrize("wait", [True, False])
async def test_firing_into_a_paused_trigger_is_refused_with_the_cure(each_lab: Lab, target: str, wait: bool) -> None:
    define()
    await each_lab.start()
    each_lab.pause("Told.on_event")
    with pytest.raises(TriggerPaused, match=r"lab.resume\('Told.on_event'\), or %triggers resume Told.on_event"):
        await asyncio.wait_for(each_lab.fire(target, {"n": 1}, wait=wait), 5)
    each_lab.resume("Told.on_event")
    assert (await each_lab.fire(target, {"n": 1}))[0].kind == "started"


async def test_a_retry_is_not_counted_as_a_dead_letter(lab: Lab) -> None:
    class Fails(Saga):
        trigger_config = TriggerConfig(max_retries=2, retry_backoff_seconds=(0.001,))

        @trigger(source="memory", topic="t")
        def on_event(self, event):
            return {}

        @action()
        async def work(self, ctx):
            raise ValueError("no")

    await lab.fire("Fails.on_event")
    await until(lambda: any("dead letter" in text for text in lab.status().warnings))
    told = [text for text in lab.status().warnings if text.startswith("run ")]
    assert [text.partition("; ")[2] for text in told] == [
        "retry in 0.001 s (and 1 like it)",
        "it left a dead letter",
    ]


async def test_who_waits_for_room_is_told_of_a_pause(each_lab: Lab) -> None:
    gate = asyncio.Event()

    class Full(Saga):
        trigger_config = TriggerConfig(queue_size=1)

        @trigger(source="memory", max_concurrent_sagas=1)
        def on_event(self, event):
            return {}

        @action()
        async def work(self, ctx):
            await gate.wait()

    for _ in range(2):
        await each_lab.fire("Full.on_event", wait=False)
    third = asyncio.create_task(each_lab.fire("Full.on_event", wait=False))
    await settle()
    each_lab.pause("Full.on_event")
    with pytest.raises(TriggerPaused):
        await asyncio.wait_for(third, 5)
    gate.set()


# --- which gate ---

FAILING: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a method that raises": ({}, {"m": 1}, "trigger method"),
    "bytes that are no JSON": ({}, b"{", "decode and validate"),
    "no idempotency key": ({"idempotency_key": "k"}, {"n": 1}, "idempotency"),
    "no concurrency key": ({"concurrency_key": "k"}, {"n": 1}, "concurrency key"),
    "no batch key": ({"batch": Batch(max_size=1, timeout="1h", key="k")}, {"n": 1}, "batch"),
}


@pytest.mark.parametrize("case", FAILING)
async def test_why_and_preview_name_the_gate_that_failed(each_lab: Lab, case: str) -> None:
    options, payload, gate = FAILING[case]
    define(**options)
    previewed = await each_lab.preview("Told.on_event", payload)
    assert [v.gate for v in previewed.verdicts if v.verdict == "stop"] == [gate]
    (outcome,) = await each_lab.fire("Told.on_event", payload)
    assert outcome.kind == "dead"
    (verdicts,) = each_lab.why(outcome.event_id).verdicts
    assert [v.gate for v in verdicts if v.verdict == "stop"] == [gate]


# --- runs ---


async def test_why_of_a_run_says_that_it_is_one(each_lab: Lab) -> None:
    define()
    (outcome,) = await each_lab.fire("Told.on_event", {"n": 1})
    await each_lab.drain()
    why = each_lab.why(str(outcome.run_id))
    (line,) = why.lines()
    assert line.startswith(f"that is a run, of Told r1: completed; its event is {outcome.event_id}: lab.why(")
    assert line.endswith(f"lab.run({outcome.run_id!r}) shows its steps")
    assert "not seen here" in repr(each_lab.why("nosuch"))


async def test_a_held_run_that_is_resumed_counts_once_among_the_ends(each_lab: Lab) -> None:
    define()
    await each_lab.start(hold=True)
    (outcome,) = await each_lab.fire("Told.on_event", {"n": 13})
    await until(lambda: each_lab.status().triggers[0].ends == {"held": 1})
    assert await each_lab.resume_run(str(outcome.run_id)) is RunStatus.HELD
    assert await each_lab.compensate_run(str(outcome.run_id)) is not RunStatus.HELD
    told = each_lab.status().triggers[0]
    assert (told.counts["started"], told.resumed, sum(told.ends.values())) == (1, 0, 1)


async def test_a_run_of_an_earlier_process_counts_as_resumed(tmp_path: Path) -> None:
    address, gate = f"sqlite:///{tmp_path}/lab.db", asyncio.Event()

    def define() -> None:
        class Slow(Saga):
            @trigger(source="memory")
            def on_event(self, event):
                return {}

            @action()
            async def work(self, ctx):
                await gate.wait()

    async with Lab(address) as lab:
        define()
        await lab.fire("Slow.on_event")
        await lab.stop(grace_s=0.01)
    async with Lab(address) as lab:
        define()
        await lab.start()
        gate.set()
        await lab.drain()
        told = lab.status().triggers[0]
        assert (told.counts["started"], told.resumed, told.ends) == (0, 1, {"completed": 1})


def test_an_action_of_a_run_in_flight_is_listed_once() -> None:
    def step(name: str, state: str, end: float | None, kind: str = "action") -> dict[str, Any]:
        return {"name": name, "kind": kind, "state": state, "start": 0.0, "end": end}

    run = RunProgress("r1", "S", 1, {"begun": "running", "tried": "running", "undone": "running"}, "S.on", 1, 0.0, {})
    read = [step("begun", "waiting", None), step("tried", "failed", 1.0), step("tried", "failed", 2.0),
            step("undone", "completed", 3.0)]  # fmt: skip
    shown = [(it["kind"], it["name"], it["state"]) for it in _run(run, read)["actions"]]
    assert shown == [
        ("action", "begun", "running"), ("action", "tried", "running"), ("action", "undone", "completed"),
        ("compensation", "undone", "running"),
    ]  # fmt: skip


async def test_a_memory_source_counts_what_was_fired_once_for_all_its_readers(each_lab: Lab) -> None:
    define()
    type("Also", (Saga,), {"on_event": trigger(source="memory", topic="t")(lambda self, event: None)})
    await each_lab.start()
    await each_lab.fire("memory", {"n": 1}, topic="t")
    await each_lab.fire("Told.on_event", {"n": 1})
    (source,) = each_lab.status().sources
    assert source.received == 2
    assert (await Feed(each_lab).now(sample=False, look=False, refresh=False))["sources"][0]["received"] == 2
