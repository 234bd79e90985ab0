"""`%triggers start --isolated` in a real kernel: what comes while a cell blocks it, and what the cells still do."""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Event, Thread

import pytest

from tests.acceptance.kernel import LOAD, ROOT, Kernel, saga, told
from tests.acceptance.page import Page
from tests.services.redis import running_redis

EVENTS = 60

SAGA = """%%saga --quiet
class Numbers(Saga):
    saga_name = "numbers"

    @trigger(source="redis", stream="numbers", url={url!r}, idempotency_key="n")
    def on_number(self, event):
        return {{"n": event["n"]}}

    @action("note")
    async def note(self, ctx):
        await asyncio.sleep(0.02)
        with open("done.txt", "a") as done:
            done.write(f"{{ctx['n']}}\\n")
"""
START = "import asyncio, os, time\nhandle = %triggers start{option}\n(await handle).status().isolated"
BLOCK = "open('blocking', 'w').close()\nwhile not os.path.exists('go on'):\n    {how}"
SLEEPS, COMPUTES = "time.sleep(0.05)", "sum(n * n for n in range(10_000))"
RUNS = """
while len(default_lab().runs(limit=None)) < {n}:
    await asyncio.sleep(0.05)
await default_lab().drain()
runs = default_lab().runs(limit=None)
(len(runs), runs.event_id.nunique(), set(map(str, runs.status)))
"""


@pytest.fixture
def server(tmp_path):
    (tmp_path / "redis").mkdir()
    with running_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


def started(kernel, server, option):
    kernel.run(LOAD)
    assert kernel.run(SAGA.format(url=server.url)).ok
    assert kernel.run(START.format(option=option)).text == str(bool(option))


def add(server, numbers):
    with server.client() as client:
        for n in numbers:
            client.xadd("numbers", {"payload": f'{{"n": {n}}}'})


def done(folder):
    path = folder / "done.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def until(condition, within_s=60.0):
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- what it is for ---


@pytest.mark.parametrize("how", [SLEEPS, COMPUTES])
def test_what_comes_while_a_cell_blocks_is_handled_meanwhile(how, server, tmp_path):
    with Kernel(tmp_path) as kernel:
        started(kernel, server, " --isolated")
        cell = kernel.send(BLOCK.format(how=how))
        until((tmp_path / "blocking").exists)
        add(server, range(EVENTS))
        until(lambda: len(done(tmp_path)) == EVENTS)
        (tmp_path / "go on").touch()
        assert kernel.result(cell).ok
        assert kernel.run(RUNS.format(n=EVENTS)).text == f"({EVENTS}, {EVENTS}, {{'completed'}})"
    assert sorted(done(tmp_path)) == list(range(EVENTS))


@pytest.mark.parametrize("how", [SLEEPS, COMPUTES])
def test_without_it_the_same_is_handled_afterwards(how, server, tmp_path):
    with Kernel(tmp_path) as kernel:
        started(kernel, server, "")
        cell = kernel.send(BLOCK.format(how=how))
        until((tmp_path / "blocking").exists)
        add(server, range(EVENTS))
        time.sleep(2)
        assert done(tmp_path) == []
        (tmp_path / "go on").touch()
        assert kernel.result(cell).ok
        assert kernel.run(RUNS.format(n=EVENTS)).text == f"({EVENTS}, {EVENTS}, {{'completed'}})"
    assert sorted(done(tmp_path)) == list(range(EVENTS))


@contextmanager
def feeding(server):
    """Numbers from 0 on, until the block is left; gives the list of those that were added."""
    added, enough = [], Event()

    def feed():
        while not enough.wait(0.01):
            add(server, [len(added)])
            added.append(len(added))

    thread = Thread(target=feed)
    thread.start()
    try:
        yield added
    finally:
        enough.set()
        thread.join()


def test_a_kernel_that_is_shut_down_loses_nothing_and_does_nothing_twice(server, tmp_path):
    with feeding(server) as added:
        with Kernel(tmp_path) as kernel:
            started(kernel, server, " --isolated")
            until(lambda: len(done(tmp_path)) >= EVENTS)
            kernel.shut_down()
        at_the_end = len(done(tmp_path))
        until(lambda: len(added) > at_the_end + 20)
        assert len(done(tmp_path)) == at_the_end
    with Kernel(tmp_path) as kernel:
        started(kernel, server, " --isolated")
        assert kernel.run(RUNS.format(n=len(added))).text == f"({len(added)}, {len(added)}, {{'completed'}})"
    assert sorted(done(tmp_path)) == added


