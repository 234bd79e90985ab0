"""The live dashboard: a widget that shows a Lab and takes commands. Without a view it sends nothing.

Kernel and page exchange JSON. The kernel sends `full` (the whole state) and `tick` (the current state and new points),
numbered by `seq` so that the page can detect a gap and request a `full`; `busy` while a cell blocks the kernel; and a
`reply` to each command. The series are one float32 buffer with times relative to their start, since float32 cannot
represent seconds since 1970.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, tzinfo
from functools import cache, partial
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import anywidget
from IPython.display import DisplayHandle, display

from sagaz_lab.errors import describe
from sagaz_lab.hosting.handle import Handle
from sagaz_lab.lab import Lab
from sagaz_lab.notebook.busy import Watchman
from sagaz_lab.notebook.feed import Feed, State
from sagaz_lab.notebook.orders import execute
from sagaz_lab.notebook.picture import picture
from sagaz_lab.texts import masked_address

TICK_S = 0.25
MESSAGES_PER_S = 8.0
"""Messages per second of the whole kernel, for all dashboards together: the Jupyter server drops messages over its
limit, 1,000 a second of all kinds. Two a second remain for replies and for a busy kernel."""

SAMPLE_S = 1.0
EVERY_S = {"sample": SAMPLE_S, "look": 1.0, "refresh": 5.0, "still": 10.0}
"""Intervals: a point of the series; reading live runs; reading failures; the saved picture."""

PICTURES = 5
"""The latest pictures of a dashboard, kept up to date so that a saved notebook shows the last state."""

IDLE_S = 60.0
"""After this long without a view and an open Lab the dashboard sleeps until the next view."""

SILENT_S = 35.0
"""A view silent for this long is gone: its page was closed without a message."""

UPLOT = "uplot-1.6.32.min.js"
SCRIPTS = ("nodes.js", "feed.js", "chart.js", "controls.js", "triggers.js", "runs.js", "dashboard.js")

_live: set[Dashboard] = set()
"""The dashboards with a view, which share the kernel's messages."""


@cache
def static(name: str) -> str:
    return (files("sagaz_lab.notebook") / "static" / name).read_text("utf-8")


@cache
def script() -> str:
    """All scripts as one, so that the page loads nothing. Each notebook saves a copy, so comments and indents of ours
    are removed."""
    lines = (line.strip() for name in SCRIPTS for line in static(name).splitlines())
    return "\n".join((static(UPLOT), *(line for line in lines if line and not line.startswith("//"))))


