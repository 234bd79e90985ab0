"""A process whose saga publishes, on a SQLite file, and that kills itself at a boundary.

Usage: outbox_child.py STORE LEDGER KILL_AT MODE. Its broker is the file LEDGER, a line for each publication. Before and
after every write of the journal, every publishing and every note that something was published there is a boundary; it
dies at boundary KILL_AT, or never if that is 0. MODE is "ok" or "fails"; "resume" starts the triggers, which goes on
with what a dead process left.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Self

from sagaz_lab import Lab, OutboxSagaListener, Saga, SagaContext, TriggerConfig, action, compensate, trigger
from sagaz_lab.abc import Publication
from sagaz_lab.sources import ADAPTERS, PUBLISHERS
from sagaz_lab.sources.memory import MemorySource
from sagaz_lab.stores import open_store

STORE, LEDGER, KILL_AT, MODE = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
passed = count(1)


def boundary() -> None:
    if next(passed) == KILL_AT:
        os.kill(os.getpid(), signal.SIGKILL)


class Killing:
    """The real store, with boundaries around what the outbox is about."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in ("append", "end", "published"):
            return found

        async def between_boundaries(*args: Any, **kwargs: Any) -> Any:
            boundary()
            result = await found(*args, **kwargs)
            boundary()
            return result

        return between_boundaries


class Silent(MemorySource):
    """The stream that the trigger reads: nothing comes."""

    def __init__(self, *, surroundings: Any, **settings: Any) -> None:
        super().__init__(surroundings=surroundings)


class LedgerPublisher:
    """The broker: what is in the file was published."""

    def __init__(self, settings: Any) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def publish(self, publications: Sequence[Publication]) -> Mapping[str, Exception]:
        boundary()
        ledger = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for it in publications:
            line = {"id": it.id, "topic": it.topic, "payload": json.loads(it.payload), "run": it.run_id}
            os.write(ledger, json.dumps(line).encode() + b"\n")
            os.fsync(ledger)
        os.close(ledger)
        boundary()
        return {}


def define() -> None:
    class Order(Saga):
        saga_name = "order"
        listeners = [OutboxSagaListener()]
        trigger_config = TriggerConfig(max_retries=0, dead_letter_topic="dead")

        @trigger(source="redis", stream="orders")
        def on_order(self, event: Any) -> dict[str, Any]:
            return {"fails": event["fails"]}

        @action("pay")
        async def pay(self, ctx: SagaContext) -> None:
            await ctx.publish("paid", {"step": 1})
            await ctx.publish("paid", {"step": 2})

        @compensate("pay")
        def refund(self, ctx: SagaContext) -> None:
            ctx.publish("refunded", {"step": 4})

        @action("ship", depends_on=["pay"])
        def ship(self, ctx: SagaContext) -> None:
            ctx.publish("shipped", {"step": 3})
            if ctx["fails"]:
                raise ValueError("ship fails")


async def main() -> None:
    PUBLISHERS["redis"], ADAPTERS["redis"] = "__main__:LedgerPublisher", "__main__:Silent"
    async with Lab(store=Killing(open_store(STORE))) as lab:
        define()
        if MODE == "resume":
            await lab.start()
        else:
            await lab.fire("order.on_order", {"fails": MODE == "fails"})
        await lab.drain()
    print("boundaries", next(passed) - 1, flush=True)


asyncio.run(main())