def test_a_kernel_that_is_killed_while_a_cell_blocks_loses_nothing(server, tmp_path):
    with feeding(server) as added:
        with Kernel(tmp_path) as kernel:
            started(kernel, server, " --isolated")
            kernel.send(BLOCK.format(how=SLEEPS))
            until(lambda: len(done(tmp_path)) >= EVENTS)
        until(lambda: len(added) > len(done(tmp_path)) + 20)
    with Kernel(tmp_path) as kernel:
        started(kernel, server, " --isolated")
        assert kernel.run(RUNS.format(n=len(added))).text == f"({len(added)}, {len(added)}, {{'completed'}})"
    assert set(done(tmp_path)) == set(added)


# --- the cells ---

TALKS = """%%saga --quiet
class Talks(Saga):
    saga_name = "talks"
    @trigger(source="memory", topic="talks")
    def on_event(self, event):
        return {"n": event.n}
    @action("here")
    async def here(self, ctx):
        for step in range(3):
            print("on the loop", step)
            await asyncio.sleep(0.05)
    @action("beside")
    def beside(self, ctx):
        print("in a thread")
        if ctx["n"] == 13:
            raise ValueError("out loud")
"""


def test_output_and_failures_are_shown_where_they_belong(kernel):
    kernel.run("import asyncio, time")
    assert kernel.run(TALKS).ok
    start = kernel.result(kernel.send("handle = %triggers start --isolated\nhandle = await handle"))
    fired = kernel.run("outcomes = await default_lab().fire('talks.on_event', {'n': 1})\nawait default_lab().drain()")
    awaited = kernel.run("context = await Talks().run({'n': 2})")
    assert awaited.stdout.splitlines().count("in a thread") == 1
    assert [f"on the loop {n}" in awaited.stdout for n in range(3)] == [True] * 3
    assert fired.ok
    assert fired.stdout == start.stdout == ""
    tail = kernel.run("%triggers tail").stdout
    assert tail.count("on the loop") == 3
    assert "beside: in a thread" in tail
    blocked = kernel.run("task = asyncio.ensure_future(default_lab().fire('talks.on_event', {'n': 13}))\n"
                         "await asyncio.sleep(0.1)\ntime.sleep(2)")  # fmt: skip
    kernel.run("await default_lab().drain()")
    assert start.stderr.count("out loud") == 1
    assert "out loud" not in blocked.stdout + blocked.stderr


def test_a_failure_is_shown_before_the_cell_that_blocks_has_ended(kernel, tmp_path):
    kernel.run("import asyncio, os, time\n" + saga("fails", action="raise ValueError('meanwhile')"))
    start = kernel.result(kernel.send("handle = %triggers start --isolated"))
    kernel.run("await handle")
    cell = kernel.send("asyncio.ensure_future(default_lab().fire('fails.on_event', {}))\nawait asyncio.sleep(0.2)\n"
                       + BLOCK.format(how=SLEEPS))  # fmt: skip
    until(lambda: kernel.receive(time.monotonic() + 30, cell) or "meanwhile" in start.stderr)
    assert not (tmp_path / "go on").exists()
    (tmp_path / "go on").touch()
    assert kernel.result(cell).ok


def test_the_magics_work(kernel):
    kernel.run("import asyncio\n" + saga("works", trigger="return {'n': event.n}", action="ctx['version'] = 1"))
    assert kernel.run("%triggers start --isolated").ok
    assert "isolated" in kernel.run("await default_lab().start(isolated=True)\n%triggers status").text
    assert told(kernel.run("%triggers start")).endswith("start with isolated=True (--isolated) too, or stop it first")
    assert "started" in kernel.run('x = %triggers fire works.on_event {"n": 1} --id one\nstr(x)').text
    changed = "%%saga\n" + saga("works", trigger="return {'n': event.n}", action="ctx['version'] = 2")
    assert kernel.run(changed).ok
    assert kernel.run("%triggers pause works.on_event").ok
    assert "paused" in kernel.run("%triggers status").text
    assert kernel.run("%triggers resume works.on_event").ok
    assert kernel.run('%triggers preview works.on_event {"n": 2}').ok
    assert "one" in kernel.run("%triggers why one").text
    assert "started" in kernel.run('x = %triggers fire works.on_event {"n": 2} --id two\nstr(x)').text
    assert kernel.run("%triggers wait until idle --timeout 30").ok
    kernel.run("""
async def later():
    while "wait" not in In[-1]:  # the next cell
        await asyncio.sleep(0.05)
    for n in range(3):
        await asyncio.sleep(0.2)
        await default_lab().fire("works.on_event", {"n": n})
task = asyncio.create_task(later())""")
    waited = kernel.run("%triggers wait 3 events --timeout 30")
    assert waited.ok
    assert "3 events: 3 started" in waited.stdout
    assert kernel.run("%triggers wait until idle --timeout 30").ok
    assert kernel.run("sorted(map(int, default_lab().runs().revision))").text == "[1, 2, 2, 2, 2]"
    assert kernel.run("default_lab().rollback('works', 1)\ndefault_lab().sagas['works'].revision").text == "1"
    assert kernel.run("n = %triggers forget works.on_event\nn").text == "2"
    assert kernel.run("%triggers stop").ok
    assert kernel.run("import threading\n[t.name for t in threading.enumerate() if 'isolated' in t.name]").text == "[]"
    assert kernel.run("%triggers start").ok


