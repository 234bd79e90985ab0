"""How a run goes through its actions, and back when one fails."""

import asyncio
import pickle
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from sagaz_lab import (
    Event,
    Lab,
    OutcomeKind,
    Permanent,
    RunStatus,
    Saga,
    SagaContext,
    SagaListener,
    TriggerConfig,
    action,
    compensate,
    forward_recovery,
    trigger,
)
from sagaz_lab.abc import StoreTraits
from sagaz_lab.errors import ActionTimeout, CompensationFailed, RunError, UnknownName
from sagaz_lab.stores.memory.store import MemoryStore
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import statuses, until


class Broken(Exception):
    """An action's own error."""


async def passing(clock: VirtualClock, work: Coroutine[Any, Any, Any]) -> Any:
    """The work's result; time passes as long as it takes."""
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.sleep(0.001)
        await clock.advance(0.5)
    return task.result()


async def fails(saga: Saga, error: type[BaseException] = Broken, **context: Any) -> BaseException:
    with pytest.raises(error) as raised:
        await saga.run(context)
    return raised.value


# --- forward ---


async def test_actions_run_in_the_order_of_their_dependencies(each_lab: Lab) -> None:
    done = []

    class Ordered(Saga):
        @action("report", depends_on=["train", "test"])
        async def report(self, ctx):
            done.append("report")

        @action("test", depends_on="split")
        def test(self, ctx):
            done.append("test")

        @action("train", depends_on="split")
        async def train(self, ctx):
            done.append("train")

        @action("split")
        def split(self, ctx):
            done.append("split")

    await Ordered().run({})
    assert done[0] == "split"
    assert sorted(done[1:3]) == ["test", "train"]
    assert done[3:] == ["report"]
    assert statuses(each_lab) == ["completed"]


async def test_independent_actions_run_at_the_same_time(lab: Lab) -> None:
    meet = asyncio.Barrier(2)
    threads = threading.Barrier(2, timeout=5)

    class Parallel(Saga):
        @action()
        async def left(self, ctx):
            await meet.wait()

        @action()
        async def right(self, ctx):
            await meet.wait()

        @action()
        def upper(self, ctx):
            threads.wait()

        @action()
        def lower(self, ctx):
            threads.wait()

    async with asyncio.timeout(5):
        await Parallel().run({})
    assert statuses(lab) == ["completed"]


async def test_results_are_merged_or_stored_under_the_actions_name(each_lab: Lab) -> None:
    class Results(Saga):
        @action("mapping")
        async def mapping(self, ctx):
            return {"rows": 3, "model": "m"}

        @action("value", depends_on="mapping")
        def value(self, ctx):
            ctx["seen"] = ctx["rows"]
            ctx.set("also", ctx.has("model"))
            return 0

        @action("nothing", depends_on="value")
        async def nothing(self, ctx):
            return None

    ctx = await Results().run({"rows": 1, "given": True})
    assert ctx == {"given": True, "rows": 3, "model": "m", "seen": 3, "also": True, "value": 0}
    assert isinstance(ctx, SagaContext)
    assert list(each_lab.runs()["run_id"]) == [ctx.run_id]


async def test_a_saga_without_actions_completes(each_lab: Lab) -> None:
    class Nothing(Saga): ...

    assert await Nothing().run({"a": 1}, run_id="mine") == {"a": 1}
    assert statuses(each_lab) == ["completed"]
    with pytest.raises(RunError, match="there is a run 'mine' already"):
        await Nothing().run({}, run_id="mine")


async def test_a_plain_action_does_not_hold_the_loop(lab: Lab) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    class Slow(Saga):
        @action()
        def wait(self, ctx):
            begun.set()
            assert goes_on.wait(20), "only the loop can set it"

    run = asyncio.create_task(Slow().run({}))
    await until(begun.is_set)
    goes_on.set()
    await run


async def test_two_runs_of_one_instance_do_not_meet(lab: Lab) -> None:
    both = asyncio.Barrier(2)

    class Shared(Saga):
        @action()
        async def first(self, ctx):
            await both.wait()
            return {"doubled": ctx["n"] * 2}

        @action(depends_on="first")
        def second(self, ctx):
            return ctx["doubled"] + 1

    saga = Shared()
    one, two = await asyncio.gather(saga.run({"n": 1}), saga.run({"n": 10}))
    assert (one["second"], two["second"]) == (3, 21)
    assert one.run_id != two.run_id
    assert vars(saga) == {}


