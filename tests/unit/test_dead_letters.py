"""Dead letters: what becomes of events that cannot be decided and of runs that fail for good."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Debounce, Lab, OutcomeKind, Permanent, Saga, TriggerConfig, action, trigger
from sagaz_lab.abc import DeadLetter, Event
from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model import policy
from sagaz_lab.runtime.triggers.dead_letter_notices import DeadLetterWatch
from sagaz_lab.runtime.triggers.dead_letters import is_letter_id, redriven
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import assert_adds_up, statuses, until


class Broken(Exception):
    pass


class Scored(Saga, abstract=True):
    trigger_config = TriggerConfig(max_retries=0)

    @trigger(source="memory", topic="scores")
    def on_score(self, event):
        if event["score"] < 0:
            raise ValueError(f"score {event['score']}")
        return {"score": event["score"]}

    @action("keep")
    async def keep(self, ctx): ...


async def died(lab: Lab, *scores: int) -> list[str]:
    """The ids of the letters that these scores leave, oldest first."""
    for score in scores:
        await lab.fire("Scores.on_score", {"score": score})
    return list(lab.dead_letters(limit=None)["id"])[::-1]


# --- the retry policy ---


def test_without_delays_the_backoff_doubles_and_is_random_from_zero_on() -> None:
    config = TriggerConfig(retry_backoff_seconds=None)
    for attempt, most in ((1, 1), (2, 2), (5, 16), (9, 256), (10, 300), (5000, 300)):
        delays = [config.retry_delay_s(attempt) for _ in range(300)]
        assert 0 <= min(delays) < most / 10
        assert most * 0.9 < max(delays) <= most
    assert (policy.FIRST_BACKOFF_S, policy.LONGEST_BACKOFF_S) == (1.0, 300.0)


@pytest.mark.parametrize(("delays", "expected"), [(7, [7, 7, 7]), ([1, 5], [1, 5, 5])])
def test_delays_that_are_given_are_taken_as_they_are(delays: Any, expected: list[float]) -> None:
    config = TriggerConfig(retry_backoff_seconds=delays)
    assert [config.retry_delay_s(attempt) for attempt in (1, 2, 3)] == expected


@pytest.mark.parametrize("age", [0, -1, "soon", True, float("inf"), []])
def test_a_wrong_maximum_age_is_told_at_definition(age: Any) -> None:
    with pytest.raises(DefinitionError, match="retry_max_age="):
        TriggerConfig(retry_max_age=age)


async def test_a_run_whose_event_is_too_old_is_not_tried_again(timed_lab: Lab, clock: VirtualClock) -> None:
    tried = []

    class Failing(Saga):
        trigger_config = TriggerConfig(max_retries=9, retry_backoff_seconds=[10, 60], retry_max_age="1m")

        @trigger(source="memory")
        def on_event(self, event):
            return {}

        @action("work")
        async def work(self, ctx):
            tried.append(clock.monotonic())
            raise Broken("every time")

    await timed_lab.fire("Failing.on_event")
    await clock.advance(1000)
    assert tried == [0, 10]  # the next would be at 70, when the event is older than a minute
    (letter,) = timed_lab.dead_letters().to_dict("records")
    assert letter["attempts"] == 2
    assert letter["error"] == ("Broken: every time (no retry: its event came 10 s ago; retry_max_age='1m')")
    assert statuses(timed_lab) == ["compensated"]


async def test_to_be_stopped_again_and_again_is_no_death(tmp_path: Path) -> None:
    entered = []

    def define() -> None:
        class Long(Saga):
            trigger_config = TriggerConfig(max_retries=1)

            @trigger(source="memory")
            def on_event(self, event):
                return {}

            @action("train")
            async def train(self, ctx):
                entered.append(ctx.idempotency_key)
                if len(entered) < 6:
                    await asyncio.sleep(1000)

    for n in range(1, 7):
        lab = Lab(f"sqlite:///{tmp_path}/lab.db")
        with lab.activate():
            define()
            await lab.open()
            await lab.start()
            if n == 1:
                await lab.fire("Long.on_event")
            await until(lambda n=n: len(entered) == n)
            if n == 6:
                await lab.drain()
            await lab.stop(grace_s=0)
    assert statuses(lab) == ["completed"]
    assert len(set(entered)) == 1
    assert list(lab.steps()["error"].dropna()) == ["the Lab was stopped"] * 5


# --- redrive ---


async def test_letters_are_redriven_in_their_old_order_by_the_current_revision(each_lab: Lab) -> None:
    seen = []

    class Scores(Scored): ...

    ids = await died(each_lab, -1, -2, -3)

    class Scores(Scored):  # noqa: F811  the cell is run again
        @trigger(source="memory", topic="scores")
        def on_score(self, event, whole: Event):
            seen.append((event["score"], redriven(whole)))
            return {}

    outcomes = await each_lab.redrive(ids[::-1])
    assert seen == [(-1, 1), (-2, 1), (-3, 1)]
    assert [(o.kind, o.revision) for o in outcomes] == [(OutcomeKind.STARTED, 2)] * 3
    await each_lab.drain()
    assert len(each_lab.dead_letters()) == 0
    assert_adds_up(each_lab)


async def test_letters_of_several_triggers_and_of_one_event_are_redriven_together(each_lab: Lab) -> None:
    class Scores(Scored): ...

    class Others(Scored): ...

    for score in (-1, 5, -2, -3):
        await each_lab.fire("memory", {"score": score}, topic="scores", id=f"e{abs(score)}")
    ids = list(each_lab.dead_letters()["id"])
    assert len(ids) == 6
    outcomes = await each_lab.redrive(ids, fix=lambda payload: {"score": -payload["score"]})
    assert sorted((o.event_id, o.trigger) for o in outcomes) == [
        (f"e{n}", f"{saga}.on_score") for n in (1, 2, 3) for saga in ("Others", "Scores")
    ]
    assert {str(o.kind) for o in outcomes} == {"started"}
    await each_lab.drain()
    assert len(each_lab.runs()) == 8


async def test_a_letter_that_dies_again_says_how_often_it_was_redriven(each_lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(each_lab, -1)
    for n in (1, 2):
        (outcome,) = await each_lab.redrive(ids)
        assert outcome.kind is OutcomeKind.DEAD
        assert outcome.reason == f"ValueError: score -1 (again, after redrive {n})"
        (letter,) = each_lab.dead_letters().to_dict("records")
        assert (letter["redriven"], letter["error"]) == (n, outcome.reason)
        assert f"again, after redrive {n}" in repr(each_lab.why(outcome.event_id))
        ids = [letter["id"]]


async def test_a_run_that_fails_again_says_so_too(each_lab: Lab) -> None:
    class Failing(Scored):
        @action("work", depends_on="keep")
        async def work(self, ctx):
            raise Permanent("no such model")

    (outcome,) = await each_lab.fire("Failing.on_score", {"score": 1})
    await each_lab.drain()
    await each_lab.redrive(list(each_lab.dead_letters()["id"]))
    await each_lab.drain()
    (letter,) = each_lab.dead_letters().to_dict("records")
    assert (letter["redriven"], letter["attempts"]) == (1, 1)
    told = each_lab.why(outcome.event_id).lines()
    assert [line.endswith("(again, after redrive 1)") for line in told].count(True) == 1


async def test_an_id_that_never_was_a_letter_is_refused_before_anything_happens(each_lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(each_lab, -1, -2)
    with pytest.raises(UnknownName, match=f"no open dead letter 'nosuch, other'.*{ids[0]}"):
        await each_lab.redrive([*ids, "nosuch", "other"])
    with pytest.raises(UnknownName, match="discard: no open dead letter 'nosuch'"):
        await each_lab.discard(["nosuch", *ids], "mistake")
    assert len(each_lab.dead_letters()) == 2


async def test_what_is_settled_already_is_skipped_and_told(each_lab: Lab) -> None:
    class Scores(Scored): ...

    told: list[str] = []
    each_lab.on_report(lambda kind, text: told.append(text) if kind == "letters:skipped" else None)
    ids = await died(each_lab, -1, -2)
    assert await each_lab.discard(ids[:1], "known") == 1
    assert len(await each_lab.redrive(ids, fix=lambda _: {"score": 1})) == 1
    assert told == ["redrive skipped 1 that are no longer open: they were redriven or discarded"]
    assert await each_lab.discard(ids, "again") == 0
    assert len(told) == 2


async def test_a_fix_that_fails_leaves_its_letter_alone_and_the_earlier_ones_redriven(each_lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(each_lab, -1, -2, -3)

    def fix(payload: dict[str, int]) -> dict[str, int]:
        payload["score"] *= -1
        if payload["score"] == 2:
            raise Broken("not this one")
        return payload

    with pytest.raises(Broken, match="not this one") as raised:
        await each_lab.redrive(ids, fix=fix)
    assert raised.value.__notes__ == [f"redrive: fix failed for the dead letter {ids[1]}, which is still open"]
    await each_lab.drain()
    assert list(each_lab.dead_letters()["id"]) == [ids[2], ids[1]]
    assert statuses(each_lab) == ["completed"]
    again = await each_lab.redrive(ids[1])
    assert again[0].reason.startswith("ValueError: score -2")  # the payload is as it was


async def test_a_fix_that_forgets_to_return_the_payload_is_told(lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(lab, -1)
    with pytest.raises(TypeError, match="fix returned None"):
        await lab.redrive(ids, fix=lambda payload: payload.update(score=1))
    assert len(lab.dead_letters()) == 1


async def test_a_letter_whose_trigger_is_gone_stays(each_lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(each_lab, -1)
    each_lab.unregister("Scores")
    with pytest.raises(UnknownName, match=r"no trigger 'Scores\.on_score'"):
        await each_lab.redrive(ids)
    assert len(each_lab.dead_letters()) == 1


async def test_a_header_from_a_broker_that_says_something_else_counts_as_never() -> None:
    for text in ("", "x", "-1", "9" * 30, "²"):
        assert redriven(Event({}, "e", headers={"sagaz-redriven": text})) == 0
    assert redriven(Event({}, "e", headers={"sagaz-redriven": "3"})) == 3
    assert redriven(Event({}, "e")) == 0


async def test_a_redrive_waits_while_there_is_no_room(lab: Lab) -> None:
    gate = asyncio.Event()

    class Scores(Scored):
        trigger_config = TriggerConfig(queue_size=2, max_retries=0)

        @trigger(source="memory", topic="scores", max_concurrent_sagas=1)
        def on_score(self, event):
            if event["score"] < 0:
                raise ValueError
            return {}

        @action("keep")
        async def keep(self, ctx):
            await gate.wait()

    ids = await died(lab, *range(-10, 0))
    redriving = asyncio.create_task(lab.redrive(ids, fix=lambda _: {"score": 1}))
    await until(lambda: lab.counters()["Scores.on_score"]["waiting"] == 2)
    assert not redriving.done()
    gate.set()
    assert len(await redriving) == 10
    await lab.drain()
    assert len(lab.dead_letters()) == 0


async def test_a_page_of_letters_is_redriven_quickly(tmp_path: Path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:

        class Scores(Scored): ...

        await died(lab, *range(-400, 0))
        ids = list(lab.dead_letters(limit=100)["id"])
        before = time.perf_counter()
        assert len(await lab.redrive(ids, fix=lambda _: {"score": 1})) == 100
        assert time.perf_counter() - before < 1.0  # 0.1 s on a quiet machine
        await lab.drain()


@pytest.mark.parametrize("reason", ["", "  ", None, 3])
async def test_to_discard_needs_a_reason(lab: Lab, reason: Any) -> None:
    class Scores(Scored): ...

    ids = await died(lab, -1)
    with pytest.raises(DefinitionError, match="gives the reason"):
        await lab.discard(ids, reason)
    assert len(lab.dead_letters()) == 1


# --- the table and the causes ---


async def test_the_table_is_read_in_pages_from_the_newest_on(each_lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(each_lab, *range(-7, 0))
    first = each_lab.dead_letters(limit=3)
    second = each_lab.dead_letters(limit=3, before=first["id"].iloc[-1])
    assert [*first["id"], *second["id"]] == ids[:0:-1]
    with pytest.raises(DefinitionError, match="before="):
        each_lab.dead_letters(by="cause", before=ids[0])


async def test_a_hundred_letters_of_one_cause_are_one_row(each_lab: Lab) -> None:
    class Scores(Scored): ...

    ids = await died(each_lab, *range(-100, 0))
    await each_lab.fire("Scores.on_score", {})
    many, one = each_lab.dead_letters(by="cause").to_dict("records")
    assert many["cause"] == "ValueError in on_score: raise ValueError(f\"score {event['score']}\")"
    assert (many["count"], many["error"]) == (100, "ValueError: score -1")
    assert many["first_at"] <= many["last_at"]
    assert list(many["ids"]) == ids[::-1]
    assert one["cause"] == 'KeyError in on_score: if event["score"] < 0:'
    assert len(each_lab.dead_letters(by="cause", limit=1)) == 1


async def test_a_failed_run_is_of_the_action_and_the_place_in_the_users_code(each_lab: Lab) -> None:
    def features(row: dict[str, int]) -> int:
        return row["drift"]

    class Training(Scored):
        @action("train", depends_on="keep")
        def train(self, ctx):
            return sorted([{}], key=features)

        @action("slow", depends_on="keep", timeout_s=0.01)
        async def slow(self, ctx):
            if ctx["score"] == 2:
                await asyncio.sleep(10)

    class Waiting(Scored):
        @action("slow", timeout_s=0.01)
        async def slow(self, ctx):
            await asyncio.sleep(10)

    for name in ("Training", "Waiting"):
        await each_lab.fire(f"{name}.on_score", {"score": 1})
        await each_lab.drain()
    assert list(each_lab.dead_letters()["cause"]) == [
        "ActionTimeout: action 'slow' took longer than 0.01 s",
        "KeyError in action 'train', in features: return row[\"drift\"]",
    ]


CELL = """
import asyncio
from sagaz_lab import Saga, action, trigger, TriggerConfig

