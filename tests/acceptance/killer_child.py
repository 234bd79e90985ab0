"""A process that is killed by what its saga does, each time.

Usage: killer_child.py STORE LEDGER MODE VERB. In MODE "action" the action kills the process, in "compensation" the
action fails and its compensation kills it, in "both" either does; "hold" is "action" where a failed run is held, and
"mended" the same where nothing fails. VERB is "fire"; or "resume": start, which resumes what dead processes left, and
end when nothing is under way; or "by-hand": resume the newest run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sagaz_lab import Lab, Saga, SagaContext, TriggerConfig, action, compensate, trigger

STORE, LEDGER, MODE, VERB = sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4]


def enter(effect: str) -> None:
    with LEDGER.open("a") as ledger:
        ledger.write(f"{effect}\n")


class Killer(Saga):
    on_failure = "hold" if MODE in ("hold", "mended") else "compensate"
    trigger_config = TriggerConfig(max_retries=2, retry_backoff_seconds=0)

    @trigger(source="memory", topic="killer")
    def on_event(self, event: Any) -> dict[str, Any]:
        return {}

    @action("prepare")
    async def prepare(self, ctx: SagaContext) -> None:
        enter("prepare")

    @compensate("prepare")
    async def undo(self, ctx: SagaContext) -> None:
        enter("undo")
        if MODE in ("compensation", "both"):
            os.kill(os.getpid(), signal.SIGKILL)

    @action("train", depends_on="prepare")
    async def train(self, ctx: SagaContext) -> None:
        enter("train")
        if MODE in ("action", "both", "hold"):
            os.kill(os.getpid(), signal.SIGKILL)
        if MODE != "mended":
            raise ValueError("no data")


async def main() -> None:
    async with Lab(STORE) as lab:
        lab.register(Killer)
        if VERB == "resume":
            await lab.start()
        elif VERB == "by-hand":
            await lab.resume_run(lab.runs(limit=1)["run_id"][0])
        else:
            await lab.fire("Killer.on_event", {})
        await lab.drain()


asyncio.run(main())