def test_the_dashboard_works(kernel):
    kernel.run("%%saga\n" + saga("shown", trigger="return {}"))
    shown = kernel.run("%triggers start --isolated")
    page = Page(kernel, shown)
    page.send("open")
    assert page.hear("full")["lab"]["isolated"]
    assert kernel.run("for n in range(3):\n    await default_lab().fire('shown.on_event', {'n': n})").ok
    until(lambda: page.trigger("shown.on_event")["counts"]["received"] == 3)
    assert page.order("pause", trigger="shown.on_event")["error"] is None
    until(lambda: page.trigger("shown.on_event")["state"] == "paused")
    assert page.order("stop")["error"] is None
    assert kernel.run("default_lab().is_open").text == "False"


def test_an_action_that_holds_up_the_isolated_loop_does_not_hold_up_cells_through_the_dashboard(kernel):
    kernel.run("import time")
    kernel.run("%%saga\n" + saga("slow", action="time.sleep(6)"))
    page = Page(kernel, kernel.run("%triggers start --isolated"))
    page.send("open")
    page.hear("full")
    kernel.run("await default_lab().fire('slow.on_event', {}, wait=False)")
    page.listen(1.0)
    begun = time.monotonic()
    assert kernel.run("1 + 1").text == "2"
    assert time.monotonic() - begun < 3
    page.hear("tick")  # it goes on when the loop does


def test_an_interrupt_ends_the_cell_and_nothing_else(kernel, tmp_path):
    kernel.run("import asyncio, os, time\n" + saga("goes_on", action="open('ran', 'w').close()"))
    kernel.run("handle = await default_lab().start(isolated=True)")
    cell = kernel.send(BLOCK.format(how=SLEEPS))
    until((tmp_path / "blocking").exists)
    kernel.interrupt()
    assert "KeyboardInterrupt" in kernel.result(cell).error
    assert kernel.run("x = %triggers status\nx.started, x.isolated, x.sources[0].state").text.startswith("(True, True")
    assert kernel.run("x = %triggers fire goes_on.on_event {}\nawait default_lab().drain()").ok
    assert (tmp_path / "ran").exists()


TERMINAL = """
%load_ext sagaz_lab
import os, time
exec({saga!r})
%triggers start --isolated
while not os.path.exists("ran"): time.sleep(0.05)
x = %triggers fire ran.on_event {{"n": 1}}
print(x[0].kind, default_lab().status().isolated)
%triggers stop
"""


def test_it_starts_in_a_terminal_whose_loop_runs_only_while_a_cell_does(tmp_path):
    text = saga("ran", action="open('ran', 'w').close()")
    text = text.replace('source="memory", topic="ran"', 'source="recording", data=[{}]')
    env = {**os.environ, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(tmp_path / ".ipython")}
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--colors=NoColor"]
    shown = subprocess.run(command, cwd=tmp_path, env=env, input=TERMINAL.format(saga=text), capture_output=True,
                           text=True, timeout=100, check=True)  # fmt: skip
    assert "started True" in shown.stdout, shown.stdout + shown.stderr


def test_the_end_of_the_kernel_lets_what_runs_finish(tmp_path):
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD)
        kernel.run("import asyncio\n" + saga("slow", action="await asyncio.sleep(1); open('done', 'w').close()"))
        kernel.run("handle = await default_lab().start(isolated=True)")
        assert kernel.run("%triggers fire slow.on_event {}").ok
        kernel.shut_down()
        assert (tmp_path / "done").exists()


@pytest.mark.parametrize("action", ["await asyncio.sleep(600)", "time.sleep(600)"])
def test_but_waits_neither_for_a_long_run_nor_for_a_thread_that_is_blocked(tmp_path, action):
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD)
        kernel.run("import asyncio, time\n" + saga("endless", action=action))
        kernel.run("handle = await default_lab().start(isolated=True)")
        kernel.run("asyncio.ensure_future(default_lab().fire('endless.on_event', {}))\nawait asyncio.sleep(1)")
        kernel.shut_down(timeout_s=30)
