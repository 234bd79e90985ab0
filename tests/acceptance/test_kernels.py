"""What the notebook promises holds on each version of ipykernel that it is for, not only on the one of .venv."""

import os
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.acceptance.kernel import LOAD, ROOT, Kernel, saga
from tests.acceptance.page import Page

VERSIONS = ("6.31.0", "7.3.0", "the newest")
CURE = "no ipykernel {} for the tests: run tools/kernels.sh, or name the folder that it prints in KERNELS"


def started(number: str, folder: Path) -> Kernel:
    if number == VERSIONS[-1]:
        return Kernel(folder)
    home = Path(os.environ.get("KERNELS", ROOT / "build" / "kernels")) / number
    assert (home / "ipykernel").is_dir(), CURE.format(number)
    return Kernel(folder, home)


@pytest.fixture(params=VERSIONS, scope="module")
def number(request):
    return request.param


@pytest.fixture(scope="module")
def kernel(number, tmp_path_factory):
    with started(number, tmp_path_factory.mktemp("kernel")) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


def test_it_is_the_version_that_it_should_be(kernel, number):
    expected = version("ipykernel") if number == VERSIONS[-1] else number
    assert kernel.run("import ipykernel\nipykernel.__version__").text == repr(expected)


def test_a_saga_cell_may_await_and_an_error_names_the_line_that_was_written(kernel):
    awaits = kernel.run("%%saga\nimport asyncio\n" + saga("awaits") + "await asyncio.sleep(0.01)\n6 * 7")
    assert (awaits.ok, awaits.text) == (True, "42")
    assert "awaits: revision 1, the first" in awaits.shown[0]["text/plain"]
    assert "----> 4 raise ValueError('here')" in kernel.run("%%saga\nx = 1\n\nraise ValueError('here')").error


def test_a_cell_that_fails_registers_nothing(kernel):
    kernel.run("%%saga\n" + saga("fails"))
    result = kernel.run("%%saga\n" + saga("fails", trigger="return {'new': 1}", after="1 / 0"))
    assert result.stderr.strip() == "nothing registered; fails stays at revision 1"
    assert kernel.run("%%saga\nclass S(Saga:\n  pass").stderr.strip() == "nothing registered"
    assert kernel.run("default_lab().sagas['fails'].revision").text == "1"


def test_triggers_start_and_fire_also_within_a_loop(kernel):
    kernel.run(saga("fires", trigger="return {} if event.score > 0.5 else skip('too low')"))
    assert kernel.run("handle = %triggers start\nawait handle\ndefault_lab().status().started").text == "True"
    cell = "for score in (0.1, 0.9):\n    x = %triggers fire fires.on_event {'score': score}\n    print(x[0].kind)"
    assert kernel.run(cell).stdout == "filtered\nstarted\n"


def test_what_a_background_run_prints_is_in_its_log_and_in_no_cell(kernel):
    talks = "print('from the loop'); import asyncio; await asyncio.sleep(0.3); print('from later')"
    thread = (
        "\n@action('thread')\ndef thread(self, ctx):\n    import time\n    time.sleep(0.2)\n    print('from a thread')"
    )
    kernel.run(saga("talks", action=talks) + thread.replace("\n", "\n    "))
    kernel.run("%triggers start")
    shown = kernel.run("%triggers fire talks.on_event {} --id told")
    strangers = [kernel.run("import time\ntime.sleep(0.1)\nawait asyncio.sleep(0.1)") for _ in range(4)]
    kernel.run("await default_lab().drain()")
    assert "from" not in "".join(result.stdout + result.stderr for result in (shown, *strangers))
    lines = kernel.run("%triggers tail").stdout
    assert all(f"from {what}" in lines for what in ("the loop", "later", "a thread"))


def test_the_first_failure_of_a_kind_is_shown_in_the_cell_that_started_the_triggers(kernel):
    kernel.run(saga("loud", action="raise ValueError('out loud')"))
    start = kernel.result(kernel.send("handle = %triggers start"))
    for _ in range(2):
        assert "out loud" not in kernel.run("%triggers fire loud.on_event {}").stderr
    kernel.run("await default_lab().drain()")
    assert start.stderr.count("out loud") == 1


def test_an_interrupted_cell_leaves_the_sources_running(kernel):
    kernel.run(saga("interrupted"))
    kernel.run("await default_lab().start()")
    for cell in ("import time\ntime.sleep(60)", "await asyncio.sleep(60)", "%triggers wait"):
        request = kernel.send(cell)
        kernel.begins(request)
        time.sleep(1.0)
        kernel.interrupt()
        assert kernel.result(request).ok is False
        assert kernel.run("{source.state for source in default_lab().status().sources}").text == "{'connected'}"
        assert kernel.run("x = %triggers fire interrupted.on_event {}\nx[0].kind.value").text == "'started'"


def test_a_dashboard_is_told_how_things_stand_and_its_orders_are_obeyed(kernel):
    kernel.run("%%saga\n" + saga("shown"))
    page = Page(kernel, kernel.run("%triggers start"))
    page.send("open")
    assert "shown" in [it["name"] for it in page.hear("full")["sagas"]]
    assert page.order("pause", trigger="shown.on_event")["error"] is None
    assert page.trigger("shown.on_event")["state"] == "paused"
    page.order("resume", trigger="shown.on_event")
    request = kernel.send("import time\ntime.sleep(4)")
    assert page.hear("busy", timeout_s=10)["busy_s"] >= 1.0
    kernel.result(request)
    page.hear("tick")
    page.send("close")


def test_a_kernel_that_is_shut_down_lets_what_runs_finish_and_closes_the_lab(number, tmp_path):
    with started(number, tmp_path) as kernel:
        kernel.run(LOAD)
        kernel.run("import asyncio\n" + saga("slow", action="await asyncio.sleep(1); open('done', 'w').close()"))
        kernel.run("%triggers start")
        assert kernel.run("%triggers fire slow.on_event {} --no-wait").ok
        began = time.monotonic()
        kernel.shut_down()
        assert time.monotonic() - began < 12
        assert (tmp_path / "done").exists()
        assert not (tmp_path / ".sagaz_lab" / "lab.db-wal").exists()