async def test_progress_and_log_are_shown_while_an_action_runs(lab: Lab) -> None:
    go_on = asyncio.Event()

    class Long(Saga):
        @action("train")
        async def train(self, ctx):
            ctx.progress(3, 10, "epochs")
            ctx.log("loss", 0.25)
            await go_on.wait()

    run = asyncio.create_task(Long().run({}, run_id="r"))
    await until(lambda: lab.status().runs and lab.status().runs[0].actions.get("train") == "3 of 10 epochs")
    assert list(lab.context("r").log_lines or ()) == [("train", "loss 0.25")]
    go_on.set()
    await run
    assert lab.status().runs_in_flight == 0


async def test_what_only_an_action_may_ask_is_refused_elsewhere(lab: Lab) -> None:
    class Empty(Saga): ...

    ctx = await Empty().run({})
    with pytest.raises(RunError, match="only a running action or compensation"):
        _ = ctx.idempotency_key
    assert ctx.cancelled is False


# --- retries ---


async def test_a_failed_action_is_tried_again_after_its_backoff(timed_lab: Lab, clock: VirtualClock) -> None:
    tried = []

    class Flaky(Saga):
        @action("call", max_retries=3, retry_backoff_s=[1, 5])
        async def call(self, ctx):
            tried.append(clock.monotonic())
            if len(tried) < 4:
                raise Broken
            return "answer"

    ctx = await passing(clock, Flaky().run({}))
    assert tried == [0, 1, 6, 11]
    assert ctx["call"] == "answer"
    assert list(timed_lab.steps()["status"]) == ["completed", "failed", "failed", "failed"]


async def test_retries_end_and_the_last_error_is_raised(each_lab: Lab) -> None:
    errors = [Broken("first"), Broken("second")]
    left = list(errors)

    class Hopeless(Saga):
        @action("call", max_retries=1, retry_backoff_s=0)
        def call(self, ctx):
            raise left.pop(0)

    assert await fails(Hopeless()) is errors[1]
    assert list(each_lab.steps()["error"]) == ["Broken: second", "Broken: first"]


async def test_a_permanent_error_is_not_retried(lab: Lab) -> None:
    tried = []

    class NotFound(Permanent): ...

    class Hopeless(Saga):
        @action(max_retries=5)
        async def call(self, ctx):
            tried.append(1)
            raise NotFound("no such model")

    await fails(Hopeless(), NotFound)
    assert tried == [1]


async def test_the_idempotency_key_is_one_for_all_trials_and_another_for_each_attempt(each_lab: Lab) -> None:
    keys: list[tuple[str, str]] = []

    class Paying(Saga):
        trigger_config = TriggerConfig(max_retries=1, retry_backoff_seconds=[0])

        @trigger(source="memory")
        def on_order(self, event):
            return {}

        @action("pay", max_retries=1, retry_backoff_s=0)
        def pay(self, ctx):
            keys.append(("pay", ctx.idempotency_key))
            if len(keys) < 5:
                raise Broken

        @action("book", depends_on="pay")
        def book(self, ctx):
            keys.append(("book", ctx.idempotency_key))

    (outcome,) = await each_lab.fire("Paying.on_order")
    await until(lambda: statuses(each_lab) == ["compensated"] or len(each_lab.dead_letters()))
    pay = [key for name, key in keys if name == "pay"]
    assert pay[0] == pay[1]
    assert pay[2] == pay[3]
    assert len(set(pay)) == 2
    assert all(key.startswith(str(outcome.run_id)) for key in pay)


# --- time-outs ---


async def test_a_coroutine_that_takes_too_long_is_stopped_and_compensated(each_lab: Lab) -> None:
    done = []

    class Slow(Saga):
        @action("call", timeout_s=0.02)
        async def call(self, ctx):
            await asyncio.sleep(60)

        @compensate("call")
        async def undo(self, ctx, result):
            done.append(("undone", result))

    error = await fails(Slow(), ActionTimeout)
    assert str(error) == "action 'call' took longer than 0.02 s"
    assert done == [("undone", None)]
    steps = each_lab.steps()
    assert list(zip(steps["kind"], steps["status"], strict=True)) == [
        ("compensation", "completed"),
        ("action", "cut_off"),
    ]


async def test_a_time_out_is_one_whatever_the_action_makes_of_it(lab: Lab) -> None:
    undone = []

    class Stubborn(Saga):
        @action("raises", timeout_s=0.02)
        async def raises(self, ctx):
            try:
                await asyncio.sleep(60)
            finally:
                raise Broken("while it was cleaning up")

        @compensate("raises")
        async def undo(self, ctx):
            undone.append("raises")

    class Deaf(Saga):
        @action("returns", timeout_s=0.02)
        async def returns(self, ctx):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "as if nothing was"

        @compensate("returns")
        async def undo(self, ctx):
            undone.append("returns")

    await fails(Stubborn(), ActionTimeout)
    await fails(Deaf(), ActionTimeout)
    assert undone == ["raises", "returns"]


