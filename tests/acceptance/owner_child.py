"""A process that runs the triggers of one saga on a store, with a run in its second action, until it is told to go on.

Usage: owner_child.py STORE LEDGER. It prints "running" once its run waits; SIGKILL it, or write to its standard input.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from sagaz_lab import Lab, Saga, SagaContext, action, trigger


def note(ledger: Path, effect: str) -> None:
    with ledger.open("a") as file:
        file.write(f"{effect}\n")


def define(ledger: Path, wait: Any) -> type[Saga]:
    class Shared(Saga):
        saga_name = "shared"

        @trigger(source="memory", topic="shared")
        def on_event(self, event: Any) -> dict[str, Any]:
            return {"n": event["n"]}

        @action("first")
        async def first(self, ctx: SagaContext) -> int:
            note(ledger, "first")
            return 1

        @action("second", depends_on=["first"])
        async def second(self, ctx: SagaContext) -> int:
            await wait()
            note(ledger, "second")
            return 2

    return Shared


async def main(store: str, ledger: Path) -> None:
    loop = asyncio.get_running_loop()

    async def told() -> None:
        print("running", flush=True)
        await loop.run_in_executor(None, sys.stdin.readline)

    async with Lab(store=store) as lab:
        define(ledger, told)
        await lab.start()
        await lab.fire("shared.on_event", {"n": 1}, id="the-event")
        await lab.drain()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
