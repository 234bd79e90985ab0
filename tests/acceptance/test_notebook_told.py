"""What a cell is told of its mistakes and of what it has started: one line, and the truth."""

import pytest

from tests.acceptance.kernel import LOAD, Kernel, saga, told


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    with Kernel(tmp_path_factory.mktemp("notebook")) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


@pytest.fixture
def kernel_of_its_own(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


# --- what is started ---


def test_firing_into_a_paused_trigger_is_one_line(kernel):
    kernel.run(saga("paused"))
    kernel.run("%triggers pause paused.on_event")
    for line in ("paused.on_event {}", "memory topic=paused {} --no-wait"):
        assert "paused.on_event is paused and takes no event" in told(kernel.run(f"%triggers fire {line}"))
    kernel.run("%triggers resume paused.on_event")
    assert "started" in kernel.run("%triggers fire paused.on_event {}").text


def test_waiting_for_events_counts_from_now(kernel):
    kernel.run(saga("counts"))
    for n in range(3):
        kernel.run(f"%triggers fire counts.on_event {{}} --id before-{n}")
    mistake = kernel.run("%triggers wait 1 event --timeout 1")
    assert mistake.stderr.splitlines()[-1] == "UsageError: %triggers wait: 0 of 1 events within 1 s"
    assert "before-0 -> counts.on_event" in mistake.stdout  # what came before is still told
    later = "import asyncio\nasyncio.get_running_loop().call_later(0.5, lambda: asyncio.ensure_future("
    kernel.run(later + "default_lab().fire('counts.on_event', {})))")
    assert "1 event: 1 started" in kernel.run("%triggers wait 1 event --timeout 20").stdout


def test_the_picture_of_a_start_says_that_it_is_starting_and_then_that_it_has(kernel_of_its_own):
    kernel = kernel_of_its_own
    kernel.run(saga("drawn"))
    shown = [data["text/plain"] for data in kernel.run("%triggers start").shown]
    assert "starting, 0 runs in flight" in shown[-1]
    look = "from sagaz_lab.notebook.dashboard import dashboard_of as d\nd(default_lab())._picture()['text/plain']"
    kernel.run("%triggers wait until idle")
    assert "started, 0 runs in flight" in kernel.run(look).text