async def test_a_thread_that_takes_too_long_is_told_and_waited_for(each_lab: Lab) -> None:
    happened = []
    told = threading.Event()

    class Slow(Saga):
        @action("train", timeout_s=0.03)
        def train(self, ctx):
            while not ctx.cancelled:
                time.sleep(0.002)
            told.set()
            time.sleep(0.05)
            happened.append("returned")

        @compensate("train")
        def discard(self, ctx):
            happened.append("compensated")

    run = asyncio.create_task(fails(Slow(), ActionTimeout))
    await until(told.is_set)
    await until(lambda: each_lab.status().runs)
    assert "a thread cannot be killed" in each_lab.status().runs[0].actions["train"]
    await run
    assert happened == ["returned", "compensated"]


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
async def test_an_action_that_timed_out_is_tried_again(lab: Lab, kind: str) -> None:
    tried = []

    class Slow(Saga):
        if kind == "thread":

            @action("call", timeout_s=0.3, max_retries=1, retry_backoff_s=0)
            def call(self, ctx):
                tried.append(ctx.cancelled)
                while len(tried) == 1 and not ctx.cancelled:
                    time.sleep(0.002)
                return "answer"

        else:

            @action("call", timeout_s=0.3, max_retries=1, retry_backoff_s=0)
            async def call(self, ctx):
                tried.append(ctx.cancelled)
                if len(tried) == 1:
                    await asyncio.sleep(60)
                return "answer"

    assert (await Slow().run({}))["call"] == "answer"
    assert tried == [False, False]


async def test_a_thread_is_waited_for_also_if_another_action_fails_while_it_is_stopping(lab: Lab) -> None:
    happened = []
    stopping, failed = threading.Event(), threading.Event()

    class Both(Saga):
        @action("slow", timeout_s=0.02)
        def slow(self, ctx):
            while not ctx.cancelled:
                time.sleep(0.001)
            stopping.set()
            failed.wait(5)
            time.sleep(0.03)
            happened.append("returned")

        @compensate("slow")
        def undo(self, ctx):
            happened.append("compensated")

        @action("other")
        async def other(self, ctx):
            await until(stopping.is_set)
            failed.set()
            raise Broken

    await fails(Both())
    assert happened == ["returned", "compensated"]


# --- compensation ---


async def test_compensations_run_in_reverse_also_across_actions_without_one(each_lab: Lab) -> None:
    undone: list[str] = []

    class Chain(Saga):
        @action("a")
        async def a(self, ctx): ...

        @compensate("a")
        def undo_a(self, ctx):
            undone.append("a")

        @action("b", depends_on="a")
        async def b(self, ctx): ...

        @action("c", depends_on="b")
        def c(self, ctx): ...

        @compensate("c")
        async def undo_c(self, ctx):
            await asyncio.sleep(0.01)
            undone.append("c")

        @action("d", depends_on="c")
        async def d(self, ctx):
            raise Broken

        @compensate("d")
        async def undo_d(self, ctx):
            undone.append("d")

    await fails(Chain())
    assert undone == ["c", "a"]
    assert statuses(each_lab) == ["compensated"]


async def test_what_was_done_side_by_side_is_undone_before_what_it_rests_on(lab: Lab) -> None:
    undone: list[str] = []

    def undoing(name):
        def undo(self, ctx):
            undone.append(name)

        return compensate(name)(undo)

    class Diamond(Saga):
        @action("root")
        async def root(self, ctx): ...

        @action("left", depends_on="root")
        async def left(self, ctx): ...

        @action("right", depends_on="root")
        def right(self, ctx): ...

        @action("end", depends_on=["left", "right"])
        async def end(self, ctx):
            raise Broken

        undo_root, undo_left, undo_right = undoing("root"), undoing("left"), undoing("right")

    await fails(Diamond())
    assert sorted(undone[:2]) == ["left", "right"]
    assert undone[2:] == ["root"]


async def test_a_compensation_gets_the_actions_result(each_lab: Lab) -> None:
    got = []

    class Booking(Saga):
        @action("book")
        async def book(self, ctx):
            return {"booking": 7}

        @compensate("book")
        def cancel(self, ctx, result):
            got.append((result, ctx["booking"], ctx.idempotency_key))

        @action("pay", depends_on="book")
        async def pay(self, ctx):
            raise Broken

    with pytest.raises(Broken):
        await Booking().run({}, run_id="r")
    assert got == [({"booking": 7}, 7, "r/1/book/compensation")]


