"""Labs for the tests of the core."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sagaz_lab import Lab
from sagaz_lab.testing.clock import VirtualClock


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """An open Lab that is current, in memory."""
    async with Lab("memory") as lab:
        yield lab


@pytest.fixture(params=["memory", "sqlite"])
async def each_lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """The same over each store."""
    address = "memory" if request.param == "memory" else f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address) as lab:
        yield lab


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def timed_lab(clock: VirtualClock) -> AsyncIterator[Lab]:
    """A Lab whose time is `clock`; what still waits at the end is left behind."""
    lab = Lab("memory", clock=clock)
    await lab.open()
    with lab.activate():
        yield lab
    await lab.stop(grace_s=0)