class Training(Saga):
    trigger_config = TriggerConfig(max_retries=0)

    @trigger(source="memory")
    def on_event(self, event):
        return {}

    @action("train")
    async def train(self, ctx):
        raise ValueError("no data")
"""


@pytest.mark.parametrize("with_source", [True, False])
async def test_a_cell_that_is_run_again_has_the_same_causes(
    lab: Lab, with_source: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel does it: another file's name, other line numbers, and the lines known to `linecache` or not."""
    import linecache

    for n, text in enumerate((CELL, "# a note\n\n" + CELL)):
        file = f"/tmp/ipykernel_12/{n}56.py"
        if with_source:
            monkeypatch.setitem(linecache.cache, file, (len(text), None, text.splitlines(True), file))
        monkeypatch.setattr(sys.modules["__main__"], "__file__", file, raising=False)
        exec(compile(text, file, "exec"), {"__name__": "__main__"})
        await lab.fire("Training.on_event")
        await lab.drain()
    (cause,) = lab.dead_letters(by="cause").to_dict("records")
    place = 'raise ValueError("no data")' if with_source else "its line 2"
    assert (cause["cause"], cause["count"]) == (f"ValueError in action 'train', in train: {place}", 2)


async def test_what_fails_before_the_users_code_is_of_its_trigger(lab: Lab) -> None:
    class Scores(Scored):
        @trigger(source="memory", decode="json")
        def on_raw(self, event):
            return {}

    for raw in (b"{", b"[", b"\xff"):
        await lab.fire("Scores.on_raw", raw)
    causes = lab.dead_letters(by="cause")
    assert list(causes["count"]) == [3]
    assert causes["cause"][0].endswith(" in Scores.on_raw")


