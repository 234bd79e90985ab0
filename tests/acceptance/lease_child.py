"""A process that runs the triggers of one saga from a Redis stream while it owns them, and waits while it does not.

Usage: lease_child.py STORE REDIS_URL LEDGER. A lease lasts 2 s. It ends by itself, with
status 7, once its triggers were taken over. Each start and end of an action is a line of the ledger.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from sagaz_lab import Lab, Saga, SagaContext, TriggerConfig, action, trigger
from sagaz_lab.errors import StoreUnavailable, TriggersOwned
from sagaz_lab.runtime import heartbeat
from sagaz_lab.runtime.lifetime import lease as runtime_lease
from sagaz_lab.stores.sql import leases, writer

LOST = 7
leases.LEASE_S, heartbeat.HEARTBEAT_S, writer.BEAT_S, runtime_lease.LOOK_S = 2.0, 0.6, 0.8, 0.1


class Ledger:
    """Appended to with one write a line, so that lines of several processes do not mix."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def enter(self, what: str, step: str, ctx: SagaContext) -> None:
        line = f"{os.getpid()} {what} {step} {ctx.run_id} {ctx['key']} {ctx['n']}\n"
        os.write(self._file, line.encode())


def define(url: str, ledger: Ledger) -> type[Saga]:
    async def work(step: str, ctx: SagaContext) -> None:
        ledger.enter("start", step, ctx)
        await asyncio.sleep(0.001)
        ledger.enter("end", step, ctx)

    class Flow(Saga):
        saga_name = "flow"
        trigger_config = TriggerConfig(queue_size=2000)

        @trigger(source="redis", stream="flow", url=url, concurrency_key="key")
        def on_event(self, event: Any) -> dict[str, Any]:
            return {"key": event["key"], "n": event["n"]}

        @action("a")
        async def a(self, ctx: SagaContext) -> None:
            await work("a", ctx)

        @action("b", depends_on=["a"])
        async def b(self, ctx: SagaContext) -> None:
            await work("b", ctx)

    return Flow


async def main(store: str, url: str, ledger: Ledger) -> int:
    lost = asyncio.Event()
    async with Lab(store=store) as lab:
        define(url, ledger)
        lab.on_report(lambda kind, _: lost.set() if kind == "lease" else None)
        while True:
            try:
                await lab.start()
                break
            except (TriggersOwned, StoreUnavailable):
                await asyncio.sleep(0.05)
        await lost.wait()
    return LOST


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2], Ledger(sys.argv[3]))))
