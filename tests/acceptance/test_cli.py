"""The command line, as processes of their own."""

import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, skip, trigger
from sagaz_lab.cli import FAILED, LEFT, OK

PROGRAM = [str(Path(sys.executable).with_name("sagaz-lab"))]
SIGNALS = (signal.SIGINT, signal.SIGTERM)

SLOW = """
import time
from datetime import datetime, timedelta
from pathlib import Path

from sagaz_lab import Saga, action, trigger

class Slow(Saga):
    saga_name = "slow"

    @trigger(source="cron", schedule="* * * * * *")
    def on_tick(self, tick):
        return {"at": tick.scheduled_for}

    @action("work")
    def work(self, ctx):
        Path("started").touch()
        time.sleep(SECONDS)
        with Path("finished").open("a") as ledger:
            print(ctx.run_id, file=ledger)
"""


def call(folder, *arguments):
    return subprocess.run([*PROGRAM, *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def running(folder, *arguments):
    """`sagaz-lab run`, and it is gone at the end, whatever happens."""
    process = subprocess.Popen([*PROGRAM, "run", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def wait_for(condition, within_s=30.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def told(answer):
    """The one line of a command that failed."""
    assert (answer.returncode, answer.stdout) == (FAILED, "")
    (line,) = answer.stderr.splitlines()
    return line


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW.replace("SECONDS", "1.5"))
    (tmp_path / "endless.py").write_text(SLOW.replace("SECONDS", "600"))
    return tmp_path


# --- run ---


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_a_signal_lets_what_runs_finish_and_then_the_process_ends(folder, number):
    with running(folder, "slow") as process:
        wait_for((folder / "started").exists)
        assert not (folder / "finished").exists()
        process.send_signal(number)
        assert process.wait(30) == OK
    finished = (folder / "finished").read_text().split()
    runs = call(folder, "runs").stdout.splitlines()[1:]
    assert len(finished) == len(set(finished)) == len(runs) >= 1
    assert all(re.search(r"\bslow +1 +completed\b", run) for run in runs)


def test_a_run_that_takes_longer_than_the_grace_is_left_to_the_next_start(folder):
    with running(folder, "endless.py", "--grace", "0.2") as process:
        wait_for((folder / "started").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == LEFT
    assert len(call(folder, "runs", "--status", "running").stdout.splitlines()) >= 2


RETRIED = """
import logging.config

from sagaz_lab import Saga, TriggerConfig, action, trigger

logging.config.dictConfig({"version": 1, "root": {"level": "INFO"}})  # disables the loggers that it does not name

class Retried(Saga):
    saga_name = "retried"

    @trigger(source="recording", data=[{"n": 1}], config=TriggerConfig(retry_backoff_seconds=(600,)))
    def on_row(self, row):
        return {}

    @action("work")
    def work(self, ctx):
        raise ValueError("not yet")
"""


def test_a_run_that_waits_for_its_retry_is_left_and_what_was_reported_is_shown(folder):
    (folder / "retried.py").write_text(RETRIED)
    with running(folder, "retried.py", "--grace", "0.2") as process:
        wait_for(lambda: "retried" in call(folder, "runs", "--status", "waiting").stdout)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == LEFT
        assert "ValueError: not yet" in process.stderr.read()


STUBBORN = """
import asyncio, time
from pathlib import Path

from sagaz_lab import Saga, action, trigger

class Stubborn(Saga):
    saga_name = "stubborn"

    @trigger(source="recording", data=[{"n": 1}])
    def on_row(self, row):
        return {}

    @action("work")
    async def work(self, ctx):
        Path("started").touch()
        WHERE_ACTION
"""
SWALLOWS = """while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass"""


@pytest.mark.parametrize("body", [SWALLOWS, "time.sleep(3600)", "while True: pass"])
def test_the_grace_is_the_end_whatever_an_action_does(folder, body):
    text = STUBBORN.replace("WHERE_ACTION", body)
    (folder / "stubborn.py").write_text(text)
    with running(folder, "stubborn.py", "--grace", "0.1") as process:
        wait_for((folder / "started").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == LEFT
        assert "the next start resumes" in process.stderr.read()


def test_a_second_signal_does_not_wait(folder):
    with running(folder, "endless.py", "--grace", "600") as process:
        wait_for((folder / "started").exists)
        process.send_signal(signal.SIGTERM)
        while "draining" not in process.stderr.readline():
            pass
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_a_signal_while_a_source_cannot_be_reached_ends_it_too(folder):
    (folder / "away.py").write_text(
        SLOW.replace('source="cron", schedule="* * * * * *"', 'source="redis", stream="s", url="redis://127.0.0.1:1/0"')
    )
    with running(folder, "away") as process:
        wait_for((folder / ".sagaz_lab" / "lab.db").exists)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == OK


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 / 0", r"sagaz-lab: app cannot be imported: ZeroDivisionError: division by zero \(.*app.py:1\)"),
        (
            "from sagaz_lab import Batch\nBatch(3)",
            r"sagaz-lab: app cannot be imported: TypeError: Batch\(\) needs .timeout.; expected Batch.* \(.*app.py:2\)",
        ),
        ("raise SystemExit(3)", r"sagaz-lab: app cannot be imported: SystemExit: 3 .*"),
        ("x = 1", r"sagaz-lab: app defines no saga with a trigger"),
        (SLOW.replace("schedule=", "shedule="), r"sagaz-lab: .*no cron option 'shedule'; did you mean 'schedule'.*"),
        (SLOW.replace('"cron", schedule="* * * * * *"', '"kafka", topic="t"'), r"sagaz-lab: source='kafka' can be .*"),
    ],
)
def test_a_module_that_cannot_run_is_one_line(folder, text, expected):
    (folder / "app.py").write_text(text)
    assert re.fullmatch(expected, told(call(folder, "run", "app")))


ENDS = ("SystemExit(3)", "__import__('asyncio').CancelledError('x')", "GeneratorExit")


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("command", ["run", "check"])
def test_a_module_that_raises_what_is_no_exception_is_one_line(folder, command, error):
    (folder / "app.py").write_text(f"raise {error}")
    assert re.fullmatch(
        r"sagaz-lab: app cannot be imported: \w+(: .*)? \(.*app.py:1\)", told(call(folder, command, "app"))
    )


@pytest.mark.parametrize("error", [*ENDS, "ValueError('no')"])
def test_a_saga_that_cannot_be_made_is_one_line(folder, error):
    made = f"    saga_name = 'slow'\n    def __init__(self): raise {error}"
    (folder / "app.py").write_text(SLOW.replace('    saga_name = "slow"', made))
    line = told(call(folder, "run", "app"))
    assert re.match("sagaz-lab: (slow: its __init__ raises|app: a saga cannot be instantiated:)", line)
    checked = call(folder, "check", "app")
    assert (checked.returncode, checked.stderr) == (FAILED, "")
    assert "1 problem(s)" in checked.stdout


def test_a_module_that_is_not_there_is_one_line(folder):
    assert told(call(folder, "run", "nowhere")) == (
        "sagaz-lab: nowhere cannot be imported: ModuleNotFoundError: No module named 'nowhere'"
    )


# --- tables ---


@pytest.fixture
async def filled(tmp_path):
    """A folder whose store has a completed run, a failed one with its dead letter, and an event of the wrong shape."""
    lab = Lab(f"sqlite:///{tmp_path}/.sagaz_lab/lab.db", config=TriggerConfig(max_retries=0))
    async with lab:

        class Order(Saga):
            saga_name = "order"

            @trigger(source="memory", topic="orders")
            def on_order(self, event):
                if event["price"] == 0:
                    return skip("free")
                return {"price": event["price"]}

            @action("charge")
            async def charge(self, ctx):
                if ctx["price"] < 0:
                    raise ValueError("a negative price")

        for id, payload in (("good", {"price": 3}), ("bad", {"price": -3}), ("odd", {}), ("none", {"price": 0})):
            await lab.fire("order.on_order", payload, id=id)
        await lab.drain()
    return tmp_path


def test_runs_are_listed_newest_first_and_by_status(filled):
    lines = call(filled, "runs").stdout.splitlines()
    assert lines[0].split()[:4] == ["run_id", "saga", "revision", "status"]
    assert [line.split()[3] for line in lines[1:]] == ["compensated", "completed"]
    assert "ValueError: a negative price" in lines[1]
    assert len(call(filled, "runs", "--status", "completed").stdout.splitlines()) == 2
    assert len(call(filled, "runs", "--limit", "1").stdout.splitlines()) == 2
    assert call(filled, "runs", "--status", "held").stdout == "no runs\n"


def test_dead_letters_are_listed_one_by_one_and_by_cause(filled):
    lines = call(filled, "dead").stdout.splitlines()
    assert [line.split()[2] for line in lines[1:]] == ["odd", "bad"]
    causes = call(filled, "dead", "--by", "cause").stdout.splitlines()
    assert {line.split()[0] for line in causes[1:]} == {"KeyError", "ValueError"}


def test_dead_letters_are_listed_in_pages(filled):
    newest = call(filled, "dead", "--limit", "1").stdout.splitlines()[1].split()
    assert newest[2] == "odd"
    older = call(filled, "dead", "--before", newest[0]).stdout.splitlines()
    assert [line.split()[2] for line in older[1:]] == ["bad"]
    assert "--before does not go with --by cause" in told(call(filled, "dead", "--before", "x", "--by", "cause"))


FIXED = """
from sagaz_lab import Saga, action, trigger

class Order(Saga):
    saga_name = "order"

    @trigger(source="memory", topic="orders")
    def on_order(self, event):
        return {"price": event["price"]}

    @action("charge")
    async def charge(self, ctx): ...
"""


def test_dead_letters_are_redriven_by_the_code_of_a_module(filled):
    (filled / "fixed.py").write_text(FIXED)
    letters = {line.split()[2]: line.split()[0] for line in call(filled, "dead").stdout.splitlines()[1:]}
    answer = call(filled, "redrive", "fixed.py", letters["bad"])
    assert (answer.returncode, answer.stdout.splitlines()[1].split()[:3]) == (0, ["bad", "order.on_order", "started"])
    assert call(filled, "runs").stdout.splitlines()[1].split()[3] == "completed"
    again = call(filled, "redrive", "fixed.py", "--all")
    assert (again.returncode, again.stdout.splitlines()[1].split()[:3]) == (1, ["odd", "order.on_order", "dead"])
    assert "again, after redrive 1" in call(filled, "why", "odd").stdout
    assert "no open dead letter 'nosuch'" in told(call(filled, "redrive", "fixed.py", "nosuch"))
    for arguments in (["redrive", "fixed.py"], ["redrive", "fixed.py", "--all", letters["odd"]]):
        assert call(filled, *arguments).returncode == 2


def test_why_tells_what_became_of_an_event(filled):
    assert re.fullmatch(r"order.on_order r1: started, run \S+ completed\n", call(filled, "why", "good").stdout)
    assert "order.on_order r1: dead (KeyError" in call(filled, "why", "odd").stdout
    assert told(call(filled, "why", "nothing")).startswith("sagaz-lab: event nothing: not in the store")


def test_the_tables_need_no_library_of_an_extra(filled):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['pandas', 'numpy', 'pyarrow', 'IPython']))\n"
        "from sagaz_lab.cli import main\n"
        "assert [main([*line.split()]) for line in ('runs', 'dead', 'dead --by cause', 'why good')] == [0] * 4"
    )
    subprocess.run([sys.executable, "-c", program], cwd=filled, check=True, capture_output=True, timeout=60)


def test_a_store_that_is_not_there_is_one_line_and_is_not_made(tmp_path):
    assert told(call(tmp_path, "runs")) == f"sagaz-lab: no store at {tmp_path}/.sagaz_lab/lab.db"
    assert list(tmp_path.iterdir()) == []
    assert "exists only in its own process" in told(call(tmp_path, "dead", "--store", "memory"))
    assert "Connection refused" in told(call(tmp_path, "runs", "--store", "postgresql://127.0.0.1:1/db"))


def test_a_wrong_command_is_told_with_status_2(tmp_path):
    for arguments in ([], ["rums"], ["runs", "--status", "done"], ["runs", "--limit", "0"], ["why"]):
        answer = call(tmp_path, *arguments)
        assert (answer.returncode, answer.stdout) == (2, "")
        assert "error:" in answer.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["runs", "dead"])
@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "²", "-1", "1.5", "", "0"])
def test_a_limit_that_no_store_can_count_to_is_named(tmp_path, command, number):
    answer = call(tmp_path, command, f"--limit={number}")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "error: argument --limit: " in answer.stderr.splitlines()[-1]


@pytest.mark.parametrize("seconds", ["inf", "nan", "-1", "1e300", "soon", ""])
def test_a_grace_that_no_clock_can_wait_is_named(folder, seconds):
    answer = call(folder, "run", "slow", f"--grace={seconds}")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "error: argument --grace: " in answer.stderr.splitlines()[-1]
