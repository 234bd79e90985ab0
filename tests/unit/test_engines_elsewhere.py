"""An engine whose runs go on without this process: they are followed, not started again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from sagaz_lab import Lab, Saga, action
from sagaz_lab.abc import Attempt, Ending, EngineTraits
from sagaz_lab.model.awaiting import waited
from sagaz_lab.model.run import RunStatus
from tests.unit.tools import statuses, until


class Elsewhere:
    """As if it had handed its runs to another program, which has all of their history."""

    traits: ClassVar[EngineTraits] = EngineTraits(own_history=True, own_retries=True)

    def __init__(self, goes_on: bool) -> None:
        self.goes_on = goes_on
        self.launched: list[Attempt] = []
        self.attached: list[Attempt] = []

    def launch(self, runs: Iterable[Attempt]) -> None:
        self.launched += runs

    def attach(self, run: Attempt) -> bool:
        self.attached += [run] if self.goes_on else []
        return self.goes_on

    def cancel(self, run_id: str) -> None: ...

    def abandon(self) -> None: ...

    async def close(self) -> None: ...


def define(ran: list[str]) -> type[Saga]:
    class Far(Saga):
        @action()
        async def work(self, ctx):
            ran.append("work")

    return Far


async def leave_a_run(address: str) -> None:
    """Under way in another program when this one stops."""
    engine = Elsewhere(goes_on=True)
    lab = Lab(address, engine=engine)
    async with lab:
        with lab.activate():
            waits = asyncio.ensure_future(define([])().run({}, run_id="far"))
        await until(lambda: engine.launched)
        waits.cancel()
        await lab.stop(grace_s=0)
    await asyncio.wait([waits])


async def test_a_run_that_goes_on_elsewhere_is_followed_to_its_end(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    await leave_a_run(address)
    engine = Elsewhere(goes_on=True)
    async with Lab(address, engine=engine) as lab:
        with lab.activate():
            define([])
        await lab.start()
        await until(lambda: engine.attached)
        (run,) = engine.attached
        await waited(run.end(Ending(RunStatus.COMPLETED)))
        run.close()
        await lab.drain()
        assert (run.run_id, engine.launched, statuses(lab)) == ("far", [], ["completed"])


async def test_a_run_that_goes_on_nowhere_is_launched_with_its_history(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    await leave_a_run(address)
    engine = Elsewhere(goes_on=False)
    async with Lab(address, engine=engine) as lab:
        with lab.activate():
            define([])
        await lab.start()
        await until(lambda: engine.launched)
        (run,) = engine.launched
        assert run.history is not None
        run.close()
