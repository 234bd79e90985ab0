"""What goes on behind the cells: waiting for it, failures, a run without a front end, the end of the kernel."""

import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from tests.acceptance.kernel import LOAD, ROOT, Kernel, saga, told


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


# --- waiting, and what happens in the background ---


def test_wait_tells_in_its_own_cell_what_happens_in_the_background(kernel):
    kernel.run("import asyncio\n" + saga("waits", action="if ctx['n'] == 1: raise ValueError('boom')",
                                         trigger="return {'n': event.n}"))  # fmt: skip
    assert kernel.run("handle = %triggers start").ok
    kernel.run("""
async def later():
    while "wait" not in In[-1]:  # the next cell
        await asyncio.sleep(0.05)
    for n in range(3):
        await asyncio.sleep(0.2)
        await default_lab().fire("waits.on_event", {"n": n}, id=f"e{n}")
task = asyncio.create_task(later())""")
    result = kernel.run("%triggers wait 3 events --timeout 20")
    assert result.ok
    assert "e1 -> waits.on_event: started" in result.stdout
    assert "3 events: 3 started" in result.stdout
    after = kernel.run("%triggers wait until idle --timeout 20")
    assert "ValueError: boom" in result.stdout + result.stderr + after.stdout + after.stderr


def test_waiting_in_vain_is_one_line_and_waiting_for_a_time_is_not_wrong(kernel):
    kernel.run(saga("vain"))
    kernel.run("%triggers start")
    result = kernel.run("%triggers wait 2 events --timeout 0.5")
    assert told(result) == "UsageError: %triggers wait: 0 of 2 events within 0.5 s"
    assert kernel.run("%triggers wait --timeout 0.3").ok


def test_an_interrupted_wait_leaves_the_sources_running(kernel):
    kernel.run(saga("interrupted"))
    kernel.run("await default_lab().start()")
    request = kernel.send("%triggers wait")
    kernel.begins(request)
    time.sleep(1.0)
    kernel.interrupt()
    assert "interrupted; the triggers keep running" in kernel.result(request).error
    assert kernel.run("x = %triggers status\nx.started, x.sources[0].state").text == "(True, 'connected')"
    assert kernel.run("x = %triggers fire interrupted.on_event {}\nlen(x)").text == "1"


def test_the_first_failure_of_a_kind_is_shown_in_the_cell_that_started_the_triggers(kernel):
    kernel.run(saga("loud", action="raise ValueError('out loud')"))
    request = kernel.send("handle = %triggers start")
    start = kernel.result(request)
    for _ in range(2):
        assert "out loud" not in kernel.run("%triggers fire loud.on_event {}").stderr
    kernel.run("await default_lab().drain()")
    assert start.stderr.count("out loud") == 1


def test_a_notebook_run_without_a_front_end_shows_what_wait_saw(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cells = [
        LOAD,
        "%%saga\n" + saga("headless", trigger="return {'n': event.n}", action="await asyncio.sleep(0.1)"),
        "import asyncio\nhandle = %triggers start",
        """
async def later():
    while "wait" not in In[-1]:  # the next cell
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.3)
    await default_lab().fire("headless.on_event", {"n": 1}, id="of an earlier cell")
task = asyncio.create_task(later())""",
        "%triggers wait 1 event --timeout 20",
        "%triggers wait until idle --timeout 20",
        "%triggers stop",
    ]
    notebook = run_notebook(cells, tmp_path)
    assert "of an earlier cell -> headless.on_event: started" in text_of(notebook.cells[4])
    assert "1 completed" in text_of(notebook.cells[4]) + text_of(notebook.cells[5])


def test_a_mistake_stops_a_notebook_that_is_run_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(CellExecutionError):
        run_notebook([LOAD, "%triggers pause nosuch.on_event"], tmp_path)


def run_notebook(cells, folder):
    notebook = new_notebook(cells=[new_code_cell(cell.strip()) for cell in cells])
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    nbformat.validate(notebook)
    return notebook


def text_of(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


# --- the end of the kernel ---


def test_a_kernel_that_is_shut_down_lets_what_runs_finish(tmp_path):
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD)
        action = "await asyncio.sleep(1); open('done', 'w').close()"
        kernel.run("import asyncio\n" + saga("slow", action=action))
        kernel.run("%triggers start")
        assert kernel.run("%triggers fire slow.on_event {}").ok
        kernel.shut_down()
        assert (tmp_path / "done").exists()


def test_but_not_for_longer_than_a_few_seconds(tmp_path):
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD)
        kernel.run("import asyncio\n" + saga("endless", action="await asyncio.sleep(600)"))
        kernel.run("%triggers start")
        kernel.run("%triggers fire endless.on_event {}")
        began = time.monotonic()
        kernel.shut_down()
        assert time.monotonic() - began < 8