async def test_an_action_that_was_cut_off_is_compensated_and_one_that_failed_is_not(each_lab: Lab) -> None:
    undone = []

    class Both(Saga):
        @action("slow")
        async def slow(self, ctx):
            await asyncio.sleep(60)

        @compensate("slow")
        def undo_slow(self, ctx, result):
            undone.append(("slow", result))

        @action("fails")
        async def fails(self, ctx):
            raise Broken

        @compensate("fails")
        def undo_fails(self, ctx):
            undone.append(("fails", None))

    await fails(Both())
    assert undone == [("slow", None)]


async def test_an_action_that_answers_its_cut_off_with_an_error_is_compensated(lab: Lab) -> None:
    undone = []

    class Both(Saga):
        @action("slow")
        async def slow(self, ctx):
            try:
                await asyncio.sleep(60)
            finally:
                raise ValueError("connection torn down")

        @compensate("slow")
        def undo(self, ctx):
            undone.append("slow")

        @action("fails")
        async def fails(self, ctx):
            raise Broken

    await fails(Both())
    assert undone == ["slow"]


async def test_an_action_that_swallows_its_cut_off_is_compensated_with_its_result(lab: Lab) -> None:
    undone = []

    class Both(Saga):
        @action("deaf")
        async def deaf(self, ctx):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "done all the same"

        @compensate("deaf")
        def undo(self, ctx, result):
            undone.append(result)

        @action("after", depends_on="deaf")
        async def after(self, ctx):
            undone.append("started after the failure")

        @action("fails")
        async def fails(self, ctx):
            raise Broken

    await fails(Both())
    assert undone == ["done all the same"]


async def test_no_action_starts_once_compensation_began(lab: Lab) -> None:
    happened = []

    class Racing(Saga):
        @action("quick")
        async def quick(self, ctx):
            happened.append("quick")

        @compensate("quick")
        async def undo(self, ctx):
            happened.append("undo quick")
            await asyncio.sleep(0.03)

        @action("thread")
        def thread(self, ctx):
            time.sleep(0.03)
            happened.append("thread")

        @action("after", depends_on="thread")
        async def after(self, ctx):
            happened.append("after")

        @action("fails", depends_on="quick")
        async def fails(self, ctx):
            raise Broken

    await fails(Racing())
    assert happened == ["quick", "thread", "undo quick"]


async def test_a_compensation_is_tried_again(timed_lab: Lab, clock: VirtualClock) -> None:
    tried = []

    class Undoing(Saga):
        @action("a")
        async def a(self, ctx): ...

        @compensate("a", max_retries=3)
        async def undo(self, ctx):
            tried.append(ctx.idempotency_key)
            if len(tried) < 3:
                raise ConnectionError

        @action("b", depends_on="a")
        async def b(self, ctx):
            raise Broken

    await passing(clock, fails(Undoing()))
    assert len(tried) == 3
    assert len(set(tried)) == 1
    assert statuses(timed_lab) == ["compensated"]