async def test_the_letter_of_a_run_has_the_revision_that_failed(lab: Lab) -> None:
    def define(name: str) -> None:
        class Failing(Scored):
            @action(name, depends_on="keep")
            async def work(self, ctx):
                started.set()
                await gate.wait()
                raise Broken

    started, gate = asyncio.Event(), asyncio.Event()
    define("one")
    await lab.fire("Failing.on_score", {"score": 1})
    await started.wait()
    define("two")
    gate.set()
    await lab.drain()
    assert list(lab.dead_letters()["revision"]) == [1]


# --- a flood and a loop ---


def letter(trigger: str = "S.on_event", redriven: int = 0, event_id: str = "e") -> DeadLetter:
    return DeadLetter(
        id="d-000000000000", event=Event({}, event_id), trigger=trigger, saga="S", cause="c", error="Broken: x",
        traceback="", attempts=1, revision=1, at=0.0, redriven=redriven,
    )  # fmt: skip


class Heard:
    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.watch = DeadLetterWatch(lambda kind, _: self.kinds.append(kind))


def test_a_spike_is_reported_once_for_each_episode() -> None:
    heard = Heard()
    for n in range(20):
        heard.watch.note(letter(), n)
    assert heard.kinds == []
    for n in range(20, 500):
        heard.watch.note(letter(), n)
    assert heard.kinds == ["letters:spike:S.on_event"]
    for n in range(10):
        heard.watch.note(letter(), 1000 + 30 * n)
    for n in range(30):
        heard.watch.note(letter(), 2000 + n)
    assert heard.kinds == ["letters:spike:S.on_event"] * 2


