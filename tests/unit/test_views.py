"""What the Lab shows of one run, and of two revisions."""

import asyncio
import linecache

import pytest

from sagaz_lab import RunStatus, Saga, TriggerConfig, action, compensate, trigger
from sagaz_lab.errors import DefinitionError, RunError, UnknownName
from tests.unit.tools import until

ONCE = TriggerConfig(max_retries=0)


def steps(run):
    return [(step.kind, step.action, step.trial, step.status) for step in run.steps]


async def ended(lab, target, payload=None):
    (outcome,) = await lab.fire(target, payload or {})
    await lab.drain()
    return lab.run(outcome.run_id)


async def test_a_run_tells_of_each_trial_and_compensation_with_results_and_errors(each_lab):
    class Paying(Saga):
        @trigger(source="memory", topic="orders", config=ONCE)
        def on_order(self, event):
            return {"order": event["order"]}

        @action("reserve")
        async def reserve(self, ctx):
            return {"seat": 7}

        @compensate("reserve")
        async def release(self, ctx): ...

        @action("pay", depends_on="reserve", max_retries=1, retry_backoff_s=0)
        async def pay(self, ctx):
            raise ValueError(f"no money for {ctx['order']}")

    run = await ended(each_lab, "Paying.on_order", {"order": "o-1"})
    assert (run.saga, run.revision, run.trigger, run.status) == (
        "Paying", 1, "Paying.on_order", RunStatus.COMPENSATED)  # fmt: skip
    assert steps(run) == [
        ("action", "reserve", 1, "completed"),
        ("action", "pay", 1, "failed"),
        ("action", "pay", 2, "failed"),
        ("compensation", "reserve", 1, "completed"),
    ]
    assert run.event.payload == run.context == {"order": "o-1"}
    assert run.results == {"reserve": {"seat": 7}}
    assert run.error == run.steps[1].error == "ValueError: no money for o-1"
    assert 'raise ValueError(f"no money' in run.steps[1].traceback
    assert all(step.duration_s >= 0 for step in run.steps)
    assert not run.is_live
    assert repr(run).startswith(f"RunView({run.run_id}, Paying r1, compensated, 4 steps, ValueError")


async def test_a_live_run_can_be_looked_at_while_it_works(each_lab):
    go_on = asyncio.Event()

    class Slow(Saga):
        @trigger(source="memory", topic="slow")
        def on_event(self, event):
            return {}

        @action("wait")
        async def wait(self, ctx):
            ctx.progress(1, 2, "files")
            await go_on.wait()

    (outcome,) = await each_lab.fire("Slow.on_event", {})
    await until(lambda: each_lab.run(outcome.run_id).progress)
    run = each_lab.run(outcome.run_id)
    assert (run.is_live, run.ended_at, steps(run)) == (True, None, [("action", "wait", 1, "running")])
    assert run.progress == {"wait": "1 of 2 files"}
    assert run.steps[0].duration_s is None
    go_on.set()
    await each_lab.drain()
    assert each_lab.run(outcome.run_id).status == RunStatus.COMPLETED
    assert run.is_live, "a view stays as it was"


async def test_the_attempts_of_a_run_are_told_apart(each_lab):
    class Twice(Saga):
        @trigger(source="memory", topic="twice", config=TriggerConfig(max_retries=1, retry_backoff_seconds=(0,)))
        def on_event(self, event):
            return {}

        @action("first")
        async def first(self, ctx):
            return {"n": 1}

        @action("fail", depends_on="first")
        async def fail(self, ctx):
            raise OSError("down")

    (outcome,) = await each_lab.fire("Twice.on_event", {})
    await until(lambda: len(each_lab.dead_letters()))
    run = each_lab.run(outcome.run_id)
    assert [(step.attempt, step.action) for step in run.steps] == [(1, "first"), (1, "fail"), (2, "first"), (2, "fail")]
    assert (run.attempt, run.results) == (2, {"first": {"n": 1}})


async def test_a_run_without_a_trigger_and_a_held_one_are_shown_too(each_lab):
    class Holds(Saga):
        on_failure = "hold"

        @action("fail")
        async def fail(self, ctx):
            raise OSError("down")

    with pytest.raises(OSError, match="down"):
        await Holds().run({"n": 1}, run_id="by-hand")
    run = each_lab.run("by-hand")
    assert (run.status, run.trigger, run.event, run.context) == (RunStatus.HELD, None, None, {"n": 1})


async def test_a_run_that_is_not_there_is_an_error_that_says_where_to_look(each_lab):
    with pytest.raises(RunError, match=r"no run 'nope' is kept; lab.runs\(\)"):
        each_lab.run("nope")


async def test_so_is_one_that_is_misspelled_and_what_is_no_event_at_all(each_lab):
    class Plain(Saga):
        @action("act")
        async def act(self, ctx): ...

    await Plain().run({}, run_id="import-2024")
    for asked in (each_lab.run, each_lab.context):
        with pytest.raises(RunError, match=r"no run 'imprt-2024' is kept; did you mean 'import-2024'\?"):
            asked("imprt-2024")
    with pytest.raises(RunError, match=r"no run 'imprt-2024' is kept; did you mean 'import-2024'\?"):
        await each_lab.resume_run("imprt-2024")
    for odd in ("", None, 3):
        with pytest.raises(DefinitionError, match=r"why: event_id=.* must be a non-empty string"):
            each_lab.why(odd)


# --- two revisions ---


def define(limit):
    """As a cell that is run again: with a source that can be read."""
    file = f"<ipython-input-limited-{limit}>"
    source = (
        f"class Limited(Saga):\n    saga_name = 'limited'\n"
        f"    @action()\n    async def work(self, ctx):\n        return {limit}\n"
    )
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), {"Saga": Saga, "action": action, "__name__": "__main__"})


async def test_the_difference_of_two_revisions_is_a_unified_diff(each_lab):
    for limit in (1, 2, 3):
        define(limit)
    revisions = list(each_lab.revisions("limited")["number"])
    assert revisions == [3, 2, 1]
    diff = each_lab.diff("limited", 1, 3)
    assert list(diff.lines[:2]) == ["--- revision 1", "+++ revision 3"]
    assert list(diff.lines[-2:]) == ["-        return 1", "+        return 3"]
    assert repr(diff) == "Diff(limited r1 -> r3: 1 added, 1 removed)"
    assert str(diff).splitlines() == list(diff.lines)
    assert (diff.saga, diff.old, diff.new) == ("limited", 1, 3)
    assert each_lab.diff("limited", 2, 2).lines == ()


async def test_an_unknown_number_or_name_is_told_with_those_that_exist(each_lab):
    define(1)
    with pytest.raises(UnknownName, match=r"diff of limited: no revision '7' \(known: 1\)"):
        each_lab.diff("limited", 1, 7)
    with pytest.raises(UnknownName, match=r"diff: no saga 'limitd'; did you mean 'limited'"):
        each_lab.diff("limitd", 1, 2)