async def test_a_compensation_that_fails_for_good_leaves_the_others_to_run(each_lab: Lab) -> None:
    undone = []

    class Undoing(Saga):
        @action("a")
        async def a(self, ctx): ...

        @compensate("a")
        async def undo_a(self, ctx):
            undone.append("a")

        @action("b", depends_on="a")
        async def b(self, ctx): ...

        @compensate("b", max_retries=0)
        async def undo_b(self, ctx):
            raise ConnectionError("gone")

        @compensate("c", max_retries=0, timeout_s=0.02)
        async def undo_c(self, ctx):
            await asyncio.sleep(60)

        @action("c", depends_on="b")
        async def c(self, ctx): ...

        @action("d", depends_on="c")
        async def d(self, ctx):
            raise Broken("why it all began")

    error = await fails(Undoing(), CompensationFailed)
    assert "c: ActionTimeout" in str(error)
    assert "b: ConnectionError: gone" in str(error)
    assert isinstance(error.__cause__, Broken)
    assert undone == ["a"]
    assert statuses(each_lab) == ["compensation_failed"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
@pytest.mark.parametrize("how", ["coroutine", "thread"])
async def test_whatever_a_compensation_raises_is_its_failure(lab: Lab, how: str, error: BaseException) -> None:
    class Undoing(Saga):
        @action("a")
        async def a(self, ctx): ...

        if how == "thread":

            @compensate("a", max_retries=0)
            def undo(self, ctx):
                raise error

        else:

            @compensate("a", max_retries=0)
            async def undo(self, ctx):
                raise error

        @action("b", depends_on="a")
        async def b(self, ctx):
            raise Broken

    raised = await fails(Undoing(), CompensationFailed)
    assert type(error).__name__ in str(raised)
    assert statuses(lab) == ["compensation_failed"]


# --- pivot and forward recovery ---


def recovering(answer: Any, log: list[str]) -> type[Saga]:
    class Shipping(Saga):
        @action("reserve")
        async def reserve(self, ctx): ...

        @compensate("reserve")
        async def release(self, ctx):
            log.append("released")

        @action("pay", depends_on="reserve", pivot=True)
        async def pay(self, ctx):
            if ctx.get("broke"):
                raise Broken("no money")

        @action("ship", depends_on="pay")
        async def ship(self, ctx):
            log.append("shipping")
            if log.count("shipping") < 3:
                raise Broken("no lorry")

        @forward_recovery("ship")
        def what_now(self, ctx, error):
            log.append(str(error))
            return answer

        @action("thank", depends_on="ship")
        async def thank(self, ctx):
            log.append("thanked")

    return Shipping


async def test_forward_recovery_retries_until_it_works(each_lab: Lab) -> None:
    log: list[str] = []
    await recovering("retry", log)().run({})
    assert log == ["shipping", "no lorry", "shipping", "no lorry", "shipping", "thanked"]
    assert statuses(each_lab) == ["completed"]


async def test_forward_recovery_skips_the_action(each_lab: Lab) -> None:
    log: list[str] = []
    ctx = await recovering("skip", log)().run({})
    assert log == ["shipping", "no lorry", "thanked"]
    assert "ship" not in ctx
    assert statuses(each_lab) == ["completed"]


async def test_without_recovery_what_follows_the_pivot_is_left_as_it_is(each_lab: Lab) -> None:
    log: list[str] = []
    assert str(await fails(recovering(None, log)())) == "no lorry"
    assert log == ["shipping", "no lorry"]
    assert statuses(each_lab) == ["partially_committed"]


async def test_a_failing_pivot_is_undone_like_any_action(each_lab: Lab) -> None:
    log: list[str] = []
    await fails(recovering("retry", log)(), broke=True)
    assert log == ["released"]
    assert statuses(each_lab) == ["compensated"]


@pytest.mark.parametrize("answer", ["again", True, 5])
async def test_a_recovery_that_answers_nonsense_is_told_so(lab: Lab, answer: Any) -> None:
    error = await fails(recovering(answer, [])(), RunError)
    assert f"forward recovery of 'ship' returned {answer!r}" in str(error)
    assert isinstance(error.__cause__, Broken)
    assert statuses(lab) == ["partially_committed"]


async def test_after_the_pivot_what_still_runs_may_finish(lab: Lab) -> None:
    done = []

    class Committed(Saga):
        @action("pay", pivot=True)
        async def pay(self, ctx): ...

        @action("slow", depends_on="pay")
        async def slow(self, ctx):
            await asyncio.sleep(0.02)
            done.append("slow")

        @action("fails", depends_on="pay")
        async def fails(self, ctx):
            raise Broken

        @action("after", depends_on="slow")
        async def after(self, ctx):
            done.append("after")

    await fails(Committed())
    assert done == ["slow"]


async def test_a_partially_committed_run_can_be_compensated_by_hand(each_lab: Lab) -> None:
    log: list[str] = []
    shipping = recovering(None, log)
    with pytest.raises(Broken):
        await shipping().run({}, run_id="r")
    assert await each_lab.compensate_run("r") is RunStatus.CANCELLED
    assert log[-1] == "released"


# --- held runs ---


def holding(fixed: bool, log: list[str]) -> type[Saga]:
    class Held(Saga):
        on_failure = "hold"

        @action("load")
        async def load(self, ctx):
            log.append("load")
            return {"rows": ctx["n"] * 100}

        @compensate("load")
        def unload(self, ctx, result):
            log.append(f"unload {result}")

        @action("train", depends_on="load")
        def train(self, ctx):
            log.append(f"train on {ctx['rows']}")
            if not fixed:
                raise Broken("bad hyper-parameters")
            return "model"

        @action("publish", depends_on="train")
        async def publish(self, ctx):
            log.append(f"publish {ctx['train']}")

    return Held


async def test_a_held_run_is_resumed_from_its_failed_action_with_the_new_code(each_lab: Lab) -> None:
    log: list[str] = []
    with pytest.raises(Broken):
        await holding(False, log)().run({"n": 3}, run_id="r")
    assert statuses(each_lab) == ["held"]
    holding(True, log)
    assert await each_lab.resume_run("r") is RunStatus.COMPLETED
    assert log == ["load", "train on 300", "train on 300", "publish model"]
    (run,) = each_lab.runs().to_dict("records")
    assert (run["status"], run["revision"], run["error"]) == ("completed", 2, None)
    steps = each_lab.steps()
    assert [*zip(steps["action"], steps["trial"], steps["status"], strict=True)][::-1] == [
        ("load", 1, "completed"),
        ("train", 1, "failed"),
        ("train", 2, "completed"),
        ("publish", 1, "completed"),
    ]


async def test_a_held_run_that_fails_again_is_held_again(each_lab: Lab) -> None:
    log: list[str] = []
    with pytest.raises(Broken):
        await holding(False, log)().run({"n": 3}, run_id="r")
    assert await each_lab.resume_run("r") is RunStatus.HELD
    assert await each_lab.resume_run("r") is RunStatus.HELD
    assert log == ["load", "train on 300", "train on 300", "train on 300"]


async def test_a_held_run_can_be_resumed_from_an_earlier_action(each_lab: Lab) -> None:
    log: list[str] = []
    with pytest.raises(Broken):
        await holding(False, log)().run({"n": 3}, run_id="r")
    holding(True, log)
    assert await each_lab.resume_run("r", from_action="load") is RunStatus.COMPLETED
    assert log == ["load", "train on 300", "load", "train on 300", "publish model"]


async def test_resuming_from_no_action_is_refused_and_changes_nothing(each_lab: Lab) -> None:
    with pytest.raises(Broken):
        await holding(False, [])().run({"n": 3}, run_id="r")
    with pytest.raises(UnknownName, match="no action 'laod'; did you mean 'load'"):
        await each_lab.resume_run("r", from_action="laod")
    assert statuses(each_lab) == ["held"]


async def test_a_held_run_can_be_compensated(each_lab: Lab) -> None:
    log: list[str] = []
    with pytest.raises(Broken):
        await holding(False, log)().run({"n": 3}, run_id="r")
    assert await each_lab.compensate_run("r") is RunStatus.CANCELLED
    assert log == ["load", "train on 300", "unload {'rows': 300}"]
    with pytest.raises(RunError, match="run r is cancelled; only a run that is held can be resumed"):
        await each_lab.resume_run("r")


async def test_a_run_that_is_none_cannot_be_resumed(each_lab: Lab) -> None:
    with pytest.raises(RunError, match="no run 'r'"):
        await each_lab.resume_run("r")


# --- cancelling ---


class StuckStore(MemoryStore):
    """Its first write takes a minute, as on a disk that hangs."""

    traits = StoreTraits(survives=False, any_thread=False)  # so what it is given is awaited

    def __init__(self) -> None:
        super().__init__()
        self.writing = asyncio.Event()

    async def append(self, records: Any) -> None:
        if not self.writing.is_set():
            self.writing.set()
            await asyncio.sleep(60)
        await super().append(records)


def two_steps(log: list[str]) -> type[Saga]:
    class TwoSteps(Saga):
        @action("one")
        async def one(self, ctx):
            log.append("one")

        @compensate("one")
        async def undo_one(self, ctx):
            log.append("undo one")

        @action("two", depends_on="one")
        async def two(self, ctx):
            log.append("two")
            await asyncio.sleep(60)

        @compensate("two")
        async def undo_two(self, ctx):
            log.append("undo two")

    return TwoSteps


async def test_cancelling_the_await_of_a_run_compensates_it(each_lab: Lab) -> None:
    log: list[str] = []
    run = asyncio.create_task(two_steps(log)().run({}))
    await until(lambda: "two" in log)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert log == ["one", "two", "undo two", "undo one"]
    assert statuses(each_lab) == ["cancelled"]


async def test_a_run_can_be_cancelled_at_any_moment(lab: Lab) -> None:
    for turns in range(12):
        log: list[str] = []
        run = asyncio.create_task(two_steps(log)().run({}))
        for _ in range(turns):
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert log in ([], ["one", "undo one"], ["one", "two", "undo two", "undo one"]), turns
    assert set(statuses(lab)) <= {"cancelled"}
    assert lab.status().runs_in_flight == 0


async def test_a_run_that_is_cancelled_while_the_store_writes_is_compensated() -> None:
    log: list[str] = []
    store = StuckStore()
    async with Lab(store) as lab:
        run = asyncio.create_task(two_steps(log)().run({}))
        await store.writing.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert log == ["one", "undo one"]
        assert statuses(lab) == ["cancelled"]


async def test_a_run_that_its_own_action_has_cancelled_is_compensated_in_one_go(lab: Lab) -> None:
    log: list[str] = []

    class Replaced(Saga):
        @trigger(source="memory", topic="replaced", concurrency_key="key", singleton="cancel")
        def on_event(self, event):
            return {"n": event["n"]}

        @action("one")
        async def one(self, ctx): ...

        @compensate("one")
        async def undo(self, ctx):
            log.append("begins")
            await asyncio.sleep(0)
            log.append("undone")

        @action("two", depends_on="one")
        async def two(self, ctx):
            if ctx["n"] == 0:
                await lab.fire("Replaced.on_event", {"key": "a", "n": 1}, wait=False)

    await lab.fire("Replaced.on_event", {"key": "a", "n": 0})
    await lab.drain()
    assert log == ["begins", "undone"]
    assert statuses(lab) == ["cancelled", "completed"]


def test_a_context_can_be_pickled() -> None:
    ctx = SagaContext({"a": 1}, run_id="r1", event=Event({"b": 2}, "e1"))
    ctx["c"] = 3
    again = pickle.loads(pickle.dumps(ctx))
    assert (type(again), again, again.run_id, again.event.id) == (SagaContext, {"a": 1, "c": 3}, "r1", "e1")


async def test_an_action_that_swallows_the_cancelling_of_its_run_is_the_last_one(lab: Lab) -> None:
    log: list[str] = []

    class Deaf(Saga):
        @action("one")
        async def one(self, ctx):
            log.append("one")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                assert ctx.cancelled

        @compensate("one")
        async def undo(self, ctx):
            log.append("undo one")

        @action("two", depends_on="one")
        async def two(self, ctx):
            log.append("two")

    run = asyncio.create_task(Deaf().run({}))
    await until(lambda: log)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert log == ["one", "undo one"]
    assert statuses(lab) == ["cancelled"]


async def test_cancelling_waits_for_the_thread(lab: Lab) -> None:
    log: list[str] = []

    class Training(Saga):
        @action("train")
        def train(self, ctx):
            log.append("train")
            while not ctx.cancelled:
                time.sleep(0.002)
            log.append("stopped")

        @compensate("train")
        def discard(self, ctx):
            log.append("discarded")

    run = asyncio.create_task(Training().run({}, run_id="r"))
    await until(lambda: log)
    assert await lab.compensate_run("r") is RunStatus.CANCELLED
    with pytest.raises((RunError, asyncio.CancelledError)):
        await run
    assert log == ["train", "stopped", "discarded"]


async def test_cancelling_a_run_that_is_being_undone_lets_it_be_undone(lab: Lab) -> None:
    log: list[str] = []

    class Undoing(Saga):
        @action("a")
        async def a(self, ctx): ...

        @compensate("a", max_retries=0)
        async def undo(self, ctx):
            log.append("undoing")
            await asyncio.sleep(0.03)
            log.append("undone")

        @action("b", depends_on="a")
        async def b(self, ctx):
            raise Broken

    run = asyncio.create_task(Undoing().run({}))
    await until(lambda: log)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert log == ["undoing", "undone"]
    assert statuses(lab)[0] in ("compensated", "cancelled")


async def test_a_run_that_was_just_started_can_be_cancelled(lab: Lab) -> None:
    class Quick(Saga):
        @trigger(source="memory")
        def on_event(self, event):
            return {}

        @action()
        async def a(self, ctx): ...

    (outcome,) = await lab.fire("Quick.on_event")
    await lab.compensate_run(str(outcome.run_id))
    async with asyncio.timeout(5):
        await lab.drain()
    assert statuses(lab) == ["cancelled"]


# --- odd errors ---


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("I will not say")


class Nothing(Exception):
    """An error that is false."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize("how", ["coroutine", "thread", "parallel"])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), Unspeakable(), Nothing(), BaseException("base")])
async def test_whatever_an_action_raises_ends_its_run_only(lab: Lab, how: str, error: BaseException) -> None:
    undone = []

    class Raising(Saga):
        @action("a")
        async def a(self, ctx): ...

        @compensate("a")
        async def undo(self, ctx):
            undone.append("a")

        if how == "thread":

            @action("b", depends_on="a")
            def b(self, ctx):
                raise error

        else:

            @action("b", depends_on="a")
            async def b(self, ctx):
                raise error

        if how == "parallel":

            @action("c", depends_on="a")
            async def c(self, ctx):
                await asyncio.sleep(60)

    assert await fails(Raising(), BaseException) is error
    assert undone == ["a"]
    assert statuses(lab) == ["compensated"]
    assert lab.runs()["error"][0].startswith(type(error).__name__)


@pytest.mark.parametrize("error", [StopIteration(5), StopAsyncIteration(), GeneratorExit()])
async def test_an_end_of_iteration_is_an_error_like_any(lab: Lab, error: BaseException) -> None:
    class Threaded(Saga):
        @action()
        def a(self, ctx):
            raise error

    class Awaited(Saga):
        @action()
        async def a(self, ctx):
            raise error

    for saga in (Threaded(), Awaited()):
        raised = await fails(saga, BaseException)
        assert type(error).__name__ in repr(raised)
    assert statuses(lab) == ["compensated", "compensated"]


async def test_an_action_that_raises_cancelled_by_itself_has_failed(lab: Lab) -> None:
    class Odd(Saga):
        @action("a")
        async def a(self, ctx):
            raise asyncio.CancelledError

    error = await fails(Odd(), RunError)
    assert str(error) == "action 'a' raised CancelledError by itself"
    assert statuses(lab) == ["compensated"]


async def test_a_result_that_cannot_be_stored_fails_its_action(each_lab: Lab) -> None:
    if not each_lab.store.traits.survives:
        return
    undone = []

    class Unstorable(Saga):
        @action("lock")
        async def lock(self, ctx):
            return threading.Lock()

        @compensate("lock")
        async def unlock(self, ctx):
            undone.append("lock")

        @action("after", depends_on="lock")
        async def after(self, ctx):
            undone.append("after")

    error = await fails(Unstorable(), RunError)
    assert "'lock' is a _thread.lock, which cannot be stored" in str(error)
    assert undone == ["lock"]


# --- listeners ---


async def test_listeners_hear_of_every_step(lab: Lab) -> None:
    heard = []

    class Everything(SagaListener):
        def on_saga_start(self, saga_name, run_id, ctx):
            heard.append(f"start {saga_name}")

        async def on_step_enter(self, saga_name, step_name, ctx):
            heard.append(f"enter {step_name}")

        def on_step_success(self, saga_name, step_name, ctx, result):
            heard.append(f"success {step_name} {result}")

        async def on_step_failure(self, saga_name, step_name, ctx, error):
            heard.append(f"failure {step_name} {error}")

        def on_compensation_start(self, saga_name, step_name, ctx):
            heard.append(f"undo {step_name}")

        def on_compensation_complete(self, saga_name, step_name, ctx):
            heard.append(f"undone {step_name}")

        def on_saga_failed(self, saga_name, run_id, ctx, error):
            heard.append(f"failed {error}")

    class Heard(Saga):
        listeners = [Everything()]

        @action("a")
        async def a(self, ctx):
            return 1

        @compensate("a")
        def undo(self, ctx): ...

        @action("b", depends_on="a")
        def b(self, ctx):
            raise Broken("b broke")

    await fails(Heard())
    assert heard == ["start Heard", "enter a", "success a 1", "enter b", "failure b b broke", "undo a", "undone a",
                     "failed b broke"]  # fmt: skip


@pytest.mark.parametrize("error", [ValueError("listener"), SystemExit(1)])
async def test_a_listeners_error_is_logged_and_stops_nothing(lab: Lab, error: BaseException, caplog: Any) -> None:
    class Failing(SagaListener):
        def on_saga_start(self, saga_name, run_id, ctx):
            raise error

        async def on_step_success(self, saga_name, step_name, ctx, result):
            raise error

    class Heard(Saga):
        listeners = [Failing()]

        @action("a")
        async def a(self, ctx):
            return 1

    assert (await Heard().run({}))["a"] == 1
    assert statuses(lab) == ["completed"]
    assert caplog.text.count("listener") >= 2


async def test_an_engine_outlives_its_lab() -> None:
    from sagaz_lab.engines.local.engine import LocalEngine
    from sagaz_lab.runtime.clock import SystemClock

    lab = Lab("memory", engine=LocalEngine(SystemClock()))
    with lab.activate():

        class Threaded(Saga):
            @trigger(source="memory")
            def on_event(self, event):
                return {}

            @action()
            def a(self, ctx):
                return 1

    for _ in range(3):
        async with asyncio.timeout(5), lab:
            (outcome,) = await lab.fire("Threaded.on_event")
            assert outcome.kind is OutcomeKind.STARTED
            await lab.drain()
    assert statuses(lab) == ["completed"] * 3


async def test_a_lab_that_stops_abandons_what_does_not_finish(lab: Lab) -> None:
    started = threading.Event()
    go_on = threading.Event()

    class Endless(Saga):
        @action()
        def thread(self, ctx):
            started.set()
            go_on.wait(5)

        @action()
        async def coroutine(self, ctx):
            await asyncio.sleep(60)

    run = asyncio.create_task(Endless().run({}))
    await until(started.is_set)
    async with asyncio.timeout(2):
        await lab.stop(grace_s=0.01)
    go_on.set()
    with pytest.raises((RunError, asyncio.CancelledError)):
        await run
    assert {task.get_name() for task in asyncio.all_tasks()} == {asyncio.current_task().get_name()}