def test_twenty_letters_a_minute_are_no_spike_and_triggers_count_by_themselves() -> None:
    heard = Heard()
    for n in range(1000):
        heard.watch.note(letter(f"S.t{n % 3}"), n * 1.05)
    assert heard.kinds == []


def test_an_event_that_died_three_times_is_a_loop_reported_once_for_each_episode() -> None:
    heard = Heard()
    for n in (0, 1):
        heard.watch.note(letter(redriven=n), 10 * n)
    assert heard.kinds == []
    for n in range(2, 50):
        heard.watch.note(letter(redriven=n), 10 * n)
    assert heard.kinds == ["letters:loop:S.on_event"]
    heard.watch.note(letter(redriven=2, event_id="f"), 5000)
    assert heard.kinds == ["letters:loop:S.on_event"] * 2


def test_the_watch_is_bounded() -> None:
    heard = Heard()
    for others in (0, 999, 1000):  # more of them, and its episode is forgotten
        for n in range(others):
            heard.watch.note(letter(f"S.t{n}"), n / 100)
        heard.watch.note(letter(redriven=2), 20)
    assert heard.kinds == ["letters:loop:S.on_event"] * 2


async def test_a_lab_reports_a_spike_and_a_loop(timed_lab: Lab) -> None:
    class Scores(Scored): ...

    kinds: list[str] = []
    timed_lab.on_report(lambda kind, _: kinds.append(kind) if kind.startswith("letters:") else None)
    ids = await died(timed_lab, *range(-21, 0))
    assert kinds == ["letters:spike:Scores.on_score"]
    for _ in range(2):
        await timed_lab.redrive(ids[-1:])
        ids = list(timed_lab.dead_letters()["id"])[::-1]
    assert kinds == ["letters:spike:Scores.on_score", "letters:loop:Scores.on_score"]


