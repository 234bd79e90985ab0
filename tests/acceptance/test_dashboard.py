"""The dashboard as the page at its other end sees it: what it is sent, when, and what its orders do."""

import time

import numpy as np
import pytest

from tests.acceptance.kernel import LOAD, Kernel, saga
from tests.acceptance.page import Page


@pytest.fixture
def kernel(tmp_path):
    with Kernel(tmp_path) as kernel:
        assert kernel.run(LOAD).ok
        yield kernel


@pytest.fixture
def page(kernel):
    """The view of a dashboard over a saga that is started."""
    kernel.run("%%saga\n" + saga("shown", trigger="return {} if event.n else skip('nothing')"))
    page = Page(kernel, kernel.run("%triggers start"))
    page.send("open")
    page.hear("full")
    return page


FLOOD = """
import asyncio
lab = default_lab()
async def flood():
    while True:
        for n in range(100):
            await lab.fire("shown.on_event", {"n": n % 10}, wait=False)
        await asyncio.sleep(0.01)
flooding = asyncio.create_task(flood())
"""


def test_at_most_ten_messages_a_second_come_however_many_events(kernel, page):
    kernel.run(FLOOD)
    page.listen(1.0)
    before, events = len(page.all), page.trigger("shown.on_event")["counts"]["received"]
    page.listen(5.0)
    assert 5 <= len(page.all) - before <= 50
    assert page.trigger("shown.on_event")["counts"]["received"] > events + 1000


def test_a_second_dashboard_takes_its_share_of_the_messages(kernel, page):
    kernel.run("second = Lab('memory')\nawait second.open()")
    other = Page(kernel, kernel.run("second.dashboard()"), "another view")
    other.send("open")
    other.hear("full")
    page.listen(1.0)
    before = len(page.all)
    page.listen(5.0)
    assert len(page.all) - before <= 50


def test_nothing_is_sent_without_a_view(kernel, page):
    page.send("close")
    page.listen(1.0)
    kernel.run("for n in range(100):\n    await default_lab().fire('shown.on_event', {'n': n})")
    before = len(page.all)
    page.listen(3.0)
    assert len(page.all) == before


def test_a_page_that_is_gone_without_a_word_is_noticed(kernel, page):
    kernel.run("import sagaz_lab.notebook.dashboard as of\nof.SILENT_S = 0.5")
    page.listen(2.0)
    before = len(page.all)
    page.listen(2.0)
    assert len(page.all) == before
    page.send("alive")
    assert page.hear("full")["sagas"][0]["name"] == "shown"


def test_news_are_numbered_and_a_page_that_missed_some_gets_everything(kernel, page):
    numbers = [news["seq"] for news in page.listen(2.0) if news["kind"] in ("full", "tick")]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    kernel.run("for n in range(20):\n    await default_lab().fire('shown.on_event', {'n': n})")
    page.listen(2.5)
    page.send("resync")
    full = page.hear("full")
    points, triggers, fields = full["series"]["points"], full["series"]["triggers"], full["series"]["fields"]
    assert points >= 3
    table = full["numbers"].reshape(points, 1 + len(triggers) * len(fields))
    assert (np.diff(table[:, 0]) > 0.5).all(), "a point a second"
    seconds = np.diff(table[:, 0], prepend=0.0)
    assert (table[:, 1 + fields.index("received")] * seconds).sum() == pytest.approx(20, rel=0.01)


def test_what_has_not_changed_is_not_sent_again(kernel, page):
    assert not any("sagas" in news or "letters" in news for news in page.listen(2.0))
    kernel.run("%%saga\n" + saga("shown", trigger="return {'edited': 1}"))
    news = page.hear("tick", timeout_s=5)
    while "sagas" not in news:
        news = page.hear("tick", timeout_s=5)
    assert [(it["revision"], [r["number"] for r in it["revisions"]]) for it in news["sagas"]] == [(2, [2, 1])]


def test_a_trigger_is_paused_and_resumed(kernel, page):
    assert page.order("pause", trigger="shown.on_event")["error"] is None
    assert page.trigger("shown.on_event")["state"] == "paused"
    page.order("resume", trigger="shown.on_event")
    assert page.trigger("shown.on_event")["state"] == "running"


def test_a_mistake_is_told_in_one_line_and_the_dashboard_goes_on(kernel, page):
    reply = page.order("pause", trigger="shown.on_evnt")
    assert "on_evnt" in reply["error"]
    assert "\n" not in reply["error"]
    assert "no order 'paus'" in page.order("paus")["error"]
    page.hear("tick")


def test_limits_and_params_are_changed(kernel, page):
    kernel.run(
        "class P(Saga):\n"
        "    @trigger(source='memory', topic='p', params={'threshold': 0.5})\n"
        "    def on_p(self, event): return {}\n"
        "    @action()\n"
        "    async def work(self, ctx): ...\n"
    )
    assert page.order("set_params", trigger="P.on_p", values={"threshold": 0.75})["error"] is None
    assert page.order("set_limits", trigger="P.on_p", values={"rate_limit_per_second": 5})["error"] is None
    shown = page.trigger("P.on_p")
    assert shown["params"] == [{"name": "threshold", "value": 0.75, "default": 0.5, "range": [0.0, 1.0, 0.01]}]
    assert shown["limits"]["rate_limit_per_second"] == {"value": 5, "default": None}
    assert shown["limits"]["max_concurrent_sagas"] == {"value": 100, "default": 100}


