"""Ours, durable: a saga of two no-op actions on SQLite with the journal as the design has it."""

from __future__ import annotations

import asyncio
import time

from sagaz_lab import Lab, Saga, SagaContext, action
from tests.benchmarks.workload import first, second


async def measure(n: int, *, path: str, at_a_time: int = 100) -> float:
    """Sagas per second, so many at a time."""
    async with Lab(store=f"sqlite:///{path}") as lab:
        with lab.activate():

            class Noop(Saga):
                saga_name = "noop"

                @action("first")
                async def do_first(self, ctx: SagaContext) -> None:
                    await first(ctx)

                @action("second", depends_on=("first",))
                async def do_second(self, ctx: SagaContext) -> None:
                    await second(ctx)

            saga = Noop()
            numbers = iter(range(n))

            async def sagas() -> None:
                for number in numbers:
                    await saga.run({"n": number})

            start = time.perf_counter()
            await asyncio.gather(*(sagas() for _ in range(at_a_time)))
            return n / (time.perf_counter() - start)
