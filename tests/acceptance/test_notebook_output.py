"""What runs print in a notebook: in the background into their logs, in the foreground into the cell."""

import io
import re
import sys
import time
from contextlib import asynccontextmanager, redirect_stdout

import pytest

from sagaz_lab import Lab, Saga, TriggerConfig, action, trigger
from sagaz_lab.model.log import LINE_CHARS, LOG_LINES, RunLog
from sagaz_lab.notebook.outputs import route
from sagaz_lab.runtime.runs.logs import KEPT
from tests.acceptance.kernel import LOAD, Kernel, told
from tests.acceptance.test_notebook_background import run_notebook, text_of

TALKS = """
import asyncio, logging, sys, time, warnings
class Talks(Saga):
    saga_name = "talks"
    @trigger(source="memory", topic="talks")
    def on_event(self, event):
        return {"n": event.n}
    @action("talk")
    async def talk(self, ctx):
        for step in range(5):
            print("from the", "run", step)
            await asyncio.sleep(0.1)
        sys.stderr.write("from stderr\\n")
        logging.getLogger("mine").error("from %s", "the log")
        warnings.warn("from a warning")
        print("from the end", end="", flush=True)
"""
THREAD = """
class Thread(Saga):
    saga_name = "thread"
    @trigger(source="memory", topic="thread")
    def on_event(self, event): return {}
    @action("work", depends_on=["before"])
    def work(self, ctx):
        for step in range(5):
            print("from the thread", step)
            time.sleep(0.1)
        raise ValueError("on purpose")
    @action("before")
    async def before(self, ctx): ...
    @compensate("before")
    async def undo(self, ctx):
        print("from the undoing")
"""


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


def everything(result):
    return result.stdout + result.stderr


def when_idle(kernel):
    """Runs short cells until nothing is under way; returns what they showed."""
    shown = ""
    for n in range(200):
        result = kernel.run(f"print('cell {n}', len(default_lab().status().runs), 'live')")
        shown += everything(result)
        if " 0 live" in result.stdout:
            return shown
        time.sleep(0.05)
    raise AssertionError("the runs did not end")


def run_id(kernel):
    return kernel.run("print(default_lab().runs().run_id[0])").stdout.strip()


def test_what_a_background_run_prints_is_in_its_log_and_in_no_cell(kernel):
    cells = [kernel.send("import logging; logging.basicConfig()"), kernel.send(TALKS), kernel.send("%triggers start")]
    cells += [kernel.send('%triggers fire talks.on_event {"n": 1}')]
    results = [kernel.result(cell) for cell in cells]
    shown = when_idle(kernel) + "".join(map(everything, results))
    assert "cell 3" in shown
    assert "from" not in shown
    one = kernel.run(f"%triggers tail {run_id(kernel)}").stdout.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d (INFO|WARNING|ERROR) ", line) for line in one)
    said = [re.sub(r"^\S+ +", "", line) for line in one]
    assert said[:5] == [f"INFO    talk: from the run {step}" for step in range(5)]
    assert said[5:7] == ["WARNING talk: from stderr", "ERROR   talk: ERROR:mine:from the log"]
    assert any(re.match("WARNING talk: .*UserWarning: from a warning", line) for line in said)
    assert said[-1] == "INFO    talk: from the end"
    assert kernel.run("%triggers tail --lines 1").stdout.endswith(f"INFO    {run_id(kernel)} talk: from the end\n")


