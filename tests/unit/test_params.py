"""The params of a trigger: read by its method, changed while events flow, kept in the store."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, action, skip, trigger
from sagaz_lab.errors import DefinitionError, StoreUnavailable, UnknownName
from sagaz_lab.runtime.triggers.live_params import KEPT_CHANGES
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing import TriggerTestHarness
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import Taps, counted, until

ON_SCORE = "Scores.on_score"


class Scored(Saga, abstract=True):
    """Starts above its threshold; `on_other` has a threshold of its own, `on_any` no params."""

    @trigger(source="memory", topic="scores", params={"threshold": 0.5, "model": "ctr", "limit": 3, "strict": True})
    def on_score(self, event):
        threshold = self.params["threshold"]
        assert threshold == self.params.threshold
        return {"threshold": threshold} if event.score > threshold else skip("too low", threshold=threshold)

    @trigger(source="memory", topic="others", params={"threshold": 9, "owner": None})
    def on_other(self, event):
        return {"seen": dict(self.params)}

    @trigger(source="memory", topic="any")
    def on_any(self, event):
        return {"seen": dict(self.params)}

    @action()
    async def work(self, ctx): ...


def scores(default: float | None = 0.5) -> None:
    """Have the current Lab know the saga, with this default, or without params."""
    params = None if default is None else {"threshold": default, "model": "ctr"}

    class Scores(Saga):
        @trigger(source="memory", topic="scores", params=params)
        def on_score(self, event):
            return dict(self.params)


async def context(lab: Lab, target: str, payload: Any = None) -> Any:
    return (await lab.preview(target, payload or {})).context


@pytest.fixture(params=["memory", "sqlite"])
def restarted(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Lab]:
    """Makes one Lab after the other on the same store."""
    store = MemoryStore()
    return lambda: Lab(store if request.param == "memory" else f"sqlite:///{tmp_path}/lab.db")


# --- reading ---


async def test_a_trigger_method_reads_the_params_of_its_own_trigger(lab: Lab) -> None:
    class Scores(Scored): ...

    assert [o.kind for o in await lab.fire(ON_SCORE, {"score": 0.6})] == ["started"]
    assert (await lab.fire(ON_SCORE, {"score": 0.4}))[0].facts == {"threshold": 0.5}
    assert await context(lab, "Scores.on_other") == {"seen": {"threshold": 9, "owner": None}}
    assert await context(lab, "Scores.on_any") == {"seen": {}}


async def test_an_unknown_param_is_named_with_the_nearest(lab: Lab) -> None:
    class Typing(Saga):
        @trigger(source="memory", params={"threshold": 0.5})
        def on_item(self, event):
            return {"value": self.params["treshold"]}

        @trigger(source="memory")
        def on_attribute(self, event):
            assert self.params.get("threshold") is None
            return {"value": self.params.threshold}

    (outcome,) = await lab.fire("Typing.on_item", {})
    assert "Typing.on_item: no param 'treshold'; did you mean 'threshold'?" in outcome.reason
    (outcome,) = await lab.fire("Typing.on_attribute", {})
    assert "AttributeError: Typing.on_attribute: no param 'threshold' (known: none)" in outcome.reason


async def test_an_action_that_reads_params_is_told_to_use_the_context(lab: Lab) -> None:
    class Reading(Saga):
        @trigger(source="memory", params={"threshold": 0.5})
        def on_event(self, event): ...

        @action()
        async def work(self, ctx):
            return {"threshold": self.params["threshold"]}

    with pytest.raises(DefinitionError, match="have the trigger put the value into the context"):
        await Reading().run({})
    assert not hasattr(Reading(), "params")


async def test_where_no_trigger_has_params_they_are_empty(lab: Lab) -> None:
    class Plain(Saga):
        seen = 0

        @trigger(source="memory")
        def on_event(self, event):
            self.seen += 1
            return {"seen": self.seen, "params": dict(self.params)}

    assert await context(lab, "Plain.on_event") == {"seen": 1, "params": {}}
    assert await context(lab, "Plain.on_event") == {"seen": 2, "params": {}}


async def test_what_a_method_keeps_on_its_instance_outlives_a_change(lab: Lab) -> None:
    class Counting(Saga):
        seen = 0

        @trigger(source="memory", params={"step": 1})
        def on_event(self, event):
            self.seen += self.params.step
            return {"seen": self.seen}

    assert await context(lab, "Counting.on_event") == {"seen": 1}
    await lab.set_params("Counting.on_event", step=10)
    assert await context(lab, "Counting.on_event") == {"seen": 11}


# --- definitions ---


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ([("a", 1)], "must be a mapping"),
        ({"a": [1]}, "a=[1] must be a finite number, a string, True, False or None"),
        ({"a": float("nan")}, "a=nan must be a finite number"),
        ({"a": float("inf")}, "a=inf must be a finite number"),
        ({"a": object}, "must be a finite number"),
        ({1: 1}, "params has 1, which cannot be read as self.params.NAME"),
        ({"a-b": 1}, "params has 'a-b'"),
        ({"_a": 1}, "params has '_a'"),
        ({"items": 1}, "params has 'items', an attribute of every mapping"),
    ],
)
def test_wrong_params_are_refused_where_they_are_written(params: Any, told: str) -> None:
    with pytest.raises(DefinitionError) as error:
        trigger(source="memory", params=params)(lambda self, event: None)
    assert told in str(error.value)


def test_a_class_with_a_params_of_its_own_cannot_have_those_of_triggers() -> None:
    with pytest.raises(DefinitionError, match="Own: the class defines params"):

        class Own(Saga):
            params = {"threshold": 1}

            @trigger(source="memory", params={"threshold": 0.5})
            def on_event(self, event): ...


# --- changing ---


async def test_a_change_holds_from_the_next_event_on_and_makes_no_revision(lab: Lab) -> None:
    class Scores(Scored): ...

    await lab.set_params(ON_SCORE, threshold=0.7)
    assert (await lab.fire(ON_SCORE, {"score": 0.6}))[0].facts == {"threshold": 0.7}
    assert await lab.params(ON_SCORE) == {"threshold": 0.7, "model": "ctr", "limit": 3, "strict": True}
    assert repr(await lab.params("Scores.on_other")) == "Params(Scores.on_other: threshold=9, owner=None)"
    assert lab.sagas["Scores"].revision == 1


@pytest.mark.parametrize("wrong", [
    {"threshold": "0.7"}, {"threshold": True}, {"threshold": None}, {"threshold": [0.7]}, {"threshold": float("nan")},
    {"limit": 3.5}, {"limit": True}, {"strict": 1}, {"model": 1}, {"model": "ads", "limit": "4"},
])  # fmt: skip
async def test_a_change_keeps_the_type_or_nothing_changes(lab: Lab, wrong: dict[str, Any]) -> None:
    class Scores(Scored): ...

    before = await lab.params(ON_SCORE)
    with pytest.raises(DefinitionError, match=r"Scores.on_score: \w+=.* must be"):
        await lab.set_params(ON_SCORE, **wrong)
    assert await lab.params(ON_SCORE) == before
    assert await lab.params(ON_SCORE, history=True) == []


async def test_an_int_is_right_for_a_float_and_anything_for_none(lab: Lab) -> None:
    class Scores(Scored): ...

    await lab.set_params(ON_SCORE, threshold=1)
    assert repr((await lab.params(ON_SCORE)).threshold) == "1.0"
    for owner in ("me", 5, None):
        await lab.set_params("Scores.on_other", owner=owner)
        assert (await lab.params("Scores.on_other")).owner == owner


async def test_an_unknown_name_is_refused_with_the_nearest(lab: Lab) -> None:
    class Scores(Scored): ...

    with pytest.raises(UnknownName, match="no param 'treshold'; did you mean 'threshold'"):
        await lab.set_params(ON_SCORE, treshold=0.7)
    for call in (lab.params, lab.set_params):
        with pytest.raises(UnknownName, match=r"no trigger 'Scores.on_scor'; did you mean 'Scores.on_score'"):
            await call("Scores.on_scor")


async def test_the_last_changes_are_listed(clock: VirtualClock, timed_lab: Lab) -> None:
    class Scores(Scored): ...

    await timed_lab.set_params(ON_SCORE, limit=3)  # as it is: no change
    for limit in range(4, 4 + KEPT_CHANGES + 5):
        await timed_lab.set_params(ON_SCORE, limit=limit)
    await clock.advance(60)
    await timed_lab.set_params(ON_SCORE, threshold=0.7)
    changes = await timed_lab.params(ON_SCORE, history=True)
    assert len(changes) == KEPT_CHANGES
    assert [(c.name, c.old, c.new) for c in changes[:2]] == [("threshold", 0.5, 0.7), ("limit", 107, 108)]
    assert (changes[0].at - changes[1].at).total_seconds() == 60


async def test_each_event_is_decided_by_one_value_while_they_change() -> None:
    taps, seen = Taps(), []
    async with Lab("memory", sources={"memory": taps}) as lab:

        class Flowing(Saga):
            @trigger(source="memory", topic="flow", params={"one": 0, "two": 0})
            async def on_event(self, event):
                one = self.params.one
                await asyncio.sleep(0)
                seen.append((one, self.params.two))

        await lab.start()
        tap = taps["flow"]
        for n in range(1, 51):
            for _ in range(20):
                await tap.put({"n": n})
            await lab.set_params("Flowing.on_event", one=n, two=n)
            await asyncio.sleep(0)
        await until(lambda: len(seen) == 1000)
        assert [pair for pair in seen if pair[0] != pair[1]] == []
        assert len(set(seen)) > 5
        assert seen == sorted(seen)
        assert tap.entered == 1
        await until(lambda: counted(lab, "Flowing.on_event") == {"received": 1000, "filtered": 1000})


# --- keeping ---


async def test_changes_survive_a_restart(restarted: Callable[[], Lab]) -> None:
    async with restarted() as lab:
        scores()
        await lab.set_params(ON_SCORE, threshold=0.7)
    async with restarted() as lab:
        scores()  # once it is open, as in a notebook
        (outcome,) = await lab.fire(ON_SCORE, {})
        await lab.drain()
        assert outcome.kind == "started"
        assert await context(lab, ON_SCORE) == {"threshold": 0.7, "model": "ctr"}
        assert [(c.old, c.new) for c in await lab.params(ON_SCORE, history=True)] == [(0.5, 0.7)]
    late = restarted()
    with late.activate():
        scores()  # before it is open
    async with late:
        assert dict(await late.params(ON_SCORE)) == {"threshold": 0.7, "model": "ctr"}


async def test_the_first_event_after_a_restart_is_decided_by_the_kept_value(restarted: Callable[[], Lab]) -> None:
    async with restarted() as lab:

        class Scores(Scored): ...

        await lab.set_params(ON_SCORE, threshold=0.7)
    async with restarted() as lab:

        class Scores(Scored): ...

        (outcome,) = await lab.fire(ON_SCORE, {"score": 0.6})
        assert outcome.facts == {"threshold": 0.7}


async def test_the_same_cell_again_keeps_a_change_and_a_new_default_wins(each_lab: Lab) -> None:
    scores()
    await each_lab.set_params(ON_SCORE, threshold=0.7, model="ads")
    scores()
    assert dict(await each_lab.params(ON_SCORE)) == {"threshold": 0.7, "model": "ads"}
    assert each_lab.sagas["Scores"].revision == 1
    scores(0.6)
    assert await context(each_lab, ON_SCORE) == {"threshold": 0.6, "model": "ads"}
    assert dict(await each_lab.params(ON_SCORE)) == {"threshold": 0.6, "model": "ads"}
    assert each_lab.sagas["Scores"].revision == 2
    scores(0.5)
    assert (await each_lab.params(ON_SCORE)).threshold == 0.5
    async with asyncio.timeout(20):
        while len(changes := await each_lab.params(ON_SCORE, history=True)) < 3:  # noqa: ASYNC110  they are kept soon
            await asyncio.sleep(0.001)
    assert [(c.name, c.old, c.new) for c in changes] == [
        ("threshold", 0.7, 0.6), ("model", "ctr", "ads"), ("threshold", 0.5, 0.7),
    ]  # fmt: skip


async def test_a_new_default_wins_over_a_change_of_another_process(restarted: Callable[[], Lab]) -> None:
    async with restarted() as lab:
        scores()
        await lab.set_params(ON_SCORE, threshold=0.7, model="ads")
    async with restarted() as lab:
        scores(0.6)
        assert dict(await lab.params(ON_SCORE)) == {"threshold": 0.6, "model": "ads"}
    async with restarted() as lab:
        scores(0.5)
        assert dict(await lab.params(ON_SCORE)) == {"threshold": 0.5, "model": "ads"}


async def test_a_changed_default_is_told_as_a_warning(lab: Lab) -> None:
    scores()
    with lab.registry.staging() as staged:
        scores(0.6)
    (change,) = lab.registry.commit(staged)
    assert "trigger Scores.on_score: param threshold is 0.6 from now on; its default was 0.5" in change.warnings


async def test_params_that_a_revision_adds_are_read_from_the_store(restarted: Callable[[], Lab]) -> None:
    async with restarted() as lab:
        scores()
        await lab.set_params(ON_SCORE, threshold=0.7)
    async with restarted() as lab:
        scores(None)
        assert await context(lab, ON_SCORE) == await lab.params(ON_SCORE) == {}
        scores()
        await lab.fire(ON_SCORE, {})
        assert await context(lab, ON_SCORE) == {"threshold": 0.7, "model": "ctr"}


async def test_what_the_store_does_not_take_holds_all_the_same(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    scores()
    positions, refuses = lab.store.positions(), True
    put = positions.put

    async def refusing(name: str, value: str) -> None:
        if refuses:
            raise StoreUnavailable("full")
        await put(name, value)

    monkeypatch.setattr(positions, "put", refusing)
    with pytest.raises(StoreUnavailable):
        await lab.set_params(ON_SCORE, threshold=0.7)
    assert await context(lab, ON_SCORE) == {"threshold": 0.7, "model": "ctr"}
    refuses = False
    await lab.set_params(ON_SCORE)
    assert "0.7" in (await positions.get(f"params {ON_SCORE}") or "")


# --- the harness ---


async def test_the_harness_has_the_defaults_or_what_it_is_given(lab: Lab) -> None:
    class Scores(Scored): ...

    event = {"score": 0.6}
    assert await TriggerTestHarness(Scores).trigger("on_score", event) == {"threshold": 0.5}
    harness = TriggerTestHarness(Scores, params={"threshold": 1})
    assert await harness.trigger("on_score", event) is None
    assert harness.skipped is not None
    assert harness.skipped.facts == {"threshold": 1.0}
    assert await harness.trigger("on_other", event) == {"seen": {"threshold": 1, "owner": None}}
    assert await harness.trigger("on_any", event) == {"seen": {}}
    with pytest.raises(UnknownName, match="no param 'treshold'; did you mean 'threshold'"):
        TriggerTestHarness(Scores, params={"treshold": 1})
    with pytest.raises(DefinitionError, match="must be of type float"):
        TriggerTestHarness(Scores, params={"threshold": "high"})
