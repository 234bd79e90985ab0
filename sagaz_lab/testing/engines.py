"""The promises of the `Engine` protocol as a test suite for engines.

Subclass `EngineSuite` in a test module and define the fixture `engine`. Needs pytest and pytest-asyncio with
asyncio_mode=auto.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from sagaz_lab.abc import Attempt, Ending, Engine, Record, Wait
from sagaz_lab.errors import LeaseLost
from sagaz_lab.model.context import fresh_context
from sagaz_lab.model.run import History, RecordKind, RunStatus
from sagaz_lab.model.saga import Saga, action, compensate, define

__all__ = ["EngineSuite"]

WITHIN_S = 10.0

mark: ContextVar[str] = ContextVar("mark", default="")


class Noted(Attempt, kw_only=True, eq=False):
    """An attempt whose journal is a list. Records are kept after a short delay; the next call raises `lost`."""

    closed: asyncio.Event
    kept: list[Record]
    ending: Ending | None = None
    failure: BaseException | None = None
    lost: BaseException | None = None

    @property
    def shared(self) -> bool:
        return True

    def ready(self) -> Wait:
        if self.lost is not None:
            raise self.lost
        return None

    def append(self, records: Sequence[Record]) -> Wait:
        assert self.ending is None, "the attempt has ended already"
        return self._keep(records)

    def end(self, ending: Ending) -> Wait:
        assert self.ending is None, "the attempt has ended already"
        self.ending = ending
        return self._keep(ending.records)

    def close(self, error: BaseException | None = None) -> None:
        assert not self.closed.is_set(), "it is closed once"
        self.failure = error
        self.closed.set()

    async def _keep(self, records: Sequence[Record]) -> None:
        await asyncio.sleep(0.001)
        for record in records:
            self.kept += record.in_full()

    def said(self) -> list[tuple[str, str]]:
        """The kept records, in order."""
        return [(record.kind, record.action) for record in self.kept]

    async def over(self) -> RunStatus | None:
        """Its final status; None if it was abandoned."""
        async with asyncio.timeout(WITHIN_S):
            await self.closed.wait()
        return None if self.ending is None else self.ending.status


class Work(Saga, abstract=True):
    """Actions a, then b; b calls `does` with the run's context."""

    does: Callable[[Any], Any]
    log: list[str]

    @action("a")
    async def a(self, ctx: Any) -> dict[str, int]:
        self.log.append("a")
        return {"rows": 3}

    @compensate("a")
    async def undo_a(self, ctx: Any) -> None:
        self.log.append("undo a")

    @action("b", depends_on="a")
    async def b(self, ctx: Any) -> Any:
        self.log.append("b")
        return await self.does(ctx)

    @compensate("b")
    async def undo_b(self, ctx: Any) -> None:
        self.log.append("undo b")


def attempt(saga: Saga, run_id: str = "r1", history: History | None = None, **context: Any) -> Noted:
    """An attempt of the saga, not launched yet, with its first actions recorded as started."""
    values = context if history is None else {**context, **history.changes}
    ctx, definition = fresh_context(values, run_id, None), define(type(saga))
    started = definition.plan.roots if history is None else ()
    kept = [Record(run_id, 1, RecordKind.ACTION_STARTED, name, 1, 0.0) for name in started]
    return Noted(run_id, definition, saga, ctx, None, 1, 0.0, history, origin=copy_context(), closed=asyncio.Event(),
                 kept=kept)  # fmt: skip


def work(does: Callable[[Any], Any]) -> Work:
    saga = Work()
    saga.does, saga.log = does, []
    return saga


async def nothing(ctx: Any) -> None: ...


async def fail(ctx: Any) -> None:
    raise OSError("down")


