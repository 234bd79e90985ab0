"""Each attempt, trial and reader gets the context as it was, whatever another did to its copy."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, compensate, forward_recovery, trigger
from sagaz_lab.model.apart import apart
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import spoil, until

SENT = {"k": "a", "rows": [{"n": 1}, {"n": 2}]}


async def test_an_attempt_gets_the_context_as_the_trigger_returned_it(each_lab: Lab) -> None:
    template = {"order": {"id": 1}, "rows": [1]}
    seen: list[Any] = []

    class S(Saga):
        trigger_config = TriggerConfig(max_retries=2, retry_backoff_seconds=0)

        @trigger(source="memory")
        def on(self, event):
            return template

        @action("fail")
        async def fail(self, ctx):
            seen.append((apart(dict(ctx)), apart(ctx.event.payload)))
            spoil(ctx["order"])
            spoil(ctx["rows"])
            spoil(ctx.event.payload)
            ctx["more"] = 1
            raise OSError("down")

    await each_lab.fire("S.on", apart(SENT))
    template["order"]["id"] = 2
    await until(lambda: len(seen) == 3)
    await each_lab.drain()
    assert seen == [({"order": {"id": 1}, "rows": [1]}, SENT)] * 3


@pytest.mark.parametrize("kind", ["alone", "beside another", "thread"])
async def test_a_trial_finds_the_context_as_the_first_one_did(lab: Lab, kind: str) -> None:
    seen: list[Any] = []

    def work(ctx: Any) -> None:
        seen.append((apart(ctx["order"]), ctx["n"], ctx.has("more"), apart(ctx.event.payload)))
        ctx["order"].pop("id")
        ctx["n"] += 1
        ctx["more"] = True
        del ctx["gone"]
        spoil(ctx.event.payload)
        if len(seen) < 3:
            raise OSError("down")

    class S(Saga):
        @trigger(source="memory")
        def on(self, event):
            return {"order": {"id": 1}, "n": 1, "gone": 1}

        if kind == "thread":

            @action("work", max_retries=2, retry_backoff_s=(0,))
            def work(self, ctx):
                work(ctx)

        else:

            @action("work", max_retries=2, retry_backoff_s=(0,))
            async def work(self, ctx):
                await asyncio.sleep(0)
                work(ctx)

        if kind == "beside another":

            @action("other")
            async def other(self, ctx):
                return {"other": 1}

    await lab.fire("S.on", apart(SENT))
    await lab.drain()
    assert seen == [({"id": 1}, 1, False, SENT)] * 3
    context = lab.context(lab.runs()["run_id"][0])
    assert (context["n"], context["more"], "other" in context) == (2, True, kind == "beside another")


async def test_a_recovery_mends_the_context_for_the_next_trial(lab: Lab) -> None:
    seen: list[Any] = []

    class S(Saga):
        @action("pay", pivot=True)
        async def pay(self, ctx): ...

        @action("ship", depends_on=["pay"])
        async def ship(self, ctx):
            seen.append(apart(ctx["order"]))
            if "street" not in ctx["order"]:
                ctx["order"].clear()
                raise OSError("no street")

        @forward_recovery("ship")
        async def recover(self, ctx, error):
            ctx["order"]["street"] = "Main"
            return "retry"

    await S().run({"order": {"id": 1}})
    assert seen == [{"id": 1}, {"id": 1, "street": "Main"}]


async def test_each_trial_of_a_compensation_gets_the_result_as_it_was_returned(
    timed_lab: Lab, clock: VirtualClock
) -> None:
    seen: list[Any] = []

    class S(Saga):
        @action("pay")
        async def pay(self, ctx):
            return {"ids": [1, 2]}

        @compensate("pay", max_retries=1)
        async def refund(self, ctx, result):
            seen.append(apart((result, ctx["ids"])))
            spoil(result)
            spoil(ctx["ids"])
            if len(seen) < 2:
                raise OSError("down")

        @action("fail", depends_on=["pay"])
        async def fail(self, ctx):
            raise OSError("down")

    running = asyncio.ensure_future(S().run({}))
    await until(lambda: seen)
    await clock.advance(1)
    with pytest.raises(OSError, match="down"):
        await running
    assert seen == [({"ids": [1, 2]}, [1, 2])] * 2


async def test_who_runs_a_saga_keeps_its_context(lab: Lab) -> None:
    class S(Saga):
        @action("spoil")
        async def spoil(self, ctx):
            spoil(ctx["rows"])
            ctx["more"] = 1

    mine = {"rows": [1, [2]]}
    done = await S().run(mine)
    assert (mine, done["rows"]) == ({"rows": [1, [2]]}, [])
    assert lab.context(done.run_id)["rows"] == [1, [2]]  # changes inside a value are not recorded


async def test_every_reader_of_a_stream_gets_a_record_of_its_own(lab: Lab) -> None:
    seen: list[Any] = []

    class S(Saga):
        @action("rows")
        async def rows(self, ctx):
            row = {"n": [0]}
            for n in range(3):
                row["n"][0] = n
                yield row

        @action("one", depends_on=["rows"])
        async def one(self, ctx):
            seen.extend([row["n"].pop() async for row in ctx.stream("rows")])

        @action("two", depends_on=["rows"])
        async def two(self, ctx):
            seen.extend([row["n"].pop() async for row in ctx.stream("rows")])

    await S().run({})
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
