"""The dashboard's side of the kernel: what it sends, when the Lab is busy and when its store fails."""

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from weakref import ref

import pytest

from sagaz_lab import Lab, Saga, action, trigger
from sagaz_lab.errors import StoreUnavailable
from sagaz_lab.notebook.busy import Watchman
from sagaz_lab.notebook.dashboard import TICK_S, Dashboard, dashboard_of
from sagaz_lab.stores.memory.store import MemoryStore
from tests.unit.tools import until


class Failing(MemoryStore):
    """Cannot be read while it fails."""

    fails = False

    def rows(self, *args: Any, **options: Any) -> Any:
        if self.fails:
            raise StoreUnavailable("it is locked")
        return super().rows(*args, **options)


class Slow(Saga, abstract=True):
    """Decides for as long as it is not told to go on."""

    goes_on = threading.Event()

    @trigger(source="memory", topic="t")
    def on_event(self, event):
        assert self.goes_on.wait(20), "only the kernel can set it"

    @action()
    def work(self, ctx): ...


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    lab = Lab(Failing())
    with lab.activate():
        type("Decides", (Slow,), {})
        yield lab
    await lab.stop()


def watched(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> tuple[Dashboard, list[dict[str, Any]]]:
    """The Lab's dashboard with a view, and what it sends."""
    dashboard, sent = dashboard_of(lab), list[dict[str, Any]]()
    monkeypatch.setattr(dashboard, "send", lambda content, buffers=None: sent.append(content))
    say(dashboard, "open")
    return dashboard, sent


def say(dashboard: Dashboard, cmd: str, **content: Any) -> None:
    hear(dashboard, {"cmd": cmd, "view": "a view", **content})


def hear(dashboard: Dashboard, content: Any) -> None:
    """As a page sends it."""
    dashboard.comm.handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


async def test_the_kernel_goes_on_while_an_isolated_lab_is_busy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    await lab.start(isolated=True)
    dashboard, sent = watched(lab, monkeypatch)
    await until(lambda: len(sent) > 2)
    Slow.goes_on.clear()
    firing = asyncio.ensure_future(lab.fire("Decides.on_event", {}))
    await asyncio.sleep(3 * TICK_S)  # in which the dashboard asks the Lab
    Slow.goes_on.set()
    assert [outcome.kind for outcome in await firing] == ["filtered"]
    dashboard.close()


async def test_it_goes_on_when_the_store_cannot_be_read_and_tells_that_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.start()
    dashboard, sent = watched(lab, monkeypatch)
    await until(lambda: sent)
    lab.store.fails = True  # type: ignore[attr-defined]
    say(dashboard, "pause", trigger="Decides.on_event")
    before = len(sent)
    await until(lambda: len(sent) > before + 6)
    assert sent[-1]["kind"] == "tick"
    assert sent[-1]["triggers"][0]["state"] == "paused"
    assert [warning for warning in lab.status().warnings if "it is locked" in warning] == [
        "the dashboard shows older data: StoreUnavailable: it is locked"
    ]
    dashboard.close()


async def test_what_is_no_order_is_passed_over(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    dashboard, sent = watched(lab, monkeypatch)
    for content in ("text", None, [1]):
        hear(dashboard, content)
    say(dashboard, "pause")
    await until(lambda: any(it["kind"] == "reply" for it in sent))
    assert failures == []
    dashboard.close()


def test_it_goes_on_on_another_loop_when_the_first_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Lab("memory")

    async def show() -> None:
        _, sent = watched(lab, monkeypatch)
        await until(lambda: len(sent) > 1)

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    first.run_until_complete(show())
    tasks = asyncio.all_tasks(first)
    first.close()  # with the task on it
    second.run_until_complete(show())
    assert [task.done() for task in tasks] == [False]
    second.run_until_complete(_closed(lab))
    second.close()


async def _closed(lab: Lab) -> None:
    dashboard_of(lab).close()
    await asyncio.sleep(0)


def test_a_loop_that_is_gone_is_not_kept() -> None:
    class Listener:
        def hear(self, busy_s: float) -> None: ...

    listener = Listener()

    async def watch() -> None:
        Watchman.of(asyncio.get_running_loop()).listen(listener.hear)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(watch())
    loop.close()
    gone = ref(loop)
    del loop
    deadline = time.monotonic() + 10
    while gone() is not None and time.monotonic() < deadline:
        time.sleep(0.05)
        gc.collect()
    assert gone() is None