class Dashboard(anywidget.AnyWidget):
    """One per Lab, with a view in each cell that shows it."""

    _esm = script()
    _css = static("dashboard.css")

    def __init__(self, lab: Lab) -> None:
        super().__init__()
        self._lab = lab
        self._feed = Feed(lab)
        self._zone: tzinfo = UTC
        """The time zone of the last active page, for the picture."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handle: Handle | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._views: dict[str, float] = {}
        self._seq = 0
        self._wanted = asyncio.Event()
        """A view has requested a `full`."""
        self._due = dict.fromkeys(EVERY_S, 0.0)
        self._sent: State = {}
        self._sent_until = 0.0
        self._orders: set[asyncio.Task[None]] = set()
        self._pictures: deque[DisplayHandle] = deque(maxlen=PICTURES)
        self.on_msg(self._hear)

    def begin(self) -> None:
        """Serve views on the running loop; without one, as in a terminal, only the picture is shown."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        Watchman.of(self._loop).listen(self._busy)
        if self._ticking is None or self._ticking.done() or self._ticking.get_loop() is not self._loop:
            self._wanted = asyncio.Event()
            self._ticking = self._loop.create_task(self._tick_on(), name="dashboard")
            self._ticking.add_done_callback(self._ended)

    def _ipython_display_(self) -> None:
        """Display the widget and a dated picture, which the page hides while it has the widget."""
        self.begin()
        shown = self._repr_mimebundle_()
        widget = shown[0] if isinstance(shown, tuple) else shown
        display({**(widget or {}), "text/plain": f"dashboard of {masked_address(self._lab.store.url)}"}, raw=True)
        self._pictures.append(display(self._picture(), raw=True, display_id=True))

    def _picture(self) -> Mapping[str, str]:
        starting = self._handle is not None and self._handle.is_starting
        still = picture(self._lab, self._feed, self._zone, starting=starting)
        return {"text/html": still.html, "text/plain": still.text}

    def show_start(self, handle: Handle) -> None:
        """Display it now and update the picture after the start, so that a saved notebook shows its result."""
        self._handle = handle
        self._ipython_display_()
        if handle.is_starting and self._loop is not None:
            handle.then(partial(self._loop.call_soon_threadsafe, self._redraw))

    def _redraw(self) -> None:
        for shown in self._pictures:
            shown.update(self._picture(), raw=True)

    async def _drawn(self) -> Mapping[str, str]:
        return self._picture()

    # --- to the page ---

    async def _tick_on(self) -> None:
        idle_at = time.monotonic() + IDLE_S
        while (now := time.monotonic()) < idle_at:
            if self._views or self._lab.is_open:
                idle_at = now + IDLE_S
            for view in [view for view, heard in self._views.items() if now - heard > SILENT_S]:
                del self._views[view]
            _live.add(self) if self._views else _live.discard(self)
            await self._tick(now)
            pause_s = max(TICK_S, len(_live) / MESSAGES_PER_S) if self._views else SAMPLE_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wanted.wait()

    async def _tick(self, now: float) -> None:
        """An isolated Lab is read on its own thread, so that a delay there does not block the kernel."""
        seen = bool(self._views)
        asked = {name: (seen or name == "sample") and now >= self._due[name] for name in ("sample", "look", "refresh")}
        full = self._wanted.is_set()
        self._wanted.clear()
        asked["refresh"] = asked["refresh"] or (full and seen)
        if not (seen or asked["sample"]):
            return
        draw, there = seen and now >= self._due["still"], self._lab.isolated.await_there
        try:
            state = await there(partial(self._feed.now, **asked))
            drawn = await there(self._drawn) if draw else None
        except asyncio.CancelledError:  # the Lab is no longer isolated
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            return
        self._due.update((name, now + EVERY_S[name]) for name, done in asked.items() if done)
        if self._views:
            self._send_state(state, full=full)
        if drawn is not None:
            self._due["still"] = now + EVERY_S["still"]
            for shown in self._pictures:
                shown.update(drawn, raw=True)

    def _send_state(self, state: State, *, full: bool) -> None:
        """Send a `full` or a `tick`."""
        before, names = self._sent, [trigger["name"] for trigger in state["triggers"]]
        full = full or names != [trigger["name"] for trigger in before.get("triggers", ())]
        series, numbers = self._feed.series(0.0 if full else self._sent_until)
        self._sent, self._sent_until = state, self._feed.newest
        if not full:
            state = {name: value for name, value in state.items()
                     if name not in ("sagas", "letters") or value is not before[name]}  # fmt: skip
        self._seq += 1
        content = {"kind": "full" if full else "tick", "seq": self._seq, **state, "series": series}
        self.send(content, [numbers] if numbers else None)

    def _busy(self, busy_s: float) -> None:
        """Called on the watchman's thread while the loop is blocked."""
        if self._views:
            self.send({"kind": "busy", "busy_s": round(busy_s, 1)})

    def _ended(self, task: asyncio.Task[None]) -> None:
        _live.discard(self)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lab.report("dashboard", f"the dashboard has stopped: {describe(error)}")

    # --- from the page ---

    def _hear(self, _: object, content: Mapping[str, Any], buffers: object) -> None:
        """Handle a message from the page, on any thread."""
        if isinstance(content, Mapping) and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take, content)

    def _take(self, content: Mapping[str, Any]) -> None:
        view, order = str(content.get("view")), content.get("cmd")
        if order == "close":
            self._views.pop(view, None)
            return
        if "zone" in content:
            self._zone = _zone_named(content["zone"])
        is_new = view not in self._views
        self._views[view] = time.monotonic()
        self.begin()
        if is_new or order == "resync":
            self._wanted.set()
        if order not in ("open", "alive", "resync"):
            assert self._loop is not None
            task = self._loop.create_task(self._obey(view, content), name=f"dashboard: {order}")
            self._orders.add(task)
            task.add_done_callback(self._orders.discard)

    async def _obey(self, view: str, content: Mapping[str, Any]) -> None:
        reply: State = {"kind": "reply", "view": view, "id": content.get("id"), "error": None, "result": None}
        try:
            reply["result"] = await execute(self._lab, content)
        except Exception as error:
            reply["error"] = " ".join(describe(error).split())
        self.send(reply)
        self._due["refresh"] = 0.0

    def close(self) -> None:
        """Remove it from all pages. `lab.dashboard()` creates a new one."""
        _dashboards.pop(self._lab, None)
        self._views.clear()
        if self._ticking is not None:
            self._ticking.cancel()
        super().close()


def _zone_named(name: object) -> tzinfo:
    """UTC if the zone is unknown here."""
    with suppress(ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(str(name))
    return UTC


_dashboards: dict[Lab, Dashboard] = {}


def dashboard_of(lab: Lab) -> Dashboard:
    """The Lab's dashboard, created on first use."""
    if lab not in _dashboards:
        _dashboards[lab] = Dashboard(lab)
    _dashboards[lab].begin()
    return _dashboards[lab]
