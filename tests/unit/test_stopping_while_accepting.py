"""A stop waits for what is being accepted: who waits for it has an answer, and a restart counts each event once."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from sagaz_lab import Batch, Lab, Outcome, OutcomeKind, Saga, SagaListener, action, trigger
from sagaz_lab.errors import LabClosed
from sagaz_lab.runtime.lifetime import finishing
from sagaz_lab.stores.sql.transactions import Transactions
from tests.unit.tools import counted, statuses, until


class Gate:
    """Holds the store's writer before the commits that take something in, once it is shut."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = False
        self._open = threading.Event()
        self._open.set()
        commit = Transactions.commit

        def held_up(transactions: Transactions, writes: Any) -> None:
            if not self._open.is_set():
                self.reached = True
                assert self._open.wait(20)
            commit(transactions, writes)

        monkeypatch.setattr(Transactions, "commit", held_up)

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


def lab_with(path: Path, **options: Any) -> Lab:
    lab = Lab(f"sqlite:///{path}/lab.db")
    with lab.activate():

        class Watched(Saga):
            @trigger(source="memory", topic="t", **options)
            def on_event(self, event):
                return {"n": event["n"]}

            @trigger(source="memory", topic="other")
            def on_other(self, event):
                return None

            @action()
            async def work(self, ctx):
                await asyncio.sleep(60)

    return lab


async def until_it_closes(lab: Lab) -> None:
    """Returns when the Lab takes no more events, while the stop waits for those that are being accepted."""
    async with asyncio.timeout(20):
        with pytest.raises(LabClosed):
            while True:
                await lab.fire("Watched.on_other", {})
                await asyncio.sleep(0)


async def stopped_while_accepting(lab: Lab, gate: Gate) -> list[Outcome]:
    """What the caller of `fire` gets if the store answers only after the stop has begun."""
    gate.shut()
    firing = asyncio.create_task(lab.fire("Watched.on_event", {"n": 1}, id="e1"))
    await until(lambda: gate.reached)
    stopping = asyncio.create_task(lab.stop(grace_s=0))
    await until_it_closes(lab)
    gate.open()
    await stopping
    return await asyncio.wait_for(firing, 5)


@pytest.mark.parametrize("options", [{"batch": Batch(2, "1h")}, {"max_concurrent_sagas": 1}], ids=["window", "turn"])
async def test_who_fires_is_told_that_the_event_waits_and_a_restart_counts_it_once(
    tmp_path: Path, gate: Gate, options: dict[str, Any]
) -> None:
    lab = lab_with(tmp_path, **options)
    await lab.start()
    running = {"received": 1, "started": 1} if "batch" not in options else {}
    if running:
        await lab.fire("Watched.on_event", {"n": 0}, wait=False)

    [outcome] = await stopped_while_accepting(lab, gate)

    assert outcome.kind is OutcomeKind.WAITING
    assert counted(lab, "Watched.on_event") == running
    await lab.start()
    expected = {"received": len(running) // 2 + 1, "waiting": 1} | ({"started": 1} if running else {})
    assert counted(lab, "Watched.on_event") == expected
    await lab.stop(grace_s=0)


async def test_a_run_that_starts_while_the_lab_stops_is_counted_and_goes_on(tmp_path: Path, gate: Gate) -> None:
    lab = lab_with(tmp_path)
    await lab.start()

    [outcome] = await stopped_while_accepting(lab, gate)

    assert outcome.kind is OutcomeKind.STARTED
    assert counted(lab, "Watched.on_event") == {"received": 1, "started": 1}
    assert statuses(lab) == ["running"]


async def test_a_window_that_is_decided_while_the_lab_stops_counts_as_started(tmp_path: Path, gate: Gate) -> None:
    lab = Lab(f"sqlite:///{tmp_path}/lab.db")
    with lab.activate():

        class Watched(Saga):
            @trigger(source="memory", topic="t", batch=Batch(1, "1h"))
            def on_event(self, events):
                gate.shut()
                return {}

            @trigger(source="memory", topic="other")
            def on_other(self, event):
                return None

            @action()
            async def work(self, ctx):
                await asyncio.sleep(60)

    await lab.start()
    firing = asyncio.create_task(lab.fire("Watched.on_event", {"n": 1}, id="e1"))
    await until(lambda: gate.reached)
    stopping = asyncio.create_task(lab.stop(grace_s=0))
    await until_it_closes(lab)
    gate.open()
    await stopping

    [outcome] = await asyncio.wait_for(firing, 5)
    assert outcome.kind is OutcomeKind.STARTED
    assert counted(lab, "Watched.on_event") == {"received": 1, "started": 1}
    await lab.start()
    assert counted(lab, "Watched.on_event") == {"received": 1, "started": 1}
    await lab.stop(grace_s=0)


async def test_an_event_that_is_decided_only_after_the_lab_has_closed_is_not_taken(tmp_path: Path) -> None:
    lab, reached, enough = Lab(f"sqlite:///{tmp_path}/lab.db"), asyncio.Event(), asyncio.Event()
    with lab.activate():

        class Watched(Saga):
            @trigger(source="memory", topic="t")
            async def on_event(self, event):
                reached.set()
                await enough.wait()
                return {}

            @action()
            def work(self, ctx): ...

    await lab.start()
    firing = asyncio.create_task(lab.fire("Watched.on_event", {"n": 1}, id="e1"))
    await reached.wait()
    await lab.stop(grace_s=0)
    enough.set()

    with pytest.raises(LabClosed, match="not taken"):
        await asyncio.wait_for(firing, 5)
    assert counted(lab, "Watched.on_event") == {}
    async with lab:
        assert statuses(lab) == []


async def test_a_listener_that_does_not_return_keeps_no_lab_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "CLOSE_S", 0.05)
    lab, reached = Lab(f"sqlite:///{tmp_path}/lab.db"), asyncio.Event()

    class Hears(SagaListener):
        async def on_trigger_filtered(self, *_: Any) -> None:
            reached.set()
            await asyncio.sleep(3600)

    with lab.activate():

        class Watched(Saga):
            listeners = (Hears(),)

            @trigger(source="memory", topic="t")
            def on_event(self, event): ...

            @action()
            def work(self, ctx): ...

    await lab.start()
    firing = asyncio.create_task(lab.fire("Watched.on_event", {"n": 1}, id="e1"))
    await reached.wait()
    await lab.stop(grace_s=0)

    with pytest.raises(LabClosed, match="listener"):
        await asyncio.wait_for(firing, 5)
