"""A start that fails starts nothing, and one that skips what fails names it."""

import asyncio
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, action, start_triggers, trigger
from sagaz_lab.errors import (
    DefinitionError,
    LabClosed,
    SourceNotReady,
    SourceUnavailable,
    StoreUnavailable,
    UnknownName,
)
from tests.unit.tools import Taps, until


class Door:
    """A source that fails, or waits, when it is entered."""

    def __init__(self, error: BaseException | None, after_s: float = 0.0) -> None:
        self.name, self.error, self.after_s, self.entered = "door", error, after_s, 0

    async def __aenter__(self) -> "Door":
        self.entered += 1
        await asyncio.sleep(self.after_s)
        if self.error is not None:
            raise self.error
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def receive(self, limit: int) -> list[Any]:
        await asyncio.sleep(3600)
        return []

    async def settle(self, deliveries: object, outcomes: Any) -> None: ...
    async def nack(self, deliveries: object, *, delay_s: float = 0.0) -> None: ...
    async def keep_alive(self, deliveries: object) -> None: ...


def saga(name: str, **source: Any) -> type[Saga]:
    class Made(Saga):
        saga_name = name

        @trigger(**source)
        def on(self, event):
            return event.payload if isinstance(event.payload, dict) else {}

        @action("work")
        async def work(self, ctx):
            if "fails" in ctx:
                raise ValueError("no")

    return Made


def good() -> type[Saga]:
    return saga("good", source="recording", data=[{"n": n} for n in range(50)])


BAD = [
    ({"source": "kafka", "topic": "t"}, SourceNotReady),
    ({"source": "recording", "path": "/missing.jsonl"}, SourceNotReady),
    ({"source": "custom", "factory": list}, DefinitionError),
    ({"source": "custom", "factory": lambda: 1 / 0}, SourceNotReady),
    ({"source": Door(SourceNotReady("refused"))}, SourceNotReady),
    ({"source": Door(SourceNotReady("refused later"), 0.2)}, SourceNotReady),
    ({"source": Door(ValueError("odd"), 0.05)}, ValueError),
]


@pytest.mark.parametrize(("source", "error"), BAD)
@pytest.mark.parametrize("first", ["good", "bad"])
async def test_if_one_source_cannot_start_none_does(source: Any, error: type[Exception], first: str) -> None:
    async with Lab("memory") as lab:
        for make in (good, lambda: saga("bad", **source))[:: 1 if first == "good" else -1]:
            make()
        with pytest.raises(error) as raised:
            await start_triggers()
        await lab.drain()
        status = lab.status()
        assert (status.started, list(status.sources), len(lab.runs())) == (False, [], 0)
        assert "bad.on cannot start, so nothing starts" in raised.value.__notes__[0]


@pytest.mark.parametrize(("source", "error"), BAD)
async def test_with_skip_failed_the_others_start_and_the_handle_names_it(source: Any, error: type[Exception]) -> None:
    async with Lab("memory") as lab:
        good()
        saga("bad", **source)
        handle = await start_triggers(skip_failed=True)
        await lab.drain()
        assert list(handle.failed) == ["bad.on"]
        assert handle.failed["bad.on"].startswith(error.__name__)
        assert "not started: bad.on" in repr(handle)
        assert list(lab.runs()["status"]) == ["completed"] * 50


async def test_what_ran_before_runs_on_when_a_second_start_fails() -> None:
    taps = Taps()
    async with Lab("memory", sources={"memory": taps}) as lab:
        saga("good", source="memory", topic="t")
        await lab.start("good", hold=True)
        saga("bad", source="kafka", topic="t")
        with pytest.raises(SourceNotReady):
            await lab.start()
        await taps["t"].put({"fails": True}, id="e")
        await until(lambda: list(lab.runs()["status"]) == ["held"])
        assert [source.state for source in lab.status().sources] == ["connected"]
        assert taps["t"].entered == 1


async def test_no_run_is_resumed_by_a_start_that_fails(tmp_path: Any) -> None:
    store, begun = f"sqlite:///{tmp_path}/lab.db", asyncio.Event()

    def define() -> None:
        class Long(Saga):
            saga_name = "long"

            @trigger(source="memory", topic="t")
            def on(self, event):
                return {}

            @action("work")
            async def work(self, ctx):
                begun.set()
                await asyncio.sleep(3600)

    async with Lab(store) as lab:
        define()
        await lab.start()
        await lab.fire("long.on", {})
        await begun.wait()
        await lab.stop(grace_s=0.0)
    begun.clear()
    async with Lab(store) as lab:
        define()
        saga("bad", source="kafka", topic="t")
        with pytest.raises(SourceNotReady):
            await lab.start()
        assert not begun.is_set()
        await lab.start(skip_failed=True)
        await begun.wait()
        await lab.stop(grace_s=0.0)


async def test_a_start_that_failed_leaves_the_triggers_to_others(tmp_path: Any) -> None:
    store = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(store) as one, Lab(store) as other:
        with one.activate():
            saga("good", source="memory", topic="t")
            saga("bad", source="kafka", topic="t")
        with other.activate():
            saga("good", source="memory", topic="t")
        with pytest.raises(SourceNotReady):
            await one.start()
        await other.start()
        assert other.status().started


async def test_a_broker_that_does_not_answer_yet_holds_nobody_up() -> None:
    async with Lab("memory") as lab:
        good()
        saga("away", source=Door(SourceUnavailable("not yet")))
        handle = lab.start()
        await until(lambda: len(lab.runs()) == 50)
        assert handle.failed == {}


async def test_a_start_that_was_not_awaited_reports_why_nothing_runs() -> None:
    async with Lab("memory") as lab:
        good()
        saga("bad", source="kafka", topic="t")
        lab.start()
        await until(lambda: any("could not be started" in text for text in lab.status().warnings))
        assert not lab.status().started
        assert len(lab.runs()) == 0


