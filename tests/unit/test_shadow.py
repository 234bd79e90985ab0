"""An edited revision decides beside the current one: what differs is shown, and nothing else happens."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sagaz_lab import Batch, Debounce, Lab, Saga, SagaListener, TriggerConfig, action, compensate, skip, trigger
from sagaz_lab.errors import DefinitionError, LabClosed, UnknownName
from sagaz_lab.hosting.shadows import ShadowReport, Shadows
from sagaz_lab.runtime.shadow import shadow as shadow_module
from sagaz_lab.runtime.shadow.comparison import alike
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import Taps, counted, until

NAME = "retraining.on_drift"

Method = Callable[[Any, Any], Any]


def saga(method: Method, file: Path | None = None, told: Sequence[SagaListener] = (), **options: Any) -> type[Saga]:
    """A revision of the saga: its trigger method is what it is made of."""

    class Retraining(Saga):
        saga_name = "retraining"
        listeners = tuple(told)

        @trigger(**{"source": "memory", "topic": "drift", **options})
        def on_drift(self, event: Any) -> Any:
            return method(self, event)

        @action("train")
        def train(self, ctx: Any) -> None:
            if file is not None:
                with file.open("a") as lines:
                    lines.write(f"{ctx['score']}\n")

        @compensate("train")
        def undo(self, ctx: Any) -> None: ...

    return Retraining


def above(threshold: float) -> Method:
    def on_drift(_: Any, event: Any) -> Any:
        return {"score": event.score} if event.score > threshold else skip("too low", score=event.score)

    return on_drift


def edited(lab: Lab, method: Method, *args: Any, **options: Any) -> type[Saga]:
    """A revision that is not registered."""
    with lab.registry.staging():
        return saga(method, *args, **options)


async def shown(lab: Lab) -> ShadowReport:
    """The report once both have decided all that they can."""
    await lab.drain()
    await until(lambda: lab.shadows["retraining"].waiting == 0)
    return lab.shadows["retraining"]


async def fire(lab: Lab, *scores: float, **payload: Any) -> None:
    for score in scores:
        await lab.fire(NAME, {"score": score, **payload})


async def test_a_changed_threshold_shows_which_events_it_decides_differently(lab: Lab) -> None:
    saga(above(0.5))
    began = lab.shadow(edited(lab, above(0.7)))
    assert (began.saga, began.current, began.change.revision, began.seen) == ("retraining", 1, 2, 0)
    await fire(lab, 0.4, 0.6, 0.9)
    report = await shown(lab)
    assert (report.seen, report.same, report.waiting, report.missed) == (3, 2, 0, 0)
    assert report.different == {("started", "filtered"): 1}
    (one,) = report.differences
    assert (one.current, one.shadow, one.what) == ("started", "filtered", "outcome")
    assert (one.shadow_reason, one.shadow_facts, one.trigger) == ("too low", {"score": 0.6}, NAME)
    assert lab.why(one.event_id).outcomes[0].kind == "started"


async def test_reasons_facts_and_contexts_are_compared_too(lab: Lab) -> None:
    def before(_: Any, event: Any) -> Any:
        return {"n": event.n, "frame": pd.DataFrame({"a": [event.n]})} if event.n > 2 else skip("low", n=event.n)

    def after(_: Any, event: Any) -> Any:
        if event.n == 0:
            return skip("none", n=0)
        return {**before(_, event), "more": 1} if event.n > 3 else before(_, event) if event.n > 2 else skip("low", n=9)

    saga(before)
    lab.shadow(edited(lab, after))
    for n in range(5):
        await lab.fire(NAME, {"n": n})
    report = await shown(lab)
    assert [(one.what, one.details) for one in reversed(report.differences)] == [
        ("reason", ""),
        ("facts", "n: 1 -> 9"),
        ("facts", "n: 2 -> 9"),
        ("context", "more: not there -> 1"),
    ]
    assert report.same == 1
    assert report.different == {("filtered", "filtered"): 3, ("started", "started"): 1}


async def test_no_action_of_the_shadow_is_called_and_no_listener_told(tmp_path: Path, lab: Lab) -> None:
    told: list[str] = []

    class Listener(SagaListener):
        async def on_saga_start(self, saga_name: str, run_id: str, ctx: Any) -> None:
            told.append(run_id)

    saga(above(0.5), tmp_path / "current")
    lab.shadow(edited(lab, above(0.1), tmp_path / "shadow", [Listener()]))
    await fire(lab, 0.2, 0.6, 0.9)
    report = await shown(lab)
    assert report.different == {("filtered", "started"): 1}
    assert sorted((tmp_path / "current").read_text().split()) == ["0.6", "0.9"]
    assert not (tmp_path / "shadow").exists()
    assert told == []


async def test_the_live_counters_outcomes_and_store_know_nothing_of_it(each_lab: Lab) -> None:
    lab = each_lab
    saga(above(0.5))
    config = TriggerConfig(persist_events=True, dead_letter_topic="dead")
    lab.shadow(edited(lab, above(2.0), idempotency_key="missing", config=config))
    await fire(lab, 0.4, 0.6)
    assert (await shown(lab)).different == {("filtered", "dead"): 1, ("started", "dead"): 1}
    assert counted(lab, NAME) == {"received": 2, "started": 1, "filtered": 1}
    assert len(lab.outcomes()) == 2
    assert (len(lab.runs()), len(lab.dead_letters()), len(lab.events())) == (1, 0, 1)
    assert len(lab.revisions("retraining")) == 1
    assert problems(lab) == []


async def test_a_method_that_raises_in_the_shadow_is_a_difference_and_disturbs_nobody(lab: Lab) -> None:
    def broken(_: Any, event: Any) -> Any:
        raise ZeroDivisionError("no model")

    saga(above(0.5))
    lab.shadow(edited(lab, broken))
    (outcome,) = await lab.fire(NAME, {"score": 0.6})
    assert outcome.kind == "started"
    report = await shown(lab)
    assert report.differences[0].shadow_reason == "ZeroDivisionError: no model"
    assert report.different == {("started", "dead"): 1}


async def test_a_method_that_never_returns_in_the_shadow_holds_nobody_up(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "PATIENCE_S", 0.05)

    class Retraining(Saga):
        saga_name = "retraining"

        @trigger(source="memory", topic="drift")
        async def on_drift(self, event: Any) -> Any:
            return {}

    with lab.registry.staging():
        old = Retraining

        class Retraining(Saga):  # type: ignore[no-redef]
            saga_name = "retraining"

            @trigger(source="memory", topic="drift")
            async def on_drift(self, event: Any) -> Any:
                await asyncio.Event().wait()

    assert old is not Retraining
    lab.shadow(Retraining)
    outcomes = [(await lab.fire(NAME, {}))[0].kind for _ in range(3)]
    assert outcomes == ["started"] * 3
    assert (await shown(lab)).different == {("started", "dead"): 3}


async def test_a_class_that_cannot_be_made_is_refused_and_an_earlier_shadow_stays(lab: Lab) -> None:
    saga(above(0.5))
    lab.shadow(edited(lab, above(0.7)))
    new = edited(lab, above(0.7))

    def init(self: Any) -> None:
        raise OSError("no model on this disk")

    new.__init__ = init  # type: ignore[misc]
    with pytest.raises(
        DefinitionError, match="retraining: the class cannot be instantiated: OSError: no model on this disk"
    ):
        lab.shadow(new)
    await fire(lab, 0.6)
    assert (await shown(lab)).seen == 1


async def test_what_was_never_registered_has_nothing_to_stand_beside(lab: Lab) -> None:
    with pytest.raises(DefinitionError, match=r"no saga 'retraining' is registered.*run its cell without --shadow"):
        lab.shadow(edited(lab, above(0.7)))
    with pytest.raises(UnknownName, match=r"no shadow of 'retrain'.*known: none"):
        lab.shadows["retrain"]
    assert "retrain" not in lab.shadows


async def test_the_table_of_differences_has_real_dtypes(lab: Lab) -> None:
    saga(above(0.5))
    lab.shadow(edited(lab, above(0.7)))
    assert len(lab.shadows["retraining"].frame()) == 0
    await fire(lab, 0.6, 0.65)
    frame = (await shown(lab)).frame()
    assert list(frame.columns)[:4] == ["event_id", "trigger", "current", "shadow"]
    assert [str(frame[name].dtype) for name in ("event_id", "trigger", "current", "at")] == [
        "string", "category", "category", "datetime64[us, UTC]",
    ]  # fmt: skip
    assert [facts["score"] for facts in frame.shadow_facts] == [0.65, 0.6]


def problems(lab: Lab) -> list[str]:
    """What was reported, but for how slow this machine is."""
    return [text for text in lab.status().warnings if "blocked the loop" not in text]


# --- gates ---


async def test_a_changed_idempotency_key_shows_what_would_be_duplicates(lab: Lab) -> None:
    saga(above(0.5), idempotency_key="drift_id")
    lab.shadow(edited(lab, above(0.5), idempotency_key="model"))
    for n in range(3):
        await fire(lab, 0.9, drift_id=n, model="ctr")
    report = await shown(lab)
    assert (report.same, report.different) == (1, {("started", "duplicate"): 2})


async def test_keys_that_were_taken_before_the_shadow_began_are_taken_for_it_too(each_lab: Lab) -> None:
    lab = each_lab
    saga(above(0.5), idempotency_key="drift_id")
    await fire(lab, 0.9, drift_id=1)
    lab.shadow(edited(lab, above(0.4), idempotency_key="drift_id"))
    await fire(lab, 0.9, 0.9, drift_id=1)
    await fire(lab, 0.9, 0.9, drift_id=2)
    report = await shown(lab)
    assert (report.seen, report.same) == (4, 4)


async def test_an_event_that_only_one_of_them_holds_is_compared_when_both_have_decided_it(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    lab = timed_lab
    saga(above(0.5), debounce=Debounce("10s", max_wait="60s"))
    lab.shadow(edited(lab, above(0.5)))
    for score in (0.6, 0.9):
        await lab.fire(NAME, {"score": score}, wait=False)
    assert (lab.shadows["retraining"].seen, lab.shadows["retraining"].waiting) == (2, 2)
    await clock.advance(11)
    report = await shown(lab)
    assert (report.same, report.different) == (1, {("filtered", "started"): 1})


async def test_a_batch_that_was_half_full_when_the_shadow_began_closes_with_the_same_events(lab: Lab) -> None:
    def total(_: Any, events: Any) -> Any:
        return {"scores": [event.score for event in events]}

    def rounded(_: Any, events: Any) -> Any:
        return {"scores": [round(event.score) for event in events]}

    saga(total, batch=Batch(max_size=3, timeout="1h"))
    for score in (1.0, 2.0):
        await lab.fire(NAME, {"score": score}, wait=False)
    lab.shadow(edited(lab, rounded, batch=Batch(max_size=3, timeout="1h")))
    for score in (3.0, 4.0, 5.5, 6.0):
        await lab.fire(NAME, {"score": score}, wait=False)
    report = await shown(lab)
    assert (report.seen, report.same) == (4, 1)
    assert {one.details for one in report.differences} == {"scores: [4.0, 5.5, 6.0] -> [4, 6, 6]"}


async def test_a_cooldown_of_the_shadow_is_its_own(timed_lab: Lab, clock: VirtualClock) -> None:
    lab = timed_lab
    saga(above(0.5), cooldown="10s")
    lab.shadow(edited(lab, above(0.5), cooldown="60s"))
    await fire(lab, 0.9, 0.9)
    await clock.advance(11)
    await fire(lab, 0.9)
    report = await shown(lab)
    assert (report.same, report.different) == (2, {("started", "filtered"): 1})
    assert report.differences[0].shadow_reason == "cooling down"


def long_runs(threshold: float, gate: asyncio.Event, **options: Any) -> type[Saga]:
    """Its runs last until the gate opens."""

    class Retraining(Saga):
        saga_name = "retraining"

        @trigger(source="memory", topic="drift", **options)
        def on_drift(self, event: Any) -> Any:
            return {"score": event.score} if event.score > threshold else skip("too low")

        @action()
        async def train(self, ctx: Any) -> None:
            await gate.wait()
            if ctx["score"] == 0.95:
                raise ValueError("it does not converge")

    return Retraining


ONE_AT_A_TIME: dict[str, Any] = {"singleton": "skip", "concurrency_key": "model"}


async def test_a_run_of_the_shadow_lasts_as_long_as_the_live_one(lab: Lab) -> None:
    gate = asyncio.Event()
    long_runs(0.5, gate, **ONE_AT_A_TIME)
    with lab.registry.staging():
        new = long_runs(0.4, gate, **ONE_AT_A_TIME)
    lab.shadow(new)
    await fire(lab, 0.9, 0.9, model="ctr")  # the second meets the run of the first, in both
    await until(lambda: lab.shadows["retraining"].same == 2)
    gate.set()
    await lab.drain()
    await fire(lab, 0.45, model="ctr")
    report = await shown(lab)
    assert (report.seen, report.same, report.different) == (3, 2, {("filtered", "started"): 1})


async def test_a_run_that_was_under_way_when_the_shadow_began_is_under_way_for_it_too(lab: Lab) -> None:
    gate = asyncio.Event()
    long_runs(0.5, gate, **ONE_AT_A_TIME)
    await fire(lab, 0.9, model="ctr")
    with lab.registry.staging():
        new = long_runs(0.5, gate, **ONE_AT_A_TIME)
    lab.shadow(new)
    await fire(lab, 0.9, model="ctr")
    await fire(lab, 0.9, model="other")
    await until(lambda: lab.shadows["retraining"].same == 2)
    gate.set()
    await lab.drain()
    await fire(lab, 0.9, model="ctr")
    report = await shown(lab)
    assert (report.seen, report.same) == (3, 3)


async def test_a_key_whose_live_run_failed_is_free_in_the_shadow_too(lab: Lab) -> None:
    gate = asyncio.Event()
    options: dict[str, Any] = {"idempotency_key": "id", "config": TriggerConfig(max_retries=0)}
    long_runs(0.5, gate, **options)
    with lab.registry.staging():
        new = long_runs(0.4, gate, **options)
    lab.shadow(new)
    await fire(lab, 0.95, id=1)
    gate.set()
    await lab.drain()
    await fire(lab, 0.9, 0.9, id=1)
    report = await shown(lab)
    assert (report.seen, report.same) == (3, 3)
    assert len(lab.dead_letters()) == 1


async def test_the_shadow_keeps_no_contexts_or_events_of_its_runs(lab: Lab) -> None:
    given: list[weakref.ref[Any]] = []

    def starts(_: Any, event: Any) -> Any:
        array = np.arange(1000)
        given.extend((weakref.ref(array), weakref.ref(event["array"])))
        return {"score": event.score, "array": array}

    saga(above(0.5))
    lab.shadow(edited(lab, starts))
    await fire(lab, 0.45, 0.9, 0.9, array=np.arange(1000))
    await shown(lab)
    assert len(given) == 6
    await until(lambda: gc.collect() >= 0 and all(array() is None for array in given))


async def test_what_the_shadow_has_no_room_for_is_missed_and_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "QUEUE", 5)
    config = TriggerConfig(queue_size=1)
    saga(above(0.5))
    lab.shadow(edited(lab, above(0.5), rate_limit_per_second=0.001, config=config))
    await fire(lab, *[0.9] * 20)
    await lab.drain()
    report = lab.shadows["retraining"]
    assert counted(lab, NAME) == {"received": 20, "started": 20}
    assert report.missed > 0
    assert report.seen + report.missed == 20
    assert report.waiting > 0


# --- beside a running source ---


async def test_events_of_a_source_come_to_it_and_are_settled_once() -> None:
    taps = Taps()
    async with Lab("memory", sources={"memory": taps}) as lab:
        saga(above(0.5))
        await lab.start()
        lab.shadow(edited(lab, above(0.7), topic="elsewhere"))
        for n in range(100):
            await taps["drift"].put({"score": n / 100})
        await until(lambda: lab.counters()[NAME]["received"] == 100)
        report = await shown(lab)
        assert report.different == {("started", "filtered"): 20}
        assert taps["drift"].unsettled == 0
        assert list(taps.made) == ["drift"]
        assert report.notes == [f"trigger {NAME}: its events still come from memory drift, not from memory elsewhere"]


async def test_live_params_hold_for_the_shadow_unless_it_has_another_default(lab: Lab) -> None:
    def by_params(self: Any, event: Any) -> Any:
        return {} if event.score > self.params.threshold else skip("too low", least=self.params.least)

    saga(by_params, params={"threshold": 0.5, "least": 1})
    await lab.set_params(NAME, threshold=0.7)
    lab.shadow(edited(lab, by_params, params={"threshold": 0.5, "least": 2}))
    await fire(lab, 0.6, 0.8)
    await lab.set_params(NAME, threshold=0.9)
    await fire(lab, 0.8, 0.95)
    report = await shown(lab)
    assert [(one.what, one.details) for one in report.differences] == [("facts", "least: 1 -> 2")] * 2
    assert report.same == 2


async def test_a_method_of_the_shadow_that_changes_its_payload_changes_nobody_elses(lab: Lab) -> None:
    def greedy(_: Any, event: Any) -> Any:
        event.payload["score"] = 0
        return {}

    saga(lambda _, event: {})
    lab.shadow(edited(lab, greedy))
    payload = {"score": 0.9}
    await lab.fire(NAME, payload)
    await shown(lab)
    assert payload == {"score": 0.9}


# --- how it ends ---


async def test_registering_the_saga_again_ends_the_shadow(lab: Lab) -> None:
    saga(above(0.5))
    new = edited(lab, above(0.7))
    lab.shadow(new)
    lab.register(new)
    assert dict(lab.shadows) == {}
    assert lab.sagas["retraining"].revision == 2
    (outcome,) = await lab.fire(NAME, {"score": 0.6})
    assert outcome.kind == "filtered"
    lab.shadow(edited(lab, above(0.9)))
    lab.unregister("retraining")
    assert dict(lab.shadows) == {}


async def test_a_shadow_of_a_lab_that_is_not_open_yet_begins_with_its_first_event_and_ends_with_the_revision() -> None:
    lab = Lab("memory")
    with lab.activate():
        saga(above(0.5))
        lab.shadow(edited(lab, above(0.7)))
        await fire(lab, 0.6)
        assert (await shown(lab)).different == {("started", "filtered"): 1}
        await lab.stop()
        assert dict(lab.shadows) == {}
        with pytest.raises(LabClosed, match="start it, then begin the shadow"):
            lab.shadow(edited(lab, above(0.7)))
        await fire(lab, 0.6)
        assert dict(lab.shadows) == {}
        await lab.stop()


async def test_ending_gives_the_last_report_and_leaves_no_task_behind(lab: Lab) -> None:
    saga(above(0.5))
    lab.shadow(edited(lab, above(0.7)))
    await fire(lab, 0.6)
    await shown(lab)
    before = lab.shadows.end("retraining")
    assert before.different == {("started", "filtered"): 1}
    assert dict(lab.shadows) == {}
    await fire(lab, 0.6)
    await until(lambda: not [task for task in asyncio.all_tasks() if "shadow" in task.get_name()])
    with pytest.raises(UnknownName):
        lab.shadows.end("retraining")


async def test_without_a_shadow_nobody_listens(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Any] = []
    monkeypatch.setattr(Shadows, "decided", lambda _, outcomes: heard.append([it.event_id for it in outcomes]))
    saga(above(0.5))
    await lab.fire(NAME, {"score": 0.6}, id="before")
    lab.shadow(edited(lab, above(0.7)))
    await lab.fire(NAME, {"score": 0.6}, id="with it")
    lab.shadows.end("retraining")
    await lab.fire(NAME, {"score": 0.6}, id="after")
    await lab.drain()
    assert heard == [["with it"]]


async def test_a_shadow_replaced_under_load_counts_anew_and_the_live_events_lose_nothing() -> None:
    taps = Taps()
    async with Lab("memory", sources={"memory": taps}) as lab:
        saga(above(0.5))
        await lab.start()
        for n in range(20):
            began = lab.shadow(edited(lab, above(0.5 + n / 100)))
            assert (began.seen, began.change.revision) == (0, 1 if n == 0 else 2)
            for score in range(100):
                await taps["drift"].put({"score": score / 100})
            await asyncio.sleep(0.002)
        await until(lambda: lab.counters()[NAME]["received"] == 2000)
        report = await shown(lab)
        assert counted(lab, NAME) == {"received": 2000, "started": 980, "filtered": 1020}
        assert report.same + report.different.get(("started", "filtered"), 0) == report.seen <= 2000
        await until(lambda: len([t for t in asyncio.all_tasks() if "shadow" in t.get_name()]) <= 1)
        assert problems(lab) == []


async def test_only_the_newest_thousand_differences_are_kept(lab: Lab) -> None:
    saga(above(0.5))
    lab.shadow(edited(lab, above(2.0)))
    for batch in range(3):
        await asyncio.gather(*(lab.fire(NAME, {"score": 1}, id=f"{batch}-{n}") for n in range(500)))
    report = await shown(lab)
    assert report.different == {("started", "filtered"): 1500}
    assert len(report.differences) == 1000
    assert report.differences[0].event_id.startswith("2-")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": [1, 2.0]}, {"a": [1, 2.0]}, True),
        ((1,), [1], False),
        (float("nan"), float("nan"), True),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(4), False),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]}), True),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2]}), False),
        (1, "1", False),
    ],
)
def test_values_of_contexts_are_compared_by_what_they_hold(one: Any, other: Any, same: bool) -> None:
    assert alike(one, other) is same


def test_objects_of_a_class_that_a_cell_has_made_anew_are_alike() -> None:
    def model(threshold: float) -> Any:
        class Model:
            def __init__(self) -> None:
                self.threshold = threshold

        return Model()

    assert alike(model(0.5), model(0.5))
    assert not alike(model(0.5), model(0.7))