class EngineSuite:
    """Tests that every engine must pass."""

    @pytest.fixture
    def engine(self) -> Engine:
        raise NotImplementedError("define a fixture `engine`")

    @pytest.fixture(autouse=True)
    async def _closed(self, engine: Engine) -> AsyncIterator[None]:
        yield
        await engine.close()

    # --- forward ---

    async def test_actions_start_in_the_order_of_their_dependencies(self, engine: Engine) -> None:
        done: list[str] = []

        class Diamond(Saga, abstract=True):
            @action("report", depends_on=["train", "test"])
            async def report(self, ctx: Any) -> None:
                done.append("report")

            @action("test", depends_on="split")
            def test(self, ctx: Any) -> None:
                done.append("test")

            @action("train", depends_on="split")
            async def train(self, ctx: Any) -> None:
                done.append("train")

            @action("split")
            async def split(self, ctx: Any) -> None:
                done.append("split")

        run = attempt(Diamond())
        engine.launch([run])
        assert await run.over() is RunStatus.COMPLETED
        assert (done[0], sorted(done[1:3]), done[3]) == ("split", ["test", "train"], "report")

    async def test_results_are_in_the_context_of_what_follows(self, engine: Engine) -> None:
        seen: list[Any] = []

        async def look(ctx: Any) -> int:
            seen.append(dict(ctx))
            return 7

        run = attempt(work(look), given=1)
        engine.launch([run])
        assert await run.over() is RunStatus.COMPLETED
        assert (seen, dict(run.ctx)) == ([{"given": 1, "rows": 3}], {"given": 1, "rows": 3, "b": 7})

    async def test_a_start_and_an_end_are_journaled_before_what_follows(self, engine: Engine) -> None:
        if engine.traits.own_history:
            pytest.skip("it keeps the history itself")
        seen: list[Any] = []

        async def look(ctx: Any) -> None:
            seen.append(run.said())

        run = attempt(work(look))
        engine.launch([run])
        assert await run.over() is RunStatus.COMPLETED
        a_is_done = [
            (RecordKind.ACTION_STARTED, "a"),
            (RecordKind.ACTION_FINISHED, "a"),
            (RecordKind.ACTION_STARTED, "b"),
        ]
        assert seen == [a_is_done]
        assert run.said() == [*a_is_done, (RecordKind.ACTION_FINISHED, "b")]

    async def test_many_runs_are_taken_as_they_get_their_turn_and_see_nothing_of_one_another(
        self, engine: Engine
    ) -> None:
        seen: list[tuple[int, str]] = []
        runs: list[Noted] = []

        async def look(ctx: Any) -> None:
            seen.append((ctx["n"], mark.get()))
            mark.set(f"of {ctx['n']}")
            if ctx["n"] % 3 == 0:
                await asyncio.sleep(0.01)

        def make() -> Iterator[Noted]:
            for n in range(100):
                runs.append(attempt(saga, f"r{n}", n=n))
                yield runs[-1]

        saga = work(look)
        engine.launch(make())
        last = attempt(work(nothing), "last")
        engine.launch([last])
        assert await last.over() is RunStatus.COMPLETED
        assert {await run.over() for run in runs} == {RunStatus.COMPLETED}
        assert sorted(seen) == [(n, "") for n in range(100)]

    # --- back ---

    async def test_no_action_starts_once_compensation_began(self, engine: Engine) -> None:
        log: list[str] = []

        class Apart(Saga, abstract=True):
            @action("fails")
            async def fails(self, ctx: Any) -> None:
                await asyncio.sleep(0.01)
                raise OSError("down")

            @action("slow")
            async def slow(self, ctx: Any) -> None:
                try:
                    await asyncio.sleep(WITHIN_S)
                finally:
                    log.append("slow ends")

            @compensate("slow")
            async def undo_slow(self, ctx: Any) -> None:
                log.append("undo slow")

            @action("after", depends_on="slow")
            async def after(self, ctx: Any) -> None:
                log.append("after")

        run = attempt(Apart())
        engine.launch([run])
        assert await run.over() is RunStatus.COMPENSATED
        assert log == ["slow ends", "undo slow"]
        assert run.ending is not None
        assert isinstance(run.ending.error, OSError)

    async def test_what_was_done_is_undone_in_reverse_order(self, engine: Engine) -> None:
        saga = work(fail)
        run = attempt(saga)
        engine.launch([run])
        assert await run.over() is RunStatus.COMPENSATED
        assert saga.log == ["a", "b", "undo a"]
        if not engine.traits.own_history:
            assert run.said()[-3:] == [
                (RecordKind.ACTION_FAILED, "b"),
                (RecordKind.COMPENSATION_STARTED, "a"),
                (RecordKind.COMPENSATION_FINISHED, "a"),
            ]

    async def test_a_run_that_is_to_be_held_is_not_undone(self, engine: Engine) -> None:
        saga = work(fail)
        run = attempt(saga)
        run.hold = True
        engine.launch([run])
        assert await run.over() is RunStatus.HELD
        assert saga.log == ["a", "b"]

    async def test_a_cancelled_run_is_compensated(self, engine: Engine) -> None:
        waits = asyncio.Event()

        async def wait(ctx: Any) -> None:
            waits.set()
            await asyncio.sleep(WITHIN_S)

        saga = work(wait)
        run, other = attempt(saga), attempt(work(nothing), "other")
        engine.launch([run, other])
        await asyncio.wait_for(waits.wait(), WITHIN_S)
        run.cancelling = True
        engine.cancel(run.run_id)
        assert await run.over() is RunStatus.CANCELLED
        assert saga.log == ["a", "b", "undo b", "undo a"]
        assert await other.over() is RunStatus.COMPLETED

    async def test_a_run_that_is_cancelled_before_its_turn_does_nothing(self, engine: Engine) -> None:
        saga = work(nothing)
        run = attempt(saga)
        engine.launch([run])
        run.cancelling = True
        engine.cancel(run.run_id)
        assert await run.over() is RunStatus.CANCELLED
        assert saga.log == []

    # --- left and resumed ---

    async def test_what_is_journaled_as_finished_is_not_run_again(self, engine: Engine) -> None:
        finished = Record("r1", 1, RecordKind.ACTION_FINISHED, "a", 1, 0.0, ("b",), value={"rows": 5})
        saga = work(nothing)
        run = attempt(saga, history=History.of(finished.in_full(), 1))
        engine.launch([run])
        assert await run.over() is RunStatus.COMPLETED
        assert (saga.log, run.ctx["rows"]) == (["b"], 5)

    async def test_an_abandoned_run_is_left_as_it_stands_and_can_be_resumed(self, engine: Engine) -> None:
        if engine.traits.own_history:
            pytest.skip("its runs continue elsewhere")
        waits = asyncio.Event()

        async def wait(ctx: Any) -> None:
            waits.set()
            await asyncio.sleep(WITHIN_S)

        saga = work(wait)
        run = attempt(saga)
        engine.launch([run])
        await asyncio.wait_for(waits.wait(), WITHIN_S)
        engine.abandon()
        assert await run.over() is None
        assert saga.log == ["a", "b"]
        again = work(nothing)
        resumed = attempt(again, history=History.of(run.kept, 1))
        engine.launch([resumed])
        assert await resumed.over() is RunStatus.COMPLETED
        assert again.log == ["b"]

    async def test_an_error_of_the_journal_leaves_that_run_alone_as_it_stands(self, engine: Engine) -> None:
        saga, after = work(nothing), work(nothing)
        lost, other = attempt(saga), attempt(after, "other")
        lost.lost = LeaseLost("another process has taken over")
        engine.launch([lost, other])
        assert await lost.over() is None
        assert isinstance(lost.failure, LeaseLost)
        assert await other.over() is RunStatus.COMPLETED
        assert (saga.log, after.log) == ([], ["a", "b"])

    async def test_a_closed_engine_has_let_go_of_all_and_can_be_used_again(self, engine: Engine) -> None:
        waits = asyncio.Event()

        async def wait(ctx: Any) -> None:
            waits.set()
            await asyncio.sleep(WITHIN_S)

        run = attempt(work(wait))
        engine.launch([run])
        await asyncio.wait_for(waits.wait(), WITHIN_S)
        await engine.close()
        assert await run.over() is None
        again = attempt(work(nothing), "again")
        engine.launch([again])
        assert await again.over() is RunStatus.COMPLETED