@pytest.mark.parametrize("after_s", [0.0, 0.05])
@pytest.mark.parametrize("first", ["bad", "good"])
async def test_two_starts_at_once_do_not_concern_each_other(first: str, after_s: float) -> None:
    async with Lab("memory", sources={"memory": Taps()}) as lab:
        saga("good", source="memory", topic="t")
        saga("bad", source=Door(SourceNotReady("refused"), 0.2))
        handles = {first: lab.start(first)}
        await asyncio.sleep(after_s)
        handles["bad" if first == "good" else "good"] = lab.start("bad" if first == "good" else "good")
        with pytest.raises(SourceNotReady):
            await handles["bad"]
        await handles["good"]
        assert [(source.read_by, source.state) for source in lab.status().sources] == [(("good.on",), "connected")]
        assert lab.status().started


async def test_a_start_that_waits_for_a_slow_source_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sagaz_lab.runtime.intake.intake.ANSWER_S", 0.01)
    monkeypatch.setattr("sagaz_lab.runtime.intake.intake.SOON_S", 0.01)
    async with Lab("memory", sources={"memory": Taps()}) as lab:
        saga("good", source="memory", topic="t")
        saga("slow", source=Door(None, 3600.0))
        slow = lab.start("slow")
        await until(lambda: lab.status().started)
        await lab.start("good")
        assert [source.state for source in lab.status().sources] == ["connected"]
        await slow


async def test_a_lab_can_be_stopped_while_starts_wait_for_each_other() -> None:
    async with Lab("memory") as lab:
        good()
        saga("slow", source=Door(None, 3600.0))
        first, second = lab.start("slow"), lab.start("good")
        await until(lambda: lab.status().sources)
        async with asyncio.timeout(10):
            await lab.stop()
            await asyncio.gather(first.reads(), second.reads())
        with pytest.raises(LabClosed, match="the Lab was stopped while it was starting"):
            await second
        assert not lab.status().started


@pytest.mark.parametrize("error", [ValueError("no model file"), SystemExit(3), TypeError("no number")])
@pytest.mark.parametrize("address", ["memory", "sqlite:///{}/lab.db"])
async def test_a_saga_that_cannot_be_made_is_left_out_until_the_cause_is_cured(
    address: str, error: BaseException, tmp_path: Any
) -> None:
    lab = Lab(address.format(tmp_path))
    broken = True

    with lab.activate():
        good()

        class Model(Saga):
            saga_name = "model"

            def __init__(self) -> None:
                if broken:
                    raise error

            @trigger(source="memory", topic="t")
            def on(self, event):
                return {}

            @action("work")
            async def work(self, ctx): ...

        for _ in range(2):
            await lab.start()
            [left_out] = [text for text in lab.status().warnings if "model" in text]
            assert left_out.startswith("saga 'model' is left out: ")
            assert str(error) in left_out
            [outcome] = await lab.fire("good.on", {})
            assert outcome.kind == "started"
            with pytest.raises(UnknownName):
                await lab.fire("model.on", {})
            saga("another", source="memory", topic="u")
            await lab.fire("another.on", {})
            lab.unregister("another")

    broken = False
    await lab.start()
    [outcome] = await lab.fire("model.on", {})
    assert outcome.kind == "started"
    await lab.stop()


async def test_a_run_of_a_saga_that_cannot_be_made_waits_for_its_code(tmp_path: Any) -> None:
    gate, broken = asyncio.Event(), False

    def lab_of() -> Lab:
        lab = Lab(f"sqlite:///{tmp_path}/lab.db")
        with lab.activate():

            class Model(Saga):
                saga_name = "model"

                def __init__(self) -> None:
                    if broken:
                        raise ValueError("no model file")

                @trigger(source="memory", topic="t", max_concurrent_sagas=1)
                def on(self, event):
                    return {}

                @action("work")
                async def work(self, ctx):
                    await gate.wait()

        return lab

    first = lab_of()
    await first.start()
    for _ in range(2):
        await first.fire("model.on", {}, wait=False)
    await first.stop(grace_s=0)
    broken = True
    second = lab_of()
    await second.start()
    assert set(second.runs()["status"]) == {"needs_code"}
    async with asyncio.timeout(10):
        await second.drain()
    broken = False
    gate.set()
    await second.start()
    async with asyncio.timeout(10):
        await second.drain()
    assert set(second.runs()["status"]) == {"completed"}
    await second.stop()


async def test_a_saga_that_cannot_be_made_is_refused_by_an_open_lab() -> None:
    async with Lab("memory") as lab:
        with pytest.raises(ValueError, match="no model file"):

            class Model(Saga):
                def __init__(self) -> None:
                    raise ValueError("no model file")

        assert not lab.sagas
        assert not lab.status().warnings


@pytest.mark.parametrize("fails", ["put_clock_right", "positions", "save_revision"])
async def test_a_store_that_fails_while_a_lab_is_opened_is_closed(
    fails: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(f"sqlite:///{tmp_path}/lab.db")
    with lab.activate():
        good()

    def failing(*_: object) -> Any:
        raise StoreUnavailable("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(lab.store, fails, failing)
        with pytest.raises(StoreUnavailable, match="no space left"):
            await lab.open()
    await lab.open()
    assert lab.is_open
    await lab.stop()


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "4", None])
def test_a_number_of_live_runs_that_lets_none_start_is_refused(number: object) -> None:
    with pytest.raises(DefinitionError, match=r"max_live_runs=.* must be a whole number, 1 or more"):
        Lab("memory", max_live_runs=number)  # type: ignore[arg-type]