# --- letters as events ---


class Alarms(Saga, abstract=True):
    heard: list[Any]

    @trigger(source="dead_letters")
    def on_letter(self, event):
        type(self).heard.append(event.payload)
        raise Broken("the alarm is broken too")


async def test_a_trigger_hears_of_the_letters_to_come_and_never_of_its_own(timed_lab: Lab, clock: VirtualClock) -> None:
    class Scores(Scored):
        @action("work", depends_on="keep")
        async def work(self, ctx):
            if ctx["score"] == 7:
                raise Broken

    await died(timed_lab, -9)

    class All(Alarms):
        heard: list[Any] = []

    class Some(Alarms):
        heard: list[Any] = []

        @trigger(source="dead_letters", trigger="Others.on_score")
        def on_letter(self, event):
            self.heard.append(event.payload)

    class Others(Scored): ...

    await timed_lab.start()
    await died(timed_lab, -1)
    await timed_lab.fire("Scores.on_score", {"score": 7})
    await timed_lab.drain()
    await timed_lab.fire("Others.on_score", {"score": -5})
    await clock.advance(5)
    assert [(it["trigger"], it["error"]) for it in All.heard] == [
        ("Scores.on_score", "ValueError: score -1"), ("Scores.on_score", "Broken"),
        ("Others.on_score", "ValueError: score -5"),
    ]  # fmt: skip
    by_decision, by_run, _ = All.heard
    assert by_decision.keys() == {"id", "event_id", "trigger", "saga", "cause", "error", "traceback", "attempts",
                                  "revision", "run_id", "payload"}  # fmt: skip
    assert (by_decision["payload"], by_decision["run_id"]) == ({"score": -1}, None)
    assert by_run["run_id"] is not None
    assert [it["payload"] for it in Some.heard] == [{"score": -5}]
    assert list(timed_lab.dead_letters()["trigger"]).count("All.on_letter") == 3
    await clock.advance(100)
    assert len(All.heard) == 3
    (event_id, *_) = [o for o in timed_lab.outcomes()["event_id"] if o.startswith("letter/")]
    assert is_letter_id(event_id.removeprefix("letter/"))


