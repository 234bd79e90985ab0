"""Records that flow from one action to the next while both run."""

import asyncio
import gc

import pytest

from sagaz_lab import Lab, Saga, action, compensate
from sagaz_lab.engines.local.streams import BUFFER
from sagaz_lab.errors import ActionTimeout, RunError, StreamBroken
from tests.unit.tools import statuses, until


class Broken(Exception):
    """An action's own error."""


async def test_a_reader_starts_with_the_first_record(each_lab: Lab) -> None:
    read = asyncio.Event()

    class Flowing(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            yield 1
            await read.wait()
            yield 2

        @action("total", depends_on="numbers")
        async def total(self, ctx):
            got = []
            async for number in ctx.stream("numbers"):
                got.append(number)
                read.set()
            return sum(got)

    async with asyncio.timeout(5):
        assert (await Flowing().run({}))["total"] == 3
    assert statuses(each_lab) == ["completed"]


async def test_the_producer_is_never_more_than_the_buffer_ahead(lab: Lab) -> None:
    made = taken = furthest = 0

    class Bounded(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            nonlocal made, furthest
            for number in range(5 * BUFFER):
                made += 1
                furthest = max(furthest, made - taken)
                yield number

        @action("slow", depends_on="numbers")
        async def slow(self, ctx):
            nonlocal taken
            async for _ in ctx.stream("numbers"):
                taken += 1
                if taken % 50 == 0:
                    await asyncio.sleep(0.001)

    await Bounded().run({})
    assert taken == 5 * BUFFER
    # One is in the producer's hand, one in the reader's.
    assert BUFFER <= furthest <= BUFFER + 2


async def test_each_of_several_readers_sees_every_record(lab: Lab) -> None:
    seen: dict[str, list[int]] = {"quick": [], "slow": []}

    class Forked(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(3 * BUFFER):
                yield number

        @action("quick", depends_on="numbers")
        async def quick(self, ctx):
            async for number in ctx.stream("numbers"):
                seen["quick"].append(number)

        @action("slow", depends_on="numbers")
        async def slow(self, ctx):
            async for number in ctx.stream("numbers"):
                seen["slow"].append(number)
                await asyncio.sleep(0)
                assert len(seen["quick"]) - len(seen["slow"]) <= BUFFER + 2

    await Forked().run({})
    assert seen["quick"] == seen["slow"] == list(range(3 * BUFFER))


async def test_streams_can_be_chained(lab: Lab) -> None:
    class Chained(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(10):
                yield number

        @action("squares", depends_on="numbers")
        async def squares(self, ctx):
            async for number in ctx.stream("numbers"):
                yield number * number

        @action("total", depends_on="squares")
        async def total(self, ctx):
            return sum([square async for square in ctx.stream("squares")])

    assert (await Chained().run({}))["total"] == 285
    assert sorted(lab.steps()["status"]) == ["completed"] * 3


async def test_a_stream_may_be_empty_or_unread(lab: Lab) -> None:
    class Empty(Saga):
        @action("nothing")
        async def nothing(self, ctx):
            if ctx.get("never"):
                yield 1

        @action("reader", depends_on="nothing")
        async def reader(self, ctx):
            return [record async for record in ctx.stream("nothing")]

        @action("unread")
        async def unread(self, ctx):
            for number in range(3 * BUFFER):
                yield number

    async with asyncio.timeout(5):
        assert (await Empty().run({}))["reader"] == []


async def test_the_producers_error_reaches_its_readers_with_its_name(each_lab: Lab) -> None:
    got: list[BaseException] = []
    read = asyncio.Event()

    class Breaking(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            yield 1
            await read.wait()
            raise Broken("the line went dead")

        @action("reader", depends_on="numbers")
        async def reader(self, ctx):
            try:
                async for _ in ctx.stream("numbers"):
                    read.set()
            except StreamBroken as error:
                got.append(error)
                raise

    with pytest.raises(Broken):
        await Breaking().run({})
    assert "'numbers' broke: Broken: the line went dead" in str(got[0])
    assert isinstance(got[0].__cause__, Broken)
    assert statuses(each_lab) == ["compensated"]


async def test_a_reader_that_stops_early_does_not_hold_the_producer(lab: Lab) -> None:
    produced = asyncio.Event()

    class Sampling(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(5 * BUFFER):
                yield number
            produced.set()

        @action("first", depends_on="numbers")
        async def first(self, ctx):
            async for _ in ctx.stream("numbers"):
                break
            gc.collect()
            # The producer gets to its end although this action goes on.
            await asyncio.wait_for(produced.wait(), 5)
            return "seen one"

    assert (await Sampling().run({}))["first"] == "seen one"


async def test_a_reader_that_does_not_read_does_not_hold_the_producer_for_ever(lab: Lab) -> None:
    class Ignoring(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(3 * BUFFER):
                yield number

        @action("deaf", depends_on="numbers")
        async def deaf(self, ctx):
            return "heard nothing"

    async with asyncio.timeout(5):
        assert (await Ignoring().run({}))["deaf"] == "heard nothing"


async def test_an_action_behind_a_stream_and_its_reader_does_not_hold_them_up(lab: Lab) -> None:
    class Summing(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(3 * BUFFER):
                yield number

        @action("total", depends_on="numbers")
        async def total(self, ctx):
            return sum([number async for number in ctx.stream("numbers")])

        @action("report", depends_on=["numbers", "total"])
        async def report(self, ctx):
            return f"total {ctx['total']}"

    async with asyncio.timeout(5):
        assert (await Summing().run({}))["report"] == "total 44850"


async def test_whoever_comes_too_late_for_a_stream_is_told_so(lab: Lab) -> None:
    class Late(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(3 * BUFFER):
                yield number

        @action("total", depends_on="numbers")
        async def total(self, ctx):
            return sum([number async for number in ctx.stream("numbers")])

        @action("again", depends_on=["numbers", "total"])
        async def again(self, ctx):
            return [number async for number in ctx.stream("numbers")]

    async with asyncio.timeout(5):
        with pytest.raises(RunError, match="'again' cannot read the stream of 'numbers': it depends on an action that"):
            await Late().run({})


async def test_a_stream_that_is_no_dependency_is_an_error_that_says_so(lab: Lab) -> None:
    class Apart(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            yield 1

        @action("reader")
        async def reader(self, ctx):
            async for _ in ctx.stream("numbers"):
                pass

    with pytest.raises(
        RunError, match="'reader' reads the stream of 'numbers', which must be an async generator and in"
    ):
        await Apart().run({})


async def test_a_stream_cannot_be_read_twice(lab: Lab) -> None:
    class Twice(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            yield 1

        @action("reader", depends_on="numbers")
        async def reader(self, ctx):
            for _ in range(2):
                async for _ in ctx.stream("numbers"):
                    pass

    with pytest.raises(RunError, match="'reader' reads the stream of 'numbers' a second time"):
        await Twice().run({})


async def test_a_name_that_is_no_action_reads_an_iterable_of_the_context(lab: Lab) -> None:
    async def letters():
        for letter in "abc":
            yield letter

    class Reading(Saga):
        @action("rows")
        async def rows(self, ctx):
            return [row async for row in ctx.stream("table")] + [letter async for letter in ctx.stream("letters")]

    ctx = await Reading().run({"table": [1, 2], "letters": letters()})
    assert ctx["rows"] == [1, 2, "a", "b", "c"]
    with pytest.raises(RunError, match=r"'rows': ctx.stream\('table'\) names no action and no key of the context"):
        await Reading().run({})


async def test_a_producer_is_compensated_when_its_reader_fails_whether_it_still_runs_or_not(lab: Lab) -> None:
    undone = []

    class Failing(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            for number in range(ctx["records"]):
                yield number

        @compensate("numbers")
        async def undo(self, ctx):
            undone.append(ctx["records"])

        @action("reader", depends_on="numbers")
        async def reader(self, ctx):
            async for _ in ctx.stream("numbers"):
                await asyncio.sleep(0.005)
                raise Broken

    for records in (3, 10 * BUFFER):
        with pytest.raises(Broken):
            await Failing().run({"records": records})
    assert undone == [3, 10 * BUFFER]


async def test_a_producer_that_failed_after_some_records_is_not_compensated(lab: Lab) -> None:
    undone = []

    class Failing(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            yield 1
            raise Broken

        @compensate("numbers")
        async def undo(self, ctx):
            undone.append("numbers")

        @action("reader", depends_on="numbers")
        async def reader(self, ctx):
            async for _ in ctx.stream("numbers"):
                pass

    with pytest.raises(Broken):
        await Failing().run({})
    assert undone == []


async def test_a_stream_has_its_time_out(lab: Lab) -> None:
    closed = []

    class Endless(Saga):
        @action("ticks", timeout_s=0.03)
        async def ticks(self, ctx):
            try:
                while True:
                    yield 1
                    await asyncio.sleep(0.001)
            finally:
                closed.append("ticks")

        @action("reader", depends_on="ticks")
        async def reader(self, ctx):
            async for _ in ctx.stream("ticks"):
                pass

    with pytest.raises(ActionTimeout):
        await Endless().run({})
    assert closed == ["ticks"]


async def test_a_reader_that_has_begun_to_read_is_not_tried_again(lab: Lab) -> None:
    tried = []

    class Reading(Saga):
        @action("numbers")
        async def numbers(self, ctx):
            yield 1

        @action("reader", depends_on="numbers", max_retries=3, retry_backoff_s=0)
        async def reader(self, ctx):
            tried.append(1)
            async for _ in ctx.stream("numbers"):
                raise Broken

    with pytest.raises(Broken):
        await Reading().run({})
    assert tried == [1]


async def test_a_stream_that_swallows_its_cut_off_ends_all_the_same(lab: Lab) -> None:
    class Deaf(Saga):
        @action("ticks")
        async def ticks(self, ctx):
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    yield "still here"

        @action("fails")
        async def fails(self, ctx):
            await asyncio.sleep(0.005)
            raise Broken

    before = len(asyncio.all_tasks())
    async with asyncio.timeout(5):
        with pytest.raises(Broken):
            await Deaf().run({})
    await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_a_run_held_at_a_reader_streams_anew_when_it_is_resumed(each_lab: Lab) -> None:
    produced = []

    def define(fixed: bool) -> type[Saga]:
        class Held(Saga):
            on_failure = "hold"

            @action("numbers")
            async def numbers(self, ctx):
                for number in range(3):
                    produced.append(number)
                    yield number

            @action("total", depends_on="numbers")
            async def total(self, ctx):
                got = [number async for number in ctx.stream("numbers")]
                if not fixed:
                    raise Broken
                return sum(got)

        return Held

    with pytest.raises(Broken):
        await define(False)().run({}, run_id="r")
    define(True)
    assert await each_lab.resume_run("r") == "completed"
    assert produced == [0, 1, 2] * 2


@pytest.mark.parametrize("ends", ["compensated", "held", "cancelled", "partially_committed"])
async def test_no_stream_is_shown_as_running_when_its_run_has_ended(each_lab: Lab, ends: str) -> None:
    undone, read, breaking = [], asyncio.Event(), asyncio.Event()

    class Read(Saga):
        on_failure = "hold" if ends == "held" else "compensate"

        @action("point", pivot=ends == "partially_committed")
        async def point(self, ctx):
            pass

        @action("numbers", depends_on="point")
        async def numbers(self, ctx):
            yield 1

        @compensate("numbers")
        async def undo_numbers(self, ctx):
            undone.append("numbers")

        @action("read", depends_on="numbers")
        async def read(self, ctx):
            numbers = [number async for number in ctx.stream("numbers")]
            read.set()
            return {"read": numbers}

        @action("break", depends_on="numbers")
        async def breaks(self, ctx):
            await read.wait()
            breaking.set()
            await asyncio.sleep(60 if ends == "cancelled" else 0.02)
            raise Broken

    run = asyncio.create_task(Read().run({}, run_id="r"))
    await breaking.wait()
    if ends == "cancelled":
        await each_lab.compensate_run("r")
    with pytest.raises((Broken, RunError)):
        await run
    steps = each_lab.steps()
    assert statuses(each_lab) == [ends]
    assert steps[(steps["action"] == "numbers") & (steps["status"] == "running")].empty
    assert undone == (["numbers"] if ends in ("compensated", "cancelled") else [])
