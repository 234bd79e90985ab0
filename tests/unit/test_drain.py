"""`drain` returns when all is through, however soon it is called after `start`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from sagaz_lab import Lab, Saga, SagaContext, action, trigger
from sagaz_lab.abc import Delivery, Event, SourceTraits
from sagaz_lab.errors import EndOfSource, SourceNotReady, SourceUnavailable

ROWS = 2500


class Pages:
    """A finite source of the user's own, which takes its time."""

    traits: ClassVar[SourceTraits] = SourceTraits(finite=True)

    def __init__(self) -> None:
        self.name = "pages"
        self._left = list(range(ROWS))

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await asyncio.sleep(0.001)
        if not self._left:
            raise EndOfSource(self.name)
        now, self._left = self._left[:300], self._left[300:]
        return [Delivery(Event({"n": n}, id=str(n), source=self.name), n) for n in now]

    async def settle(self, deliveries: Sequence[Delivery], outcomes: Any) -> None: ...

    async def nack(self, deliveries: Sequence[Delivery], *, delay_s: float = 0.0) -> None: ...

    async def keep_alive(self, deliveries: Sequence[Delivery]) -> None: ...


class Endless(Pages):
    traits: ClassVar[SourceTraits] = SourceTraits()

    async def receive(self, limit: int) -> Sequence[Delivery]:
        await asyncio.sleep(3600)
        return []


class Unreachable(Endless):
    async def __aenter__(self) -> Self:
        raise SourceUnavailable("nobody there")


class Broken(Pages):
    async def __aenter__(self) -> Self:
        raise SourceNotReady("it is not there")


RECORDING = {"source": "recording", "data": [{"n": n} for n in range(ROWS)]}
PAGES = {"source": "custom", "factory": Pages}


def lab_of(store: str, tmp_path: Path) -> Lab:
    return Lab("memory" if store == "memory" else f"sqlite:///{tmp_path}/lab.db")


def reads(lab: Lab, source: dict[str, Any], name: str = "s") -> list[int]:
    done: list[int] = []
    with lab.activate():

        class Reads(Saga):
            saga_name = name

            @trigger(**source)
            def on_event(self, event: Event) -> dict[str, Any]:
                return {"n": event["n"]}

            @action()
            async def work(self, ctx: SagaContext) -> None:
                done.append(ctx["n"])

    return done


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("source", [RECORDING, PAGES, None], ids=["recording", "factory", "instance"])
@pytest.mark.parametrize("isolated", [False, True])
async def test_all_is_through_when_it_returns(
    store: str, source: dict[str, Any] | None, isolated: bool, tmp_path: Path
) -> None:
    lab, source = lab_of(store, tmp_path), source or {"source": Pages()}
    done = reads(lab, source)
    lab.start(isolated=isolated)
    await lab.drain()
    assert sorted(done) == list(range(ROWS))
    assert lab.counters()["s.on_event"]["received"] == ROWS
    await lab.stop()


async def test_a_second_start_is_waited_for_too(tmp_path: Path) -> None:
    lab = lab_of("memory", tmp_path)
    first = reads(lab, {"source": "recording", "data": [{"n": 1}]})
    await lab.start(only="s")
    await lab.drain()
    second = reads(lab, PAGES, "t")
    lab.start()
    await lab.drain()
    assert (first, len(second)) == ([1], ROWS)
    await lab.stop()


@pytest.mark.parametrize("other", [Endless, Unreachable, Broken])
async def test_sources_that_do_not_end_are_not_waited_for(other: type[Pages], tmp_path: Path) -> None:
    lab = lab_of("memory", tmp_path)
    reads(lab, {"source": "custom", "factory": other}, "other")
    done = reads(lab, PAGES)
    lab.start(skip_failed=True)
    async with asyncio.timeout(10):
        await lab.drain()
    assert len(done) == ROWS
    await lab.stop()


async def test_a_lab_that_was_never_started_or_is_stopped_meanwhile_is_drained(tmp_path: Path) -> None:
    lab = lab_of("memory", tmp_path)
    reads(lab, {"source": "custom", "factory": Endless})
    async with asyncio.timeout(10):
        await lab.drain()
        lab.start()
        await lab.stop()
        await lab.drain()
        lab.start()
        draining = asyncio.create_task(lab.drain())
        await lab.stop()
        await draining