async def test_letters_that_came_while_nobody_listened_are_heard_of_later(tmp_path: Path) -> None:
    heard: list[Any] = []

    def define() -> None:
        class Scores(Scored): ...

        class Alarm(Saga):
            @trigger(source="dead_letters", saga="Scores")
            def on_letter(self, event):
                heard.append(event["payload"]["score"])

    for listens, score in ((False, -1), (True, -2), (False, -3), (True, -4)):
        async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
            define()
            if listens:
                await lab.start()
            await lab.fire("Scores.on_score", {"score": score})
            if listens:
                await until(lambda score=score: score in heard)
    assert heard == [-2, -3, -4]


def test_the_options_of_the_source_are_checked_at_definition() -> None:
    with pytest.raises(DefinitionError, match="trigger='' must be a non-empty string"):

        class Wrong(Saga):
            @trigger(source="dead_letters", trigger="")
            def on_letter(self, event): ...

    with pytest.raises(UnknownName, match="did you mean 'saga'"):

        class Worse(Saga):
            @trigger(source="dead_letters", sagas="x")
            def on_letter(self, event): ...


@pytest.mark.parametrize("gates", [{}, {"debounce": Debounce(0.01, 0.02)}, {"batch": Batch(1, 60)}])
async def test_a_redriven_run_takes_its_key_again(each_lab: Lab, gates: dict[str, Any]) -> None:
    down = True

    class Orders(Saga):
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", idempotency_key="order", **gates)
        def on_order(self, event):
            return {}

        @action("take")
        async def take(self, ctx):
            if down:
                raise OSError("down")

    await each_lab.fire("Orders.on_order", {"order": 7}, id="e1")
    await until(lambda: len(each_lab.dead_letters()) == 1)
    down = False
    (again,) = await each_lab.redrive(list(each_lab.dead_letters()["id"]))
    await each_lab.drain()
    assert again.kind == "started"
    (other,) = await each_lab.fire("Orders.on_order", {"order": 7}, id="e2")
    assert other.kind == "duplicate"
    assert again.run_id in other.reason
