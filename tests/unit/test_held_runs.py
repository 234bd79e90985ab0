"""Runs that are held although their saga says nothing of it, and what a run that has ended still knows."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from sagaz_lab import Lab, RunStatus, Saga, SagaContext, action, compensate, trigger
from sagaz_lab.errors import RunError
from tests.unit.tools import statuses, until


class Broken(Exception): ...


def training(log: list[str], fixed: bool = False) -> type[Saga]:
    class Training(Saga):
        @trigger(source="memory", topic="drift")
        def on_drift(self, event):
            return {"model": event["model"]}

        @action("train")
        async def train(self, ctx):
            log.append("train")
            ctx["epochs"] = 3
            return {"score": 0.9, "weights": np.arange(5000)}

        @compensate("train")
        async def discard(self, ctx):
            log.append("discard")

        @action("validate", depends_on="train")
        async def validate(self, ctx):
            log.append("validate")
            return ctx["score" if fixed else "skore"]

    return Training


async def fired(lab: Lab) -> str:
    (outcome,) = await lab.fire("Training.on_drift", {"model": "ctr"}, id="drift-1")
    await until(lambda: not lab.status().runs)
    assert outcome.run_id
    return outcome.run_id


# --- the context ---


async def test_a_run_that_has_ended_still_shows_its_context(each_lab: Lab) -> None:
    training([], fixed=True)
    run_id = await fired(each_lab)
    ctx = each_lab.context(run_id)
    assert isinstance(ctx, SagaContext)
    assert (ctx.run_id, ctx.event and ctx.event.id) == (run_id, "drift-1")
    assert (ctx["model"], ctx["score"], ctx["epochs"], ctx["validate"]) == ("ctr", 0.9, 3, 0.9)
    assert ctx["weights"].sum() == 12497500
    assert set(ctx) == {"model", "score", "epochs", "weights", "validate"}


async def test_an_array_is_read_from_its_file_when_it_is_asked_for(tmp_path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
        training([], fixed=True)
        ctx = lab.context(await fired(lab))
    for file in (tmp_path / "artifacts").rglob("*.npy"):
        np.save(file, np.zeros(5000, dtype=int))
    with pytest.raises(Exception, match="has changed since it was written"):
        ctx["weights"]
    assert ctx["score"] == 0.9


async def test_what_is_set_in_the_context_of_an_ended_run_changes_nothing_of_the_run(each_lab: Lab) -> None:
    training([], fixed=True)
    run_id = await fired(each_lab)
    each_lab.context(run_id)["score"] = 0.1
    assert each_lab.context(run_id)["score"] == 0.9


async def test_the_context_of_a_held_run_has_what_was_done(
    each_lab: Lab,
) -> None:
    training([])
    await each_lab.start(hold=True)
    run_id = await fired(each_lab)
    assert each_lab.context(run_id)["score"] == 0.9
    assert "validate" not in each_lab.context(run_id)


async def test_a_run_that_is_none_has_no_context(each_lab: Lab) -> None:
    with pytest.raises(RunError, match=r"no run 'r-7' is kept; lab\.runs\(\) lists"):
        each_lab.context("r-7")


# --- start(hold=True) ---


async def test_a_lab_started_with_hold_holds_the_failed_runs_of_triggers(each_lab: Lab) -> None:
    log: list[str] = []
    training(log)
    await each_lab.start(hold=True)
    run_id = await fired(each_lab)
    assert (statuses(each_lab), log) == (["held"], ["train", "validate"])
    training(log, fixed=True)
    assert await each_lab.resume_run(run_id) is RunStatus.COMPLETED
    assert log == ["train", "validate", "validate"]


async def test_a_run_that_nobody_triggered_is_not_held(each_lab: Lab) -> None:
    log: list[str] = []
    saga = training(log)
    await each_lab.start(hold=True)
    with pytest.raises(KeyError, match="skore"):
        await saga().run({})
    assert (statuses(each_lab), log) == (["compensated"], ["train", "validate", "discard"])


async def test_the_next_start_without_it_ends_the_holding_but_a_held_run_stays_one(each_lab: Lab) -> None:
    log: list[str] = []
    training(log)
    await each_lab.start(hold=True)
    run_id = await fired(each_lab)
    await each_lab.start()
    assert await each_lab.resume_run(run_id) is RunStatus.HELD
    log.clear()
    await each_lab.fire("Training.on_drift", {"model": "ctr"}, id="drift-2")
    await until(lambda: "discard" in log)
    assert await each_lab.compensate_run(run_id) is RunStatus.CANCELLED
    assert log == ["train", "validate", "discard", "discard"]


async def test_two_that_resume_one_run_do_not_both_run_it(each_lab: Lab) -> None:
    log: list[str] = []
    training(log)
    await each_lab.start(hold=True)
    run_id = await fired(each_lab)
    training(log, fixed=True)
    first, second = each_lab.resume_run(run_id), each_lab.resume_run(run_id)
    results = await asyncio.gather(first, second, return_exceptions=True)
    assert sorted(map(type, results), key=str) == sorted([RunStatus, RunError], key=str)
    assert log == ["train", "validate", "validate"]
