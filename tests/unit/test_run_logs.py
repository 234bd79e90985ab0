"""The log of a run: when, how grave, who and what; kept with the run, and gone with it."""

import asyncio
from pathlib import Path

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, compensate, trigger
from sagaz_lab.model import log as logs
from sagaz_lab.model.log import RunLog
from sagaz_lab.runtime.runs.logs import Keeper
from sagaz_lab.testing.clock import VirtualClock
from tests.unit.tools import until


def define() -> type[Saga]:
    class Talks(Saga):
        saga_name = "talks"
        trigger_config = TriggerConfig(max_retries=0)

        @trigger(source="memory", topic="talks")
        def on_event(self, event):
            return {"fails": event["fails"]}

        @action("talk")
        async def talk(self, ctx):
            ctx.log("loss", 0.25)
            ctx.log("careful", level="WARNING")

        @compensate("talk", max_retries=0)
        async def hush(self, ctx):
            ctx.log("hushed")

        @action("end", depends_on="talk")
        async def end(self, ctx):
            if ctx["fails"]:
                raise ValueError("on purpose")

    return Talks


async def run_one(lab: Lab, *, fails: bool = False) -> str:
    (outcome,) = await lab.fire("talks.on_event", {"fails": fails})
    await lab.drain()
    return outcome.run_id or ""


async def test_a_line_has_a_time_and_a_level(lab: Lab) -> None:
    define()
    (lines,) = [lines for run, lines in lab.logs().items()] or [lab.run(await run_one(lab)).log]
    assert list(lines) == [("talk", "loss 0.25"), ("talk", "careful")]
    assert [line.level for line in lines] == ["INFO", "WARNING"]
    assert lines[0].at <= lines[1].at


async def test_a_failure_is_in_the_log_with_its_traceback(each_lab: Lab) -> None:
    define()
    run_id = await run_one(each_lab, fails=True)
    lines = each_lab.logs()[run_id]
    errors = [text for line in lines for _, text in [line] if line.level == "ERROR"]
    assert errors[0].startswith("Traceback")
    assert errors[-1] == "ValueError: on purpose"
    assert lines[-1] == ("talk", "hushed")


async def test_logs_outlive_the_process(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address) as lab:
        define()
        run_id = await run_one(lab, fails=True)
        before = lab.run(run_id).log
    async with Lab(address) as again:
        after = again.run(run_id).log
        assert list(after) == list(before)
        assert [(line.at, line.level) for line in after] == [(line.at, line.level) for line in before]


async def test_what_a_run_has_logged_before_its_process_dies_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sagaz_lab.runtime.heartbeat.HEARTBEAT_S", 0.05)  # the logs are kept with it
    address = f"sqlite:///{tmp_path}/lab.db"
    gate = asyncio.Event()
    async with Lab(address) as lab:

        class Long(Saga):
            @action("work")
            async def work(self, ctx):
                ctx.log("half way")
                await gate.wait()

        running = asyncio.create_task(Long().run(run_id="long"))
        await until(lab.logs)
        await until(lambda: list(Lab(address).run("long").log) == [("work", "half way")])
        gate.set()
        await running


async def test_a_run_that_is_tried_again_after_a_restart_goes_on_with_its_log(tmp_path: Path) -> None:
    address, clock = f"sqlite:///{tmp_path}/lab.db", VirtualClock()
    tried = []

    def again() -> None:
        class Again(Saga):
            saga_name = "again"
            trigger_config = TriggerConfig(max_retries=1, retry_backoff_seconds=(60.0,))

            @trigger(source="memory", topic="again")
            def on_event(self, event):
                return {}

            @action("try")
            async def once(self, ctx):
                tried.append(ctx.run_id)
                ctx.log("trial", len(tried))
                if len(tried) == 1:
                    raise ValueError("no")

    async with Lab(address, clock=clock) as lab:
        again()
        await lab.fire("again.on_event", {})
        await lab.drain()
    async with Lab(address, clock=clock) as lab:
        again()
        await lab.start()
        while len(tried) < 2:
            await clock.advance(61.0)
            await asyncio.sleep(0.01)
        await lab.drain()
        texts = [text for _, text in lab.run(tried[0]).log]
    assert [text for text in texts if text.startswith("trial")] == ["trial 1", "trial 2"]


async def test_a_run_that_only_failed_needs_no_file(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address):

        class Fails(Saga):
            @action("work")
            async def work(self, ctx):
                raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            await Fails().run(run_id="fails")
    assert not list(tmp_path.rglob("log.json"))
    lines = Lab(address).run("fails").log
    assert lines[-1] == ("work", "ValueError: no")
    assert lines[-1].level == "ERROR"


async def test_a_log_goes_with_its_run(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    async with Lab(address, config=TriggerConfig(event_retention_days=1e-9)) as lab:
        define()
        await run_one(lab)
        await until(lambda: list(tmp_path.rglob("log.json")))
        while list(tmp_path.rglob("log.json")):  # it is older than the retention at once
            await lab.store.heartbeat()


async def test_a_display_without_any_line_is_seen_too(lab: Lab) -> None:
    class Shows(Saga):
        @action("show")
        async def show(self, ctx):
            ctx.log_lines = RunLog()
            ctx.log_lines.display("show", {"text/plain": "a picture"})

    await Shows().run(run_id="shows")
    assert lab.logs() == {"shows": []}
    assert [one.data for one in lab.run("shows").displays] == [{"text/plain": "a picture"}]


def test_a_log_is_readable_by_its_user_only(tmp_path: Path) -> None:
    from sagaz_lab.stores.sql.log_files import LogFiles
    from sagaz_lab.stores.values.artifacts import Artifacts

    files = LogFiles(Artifacts(tmp_path / "artifacts", tmp_path / "lab.db.key"))
    files.write("r", b"{}")
    (path,) = tmp_path.rglob("log.json")
    assert path.stat().st_mode & 0o077 == path.parent.stat().st_mode & 0o077 == 0


def test_a_damaged_log_is_none_and_a_disk_that_is_full_is_reported() -> None:
    told: list[str] = []

    class Full:
        def write(self, run_id: str, text: bytes) -> None:
            raise OSError("no space left")

        def read(self, run_id: str) -> bytes | None:
            return b"{not json"

    keeper, log = Keeper(Full(), lambda kind, text: told.append(text)), RunLog()
    log.add("act", "line")
    keeper.put("r", log)
    keeper.flush(10)
    assert keeper.read("r") is None
    assert told == ["the log of run r could not be stored: OSError: no space left"]


def test_displays_are_bounded_and_those_of_one_id_replace_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "DISPLAYS_BYTES", 100)
    log = RunLog()
    log.display("act", {"text/plain": "0 %"}, "bar")
    log.display("act", {"text/plain": "100 %"}, "bar")
    assert [one.data["text/plain"] for one in log.displays] == ["100 %"]
    for n in range(50):
        log.display("act", {"text/plain": f"{n:030}"})
    assert [int(one.data["text/plain"]) for one in log.displays] == [47, 48, 49]
