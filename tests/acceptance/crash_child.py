"""A process that runs a six-action saga on a store and kills itself at a record boundary.

Usage: crash_child.py STORE LEDGER KILL_AT WHEN MODE. It is killed when its journal has written KILL_AT records
("after" the commit) or is about to ("before" it); KILL_AT 0 never. MODE is "ok" or "fails". With MODE "resume" it
starts the triggers, which resumes what a dead process left, and ends when nothing is under way.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sagaz_lab import Lab, Saga, SagaContext, TriggerConfig, action, compensate, trigger
from sagaz_lab.abc import Acceptance, Ending, Record
from sagaz_lab.stores import open_store

STORE, LEDGER, KILL_AT, WHEN, MODE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]


def enter(effect: str, ctx: SagaContext) -> None:
    """One line of the ledger outside the process; the key says which effect it is, however often it is asked for."""
    line = f"{effect} {ctx.idempotency_key}\n".encode()
    ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, line)
    os.fsync(ledger)
    os.close(ledger)


class Killing:
    """The real store, except that the process dies at a record boundary."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._written = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def _around(self, n: int, write: Any) -> Any:
        reached = KILL_AT and self._written < KILL_AT <= self._written + n
        if reached and WHEN == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await write
        self._written += n
        if reached:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    async def accept(self, batch: Acceptance) -> Any:
        return await self._around(sum(1 + len(run.started) for run in batch.runs), self._inner.accept(batch))

    async def append(self, records: Sequence[Record]) -> None:
        await self._around(_count(records), self._inner.append(records))

    async def end(self, run_id: str, ending: Ending, **facts: Any) -> None:
        await self._around(1 + _count(ending.records), self._inner.end(run_id, ending, **facts))
        print("records", self._written, flush=True)


def _count(records: Sequence[Record]) -> int:
    return sum(1 + len(record.then) for record in records)


def define() -> type[Saga]:
    class Six(Saga):
        saga_name = "six"
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", topic="six")
        def on_event(self, event: Any) -> dict[str, Any]:
            return {"fails": event["fails"]}

        @action("a")
        async def a(self, ctx: SagaContext) -> dict[str, Any]:
            enter("a", ctx)
            return {"a": 1}

        @action("b", depends_on=["a"])
        def b(self, ctx: SagaContext) -> int:
            enter("b", ctx)
            return ctx["a"] + 1

        @action("c", depends_on=["a"])
        async def c(self, ctx: SagaContext) -> bytes:
            enter("c", ctx)
            return b"x" * 10_000

        @action("d", depends_on=["b", "c"])
        async def d(self, ctx: SagaContext) -> int:
            enter("d", ctx)
            return ctx["b"] + len(ctx["c"])

        @action("e", depends_on=["d"])
        async def e(self, ctx: SagaContext) -> None:
            enter("e", ctx)

        @action("f", depends_on=["e"])
        async def f(self, ctx: SagaContext) -> int:
            if ctx["fails"]:
                raise ValueError("f fails")
            enter("f", ctx)
            return ctx["d"]

        @compensate("a")
        async def undo_a(self, ctx: SagaContext, result: Any) -> None:
            enter(f"undo-a-{result['a']}", ctx)

        @compensate("c")
        def undo_c(self, ctx: SagaContext, result: bytes) -> None:
            enter(f"undo-c-{len(result)}", ctx)

        @compensate("e")
        async def undo_e(self, ctx: SagaContext) -> None:
            enter("undo-e", ctx)

    return Six


async def main() -> None:
    async with Lab(store=Killing(open_store(STORE))) as lab:
        define()
        if MODE == "resume":
            await lab.start()
        else:
            await lab.fire("six.on_event", {"fails": MODE == "fails"})
        await lab.drain()


asyncio.run(main())