def test_dead_letters_are_redriven_and_discarded_by_cause(kernel, page):
    kernel.run("%%saga\n" + saga("shown", trigger="raise KeyError(event.n)"))
    kernel.run("for n in range(3):\n    await default_lab().fire('shown.on_event', {'n': n})")
    news = page.hear("tick")
    while not news.get("letters", {}).get("open"):
        news = page.hear("tick")
    (cause,) = news["letters"]["causes"]
    assert cause["count"] == 3
    kernel.run("%%saga\n" + saga("shown", trigger="return {} if event.n else 1 / 0"))
    assert page.order("redrive", cause=cause["cause"])["result"] == {"count": 3}
    while [it["count"] for it in news.get("letters", {}).get("causes", ())] != [1]:
        news = page.hear("tick")
    (left,) = news["letters"]["causes"]
    assert page.order("discard", cause=left["cause"], reason="a test")["result"] == {"count": 1}
    assert kernel.run("len(default_lab().dead_letters())").text == "0"


def test_a_run_is_shown_with_its_actions_its_progress_and_its_log(kernel, page):
    act = "print('hello'); ctx.progress(3, 10, 'epochs'); import asyncio; await asyncio.sleep(60)"
    kernel.run("%%saga\n" + saga("shown", action=act))
    before = time.time()
    kernel.run("await default_lab().fire('shown.on_event', {}, wait=False)")
    news = page.hear("tick")
    while not (news["runs"] and news["runs"][0]["actions"][0]["start"] is not None):
        news = page.hear("tick")
    (run,) = news["runs"]
    (act,) = run["actions"]
    assert (act["name"], act["state"], act["note"], act["end"]) == ("act", "running", "3 of 10 epochs", None)
    [[at, *line]] = page.order("log", run_id=run["run_id"])["result"]["lines"]
    assert line == ["INFO", "act", "hello"]
    assert before <= at <= time.time()
    page.order("compensate_run", run_id=run["run_id"])
    while news["runs"]:
        news = page.hear("tick")


def test_a_held_run_is_resumed_with_the_next_revision(kernel, page):
    held = saga("shown", action="raise ValueError('no')").replace("saga_name", "on_failure = 'hold'\n    saga_name")
    kernel.run("%%saga\n" + held)
    kernel.run("await default_lab().fire('shown.on_event', {})")
    news = page.hear("tick")
    while not news["held_runs"]:
        news = page.hear("tick")
    (run,) = news["held_runs"]
    assert (run["status"], run["error"]) == ("held", "ValueError: no")
    kernel.run("%%saga\n" + held.replace("raise ValueError('no')", "return {}"))
    assert page.order("resume_run", run_id=run["run_id"])["result"] == {"status": "completed"}
    while news["held_runs"]:
        news = page.hear("tick")


def test_an_earlier_revision_is_looked_at_and_made_current(kernel, page):
    kernel.run("%%saga\n" + saga("shown", trigger="return {'edited': 1}"))
    lines = page.order("diff", saga="shown", old=1, new=2)["result"]["lines"]
    assert any(line.startswith("+") and "edited" in line for line in lines)
    assert page.order("rollback", saga="shown", number=1)["error"] is None
    assert kernel.run("default_lab().sagas['shown'].revision").text == "1"


def test_a_cell_that_blocks_the_kernel_is_told_while_it_does(kernel, page):
    request = kernel.send("import time\ntime.sleep(4)")
    assert page.hear("busy", timeout_s=10)["busy_s"] >= 1.0
    kernel.result(request)
    page.hear("tick")


def test_a_picture_with_its_date_is_kept_for_a_page_without_a_kernel(kernel, page):
    _, picture = kernel.run("%triggers dashboard").shown
    assert "as of 20" in picture["text/plain"]
    assert "shown.on_event" in picture["text/html"]
    page.listen(2.0)
    kernel.run("await default_lab().fire('shown.on_event', {'n': 1})")
    page.listen(15.0)
    assert any("shown.on_event" in text and "throughput" in text for text in page.pictures)


def test_what_a_run_prints_that_is_resumed_from_the_page_is_in_its_log(kernel, page):
    kernel.run("""%%saga
class Holds(Saga):
    on_failure = "hold"

    @trigger(source="memory", topic="holds")
    def on_event(self, event):
        return {}

    @action()
    def work(self, ctx):
        print("try", mended)
        if not mended:
            raise ValueError("not yet")
""")
    run_id = kernel.run("mended = False\nprint((await default_lab().fire('Holds.on_event'))[0].run_id)").stdout.split()[
        0
    ]
    kernel.run("await default_lab().drain()\nmended = True")
    assert page.order("resume_run", run_id=run_id)["result"] == {"status": "completed"}
    lines = page.order("log", run_id=run_id)["result"]["lines"]
    first, *failure, last = [line[1:] for line in lines]
    assert (first, last) == (["INFO", "work", "try False"], ["INFO", "work", "try True"])
    assert {(level, action) for level, action, _ in failure} == {("ERROR", "work")}
    head, place, code, error = [text for _, _, text in failure]
    assert (head, code) == ("Traceback (most recent call last):", '    raise ValueError("not yet")')
    assert place.endswith("line 13, in work")
    assert error == "ValueError: not yet"
    assert [line[0] for line in lines] == sorted(line[0] for line in lines)