def test_a_log_record_goes_to_the_log_though_its_stream_was_taken_before_the_extension_was_loaded(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run("import logging; logging.basicConfig()").ok
        assert kernel.run(LOAD).ok
        shown = everything(kernel.run(TALKS)) + everything(kernel.run('%triggers fire talks.on_event {"n": 1}'))
        assert "from" not in shown + when_idle(kernel)
        assert "ERROR:mine:from the log" in kernel.run("%triggers tail").stdout
        assert "by a cell" in kernel.run("logging.warning('by a cell')").stderr
        kernel.run("%unload_ext sagaz_lab")
        assert kernel.run("print(type(logging.getLogger().handlers[0].stream) is type(sys.stderr))").stdout == "True\n"


def test_a_thread_and_a_compensation_of_the_background_print_into_the_log(kernel):
    kernel.run("import time\n" + THREAD)
    shown = everything(kernel.run("%triggers fire thread.on_event {}"))
    shown += everything(kernel.run("time.sleep(1); print('slept')")) + when_idle(kernel)
    assert "slept" in shown
    assert "from" not in shown
    kept = "str([[one.bundle for one in cell] for cell in get_ipython().history_manager.outputs.values()])"
    assert kernel.run(f"kept = {kept}; print('slept' in kept, 'from the' in kept)").stdout == "True False\n"
    lines = kernel.run("%triggers tail").stdout
    assert lines.count("work: from the thread") == 5
    assert "before: from the undoing" in lines


def test_a_run_that_a_cell_awaits_prints_into_that_cell(kernel):
    kernel.run(TALKS)
    result = kernel.run("await Talks().run({'n': 1}); None")
    assert result.stdout == "".join(f"from the run {step}\n" for step in range(5)) + "from the end"
    assert "from stderr" in result.stderr
    assert kernel.run("%triggers tail").stdout == "no run has any output\n"


def test_a_notebook_run_without_a_front_end_has_it_in_the_cell_of_the_tail(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    cells = [LOAD, TALKS, '%triggers fire talks.on_event {"n": 1}', "%triggers wait until idle --timeout 20",
             "%triggers tail"]  # fmt: skip
    notebook = run_notebook(cells, tmp_path)
    assert "from the run" not in "".join(map(text_of, notebook.cells[:-1]))
    assert text_of(notebook.cells[-1]).count("from the run") == 5


def test_much_output_stays_small_and_the_kernel_answers(kernel):
    kernel.run("""
class Much(Saga):
    saga_name = "much"
    @trigger(source="memory", topic="much")
    def on_event(self, event): return {}
    @action("print")
    def work(self, ctx):
        for n in range(100_000):
            print("line", n)
""")
    shown = everything(kernel.run("%triggers fire much.on_event {}")) + when_idle(kernel)
    assert "line" not in shown
    assert kernel.run("(log,) = default_lab().logs().values(); print(len(log), log[-1])").stdout == (
        f"{LOG_LINES} ('print', 'line 99999')\n"
    )
    assert len(kernel.run("%triggers tail").stdout.splitlines()) == 50


def test_the_streams_stay_the_kernels_and_are_given_back(kernel):
    told_before = "from ipykernel.iostream import OutStream; import sys\nprint(type(sys.stdout), type(sys.stderr))"
    kernel.run("%unload_ext sagaz_lab")
    before = kernel.run(told_before).stdout
    kernel.run("%load_ext sagaz_lab")
    kernel.run("first = sys.stdout\n%reload_ext sagaz_lab")
    assert "Router" in kernel.run(told_before).stdout
    facts = "isinstance(sys.stdout, OutStream), sys.stdout.encoding, sys.stdout.isatty()"
    assert kernel.run(facts).text == "(True, 'UTF-8', False)"
    kernel.run("%unload_ext sagaz_lab")
    assert kernel.run(told_before).stdout == before
    assert kernel.run("print('kept', file=first)").stdout == "kept\n"


def test_what_tail_takes(kernel):
    assert told(kernel.run("%triggers tail nosuch")).startswith("UsageError: %triggers tail: no run 'nosuch' is kept")
    assert "takes a number above 0" in told(kernel.run("%triggers tail --lines 0"))
    kernel.run(TALKS)
    kernel.run("await default_lab().fire('talks.on_event', {'n': 1})")
    when_idle(kernel)
    assert kernel.completions("%triggers tail ") == [f"%triggers tail {run_id(kernel)}"]
    assert kernel.completions("%triggers tail --") == ["%triggers tail --lines"]
    assert "stdout, stderr, logging" in kernel.run("%triggers help tail").stdout


# --- without a kernel ---


@asynccontextmanager
async def routed():
    """Not a fixture: pytest changes the streams between those and the test."""
    stream = io.StringIO()
    with redirect_stdout(stream):
        undo = route()
        yield stream
        undo()
        assert sys.stdout is stream


async def test_each_run_has_its_own_log_and_the_last_hundred_are_kept():
    lab = Lab(store="memory")
    with lab.activate():

        class Speaker(Saga):
            saga_name = "speaker"

            @trigger(source="memory", topic="speaker")
            def on_event(self, event):
                return {"n": event["n"]}

            @action("speak")
            async def speak(self, ctx):
                print("number", ctx["n"])

    async with lab, routed() as stdout:
        for n in range(KEPT + 5):
            await lab.fire("speaker.on_event", {"n": n})
        await lab.drain()
        logs = list(lab.logs().values())
    assert logs == [[("speak", f"number {n}")] for n in range(5, KEPT + 5)]
    assert stdout.getvalue() == ""
    assert list(lab.logs().values()) == logs


async def test_a_run_that_a_background_action_awaits_is_in_the_background_too():
    lab = Lab(store="memory")
    with lab.activate():

        class Inner(Saga):
            saga_name = "inner"

            @action("inside")
            def inside(self, ctx):
                print("inside")

        class Outer(Saga):
            saga_name = "outer"

            @trigger(source="memory", topic="outer")
            def on_event(self, event):
                return {}

            @action("around")
            async def around(self, ctx):
                await lab.run_saga(Inner(), {})

    async with lab, routed() as stdout:
        await lab.run_saga(Inner(), {})
        assert stdout.getvalue() == "inside\n"
        await lab.fire("outer.on_event", {})
        await lab.drain()
        assert list(lab.logs().values()) == [[("inside", "inside")]]
    assert stdout.getvalue() == "inside\n"


async def test_a_run_that_is_tried_again_goes_on_with_its_log():
    lab = Lab(store="memory", config=TriggerConfig(max_retries=1, retry_backoff_seconds=0.01))
    with lab.activate():

        class Again(Saga):
            saga_name = "again"

            @trigger(source="memory", topic="again")
            def on_event(self, event):
                return {}

            @action("fail")
            async def fail(self, ctx):
                print("tried")
                raise ValueError("no")

    async with lab, routed():
        await lab.fire("again.on_event", {})
        while [texts(log).count("tried") for log in lab.logs().values()] != [2]:
            await lab.clock.sleep(0.01)
        (log,) = lab.logs().values()
        assert texts(log).count("ValueError: no") == 2
        assert {line.level for line in log} == {"INFO", "ERROR"}


def texts(log):
    return [text for _, text in log]


def test_lines_come_whole_whatever_parts_they_are_written_in():
    log = RunLog()
    for part in ("a", " ", "b\nc", "\n\r 10%", "\r 20%\r", "done\r\nno", "thing"):
        log.write("act", "stdout", part)
    assert [text for _, text in log.lines()] == ["a b", "c", "done", "nothing"]
    assert len(log) == 3
    log.end_lines()
    assert list(log) == log.lines()


def test_a_line_without_end_is_cut():
    log = RunLog()
    for _ in range(100):
        log.write("act", "stdout", "x" * 100)
    log.write("act", "stdout", "\nnext")
    assert log.lines() == [("act", "x" * LINE_CHARS + "..."), ("act", "next")]
