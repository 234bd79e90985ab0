"""tools/timelines.py: draws docs/images/flow/*.svg, each from what a Lab did in virtual time.

Nothing in a picture is made up: when an event came, what became of it, how many waited, when a run started, was
undone and ended is what was seen while the panel's events were fired. Only the length of a cooldown is drawn from its
setting. `tools/docs.py` writes the pictures.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from sagaz_lab import (
    Batch,
    Debounce,
    Lab,
    Saga,
    Throttle,
    TriggerConfig,
    absent,
    action,
    all_of,
    any_of,
    compensate,
    sequence,
    trigger,
)
from sagaz_lab.testing.clock import VirtualClock

# --- what is played ---

UNITS_S = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Panel:
    """One trigger and the events it is given, as "label@time" or "label@time:topic", in `unit`.

    The letters of a label are the event's key, its digits its number. A run takes `run`, to undo it takes `undo`.
    With `high` a second trigger of that priority gets the events of the topic "high".
    """

    title: str
    events: str
    options: Mapping[str, Any]
    until: float
    unit: str = "s"
    tick: float = 1.0
    run: float = 3.0
    undo: float = 0.0
    topics: Sequence[str] = ("events",)
    lab: Mapping[str, Any] = field(default_factory=dict)
    high: int | None = None
    span: tuple[str, float] | None = None
    """A period that begins with each run, and what it is called."""
    by_key: bool = False
    """A line of runs for each key."""


@dataclass
class Came:
    """An event: when, on which line, and in the end what became of it."""

    label: str
    key: str
    at: float
    topic: str
    outcome: str = ""
    run_id: str | None = None


@dataclass
class Ran:
    """A run: when it started, began to be undone and ended; `until` the end of the picture if it was not over."""

    run_id: str
    label: str
    key: str
    start: float
    undone: float | None = None
    end: float | None = None


Stretch = tuple[float, float, int]
"""From, to, how many."""


@dataclass
class Recording:
    events: list[Came]
    runs: list[Ran]
    waiting: Sequence[Stretch]
    outside: Sequence[Stretch]
    """Events that came, but that the trigger has not taken in yet."""


STEPS = 400
"""How often the waiting events are counted, besides at each event."""


async def play(panel: Panel) -> Recording:
    """Fire the events and let the time pass."""
    clock = VirtualClock()
    unit_s = UNITS_S[panel.unit]
    came = [_came(text, panel) for text in panel.events.split()]
    runs: dict[str, Ran] = {}
    lab = Lab("memory", clock=clock, **panel.lab)
    await lab.open()
    with lab.activate():
        _define(panel, runs, clock, unit_s)
    waiting, outside = [], []
    fired: list[asyncio.Task[Any]] = []
    before = 0.0
    for now in sorted({*(n * panel.until / STEPS for n in range(STEPS + 1)), *(event.at for event in came)}):
        await clock.advance((now - before) * unit_s)
        before = now
        for event in came[len(fired) :]:
            if event.at <= now:
                payload = {"label": event.label, "model": event.key}
                asked = lab.fire("memory", payload, id=event.label, wait=False, topic=event.topic)
                fired.append(asyncio.create_task(asked))
                await clock.advance(0)
        counters = lab.counters().values()
        waiting.append((now, sum(counts["waiting"] for counts in counters)))
        outside.append((now, len(fired) - sum(counts["received"] for counts in counters)))
    last = {row["event_id"]: row for row in lab.outcomes(limit=None)[::-1].to_dict("records")}
    for event in came:
        row = last.get(event.label, {"outcome": "waiting", "run_id": None})
        event.outcome, event.run_id = str(row["outcome"]), row["run_id"]
    for task in fired:
        task.cancel()
    await lab.stop(grace_s=0)
    return Recording(came, sorted(runs.values(), key=lambda run: run.start), _stretches(waiting), _stretches(outside))


def _came(text: str, panel: Panel) -> Came:
    label, _, when = text.partition("@")
    at, _, topic = when.partition(":")
    return Came(label, label.rstrip("0123456789"), float(at), topic or panel.topics[0])


def _stretches(counts: Sequence[tuple[float, int]]) -> list[Stretch]:
    """Where the number stays the same and is not 0."""
    found = []
    begin, number = counts[0]
    for at, count in [*counts[1:], (counts[-1][0], -1)]:
        if count != number:
            if number > 0:
                found.append((begin, at, number))
            begin, number = at, count
    return found


def _define(panel: Panel, runs: dict[str, Ran], clock: VirtualClock, unit_s: float) -> None:
    options = dict(panel.options)
    options.setdefault("source", "memory")
    if options["source"] == "memory":
        options["topic"] = panel.topics[0]

    def now() -> float:
        return round(clock.monotonic() / unit_s, 6)

    class Timed(Saga, abstract=True):
        @action("note")
        async def note(self, ctx: Any) -> None:
            runs[ctx.run_id] = Ran(ctx.run_id, ctx["label"], ctx["key"], now())

        @compensate("note")
        async def undo(self, ctx: Any) -> None:
            runs[ctx.run_id].undone = now()
            await clock.sleep(panel.undo * unit_s)
            runs[ctx.run_id].end = now()

        @action("work", depends_on=["note"])
        async def work(self, ctx: Any) -> None:
            await clock.sleep(panel.run * unit_s)
            runs[ctx.run_id].end = now()

    def context(given: Any) -> dict[str, Any]:
        events = given if isinstance(given, list) else [given]
        return {"label": " ".join(event["label"] for event in events), "key": events[-1]["model"]}

    class Shown(Timed):
        @trigger(**options)
        def on_event(self, event: Any) -> dict[str, Any]:
            return context(event)

    if panel.high is not None:

        class Urgent(Timed):
            @trigger(source="memory", topic="high", priority=panel.high)
            def on_event(self, event: Any) -> dict[str, Any]:
                return context(event)


# --- how it is drawn ---

WIDTH, LEFT, RIGHT = 640, 84, 18
ROW, BAR, STRIP = 34, 18, 12
INK, FAINT, PAPER, LINE = "#24292f", "#57606a", "#f6f8fa", "#c4ccd4"
FILLS = {
    "started": "#0072b2",
    "filtered": "#57606a",
    "duplicate": "#9a4f96",
    "dropped": "#b34700",
    "dead": "#24292f",
    "waiting": "#f6f8fa",
}
WORDS = {"dead": "dead letter", "waiting": "still waiting"}
RUN, CANCELLED, SPAN = "#56b4e9", "#d5dbe1", "#009e73"
DASHED = ' stroke-dasharray="3 3"'
HALO = f' paint-order="stroke" stroke="{RUN}" stroke-width="3"'
COUNTED = {"waiting": "#f0d58c", "not taken in": "#e3a58f"}


def mark(outcome: str, x: float, y: float) -> str:
    """An event, by colour and by shape."""
    fill = FILLS[outcome]
    shapes = {
        "started": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{fill}"/>',
        "waiting": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="#8a6d00" stroke-width="2"/>',
        "duplicate": f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{PAPER}" '
        f'stroke="{fill}" stroke-width="2"/>',
        "filtered": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{PAPER}" stroke="{fill}" stroke-width="2"/>'
        f'<path d="M{x - 3.5:.1f} {y + 3.5:.1f}l7 -7" stroke="{fill}" stroke-width="2"/>',
        "dropped": f'<path d="M{x - 5:.1f} {y - 5:.1f}l10 10m0 -10l-10 10" stroke="{fill}" stroke-width="3"/>',
        "dead": f'<path d="M{x - 6:.1f} {y + 5:.1f}h12l-6 -11z" fill="{fill}"/>',
    }
    return shapes[outcome]


def text(
    x: float, y: float, words: str, *, size: int = 11, anchor: str = "start", fill: str = INK, more: str = ""
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {where} fill="{fill}"{more}>{escape(words)}</text>'


def bar(x: float, y: float, to: float, height: float, fill: str, more: str = "") -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1.0, to - x):.1f}" height="{height}" fill="{fill}"{more}/>'


class Drawing:
    """The lines of one picture, and how far down it has come."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.y = 6.0
        self.seen: set[str] = set()

    def panel(self, panel: Panel, seen: Recording) -> None:
        def x_of(at: float) -> float:
            return LEFT + (WIDTH - LEFT - RIGHT) * min(at, panel.until) / panel.until

        self.y += 18
        self.lines.append(text(10, self.y, panel.title, size=13, more=' font-weight="bold"'))
        top = self.y + 4
        events_y = {topic: self.y + 30 + n * ROW for n, topic in enumerate(panel.topics)}
        self.y += 30 + (len(panel.topics) - 1) * ROW + 12
        lanes = list(_lanes(seen.runs, panel))
        runs_y = {}
        first = self.y + 12
        for run, lane in zip(seen.runs, lanes, strict=True):
            runs_y[run.run_id] = first + lane * (BAR + (STRIP if panel.span else 6))
        self.y = max(runs_y.values(), default=first) + BAR + (STRIP if panel.span else 6)
        for name, counted in (("waiting", seen.waiting), ("not taken in", seen.outside)):
            if counted:
                self._counts(name, counted, x_of)
        for topic, y in events_y.items():
            self.lines.append(text(10, y + 4, topic, fill=FAINT))
            self.lines.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="{LINE}"/>')
        self._axis(panel, x_of, top)
        labels = self._runs(panel, seen, x_of, runs_y)
        self._connectors(seen, x_of, events_y, runs_y)
        self.lines += labels
        for event in seen.events:
            x, y = x_of(event.at), events_y[event.topic]
            self.seen.add(event.outcome)
            self.lines += [mark(event.outcome, x, y), text(x, y - 9, event.label, anchor="middle")]

    def _counts(self, name: str, counted: Sequence[Stretch], x_of: Callable[[float], float]) -> None:
        self.seen.add(f"{name}: number")
        self.lines.append(text(10, self.y + 10, name, fill=FAINT))
        for begin, end, count in counted:
            x, to = x_of(begin), x_of(end)
            self.lines.append(bar(x, self.y, to, STRIP, COUNTED[name], f' stroke="{PAPER}"'))
            if to - x >= 9:
                self.lines.append(text((x + to) / 2, self.y + 10, str(count), size=10, anchor="middle"))
        self.y += STRIP + 2

    def _axis(self, panel: Panel, x_of: Callable[[float], float], top: float) -> None:
        self.y += 6
        self.lines.append(f'<path d="M{LEFT} {self.y:.1f}H{WIDTH - RIGHT}" stroke="{FAINT}"/>')
        for n in range(round(panel.until / panel.tick) + 1):
            x = x_of(n * panel.tick)
            told = f"{n * panel.tick:g}" + (f" {panel.unit}" if n == 0 else "")
            self.lines.append(f'<path d="M{x:.1f} {self.y:.1f}v4" stroke="{FAINT}"/>')
            self.lines.append(text(x, self.y + 16, told, size=10, anchor="middle", fill=FAINT))
        self.y += 24

    def _connectors(
        self, seen: Recording, x_of: Callable[[float], float], events_y: dict[str, float], runs_y: dict[str, float]
    ) -> None:
        starts = {run.run_id: run.start for run in seen.runs}
        for event in seen.events:
            if event.run_id in starts:
                dashed = "" if event.outcome == "started" else DASHED
                if dashed:
                    self.seen.add("named")
                from_x, to_x = x_of(event.at), x_of(starts[event.run_id])
                to_x = from_x if dashed else to_x
                line = f"M{from_x:.1f} {events_y[event.topic] + 6:.1f}L{to_x:.1f} {runs_y[event.run_id]:.1f}"
                self.lines.append(f'<path d="{line}" stroke="{FAINT}" fill="none"{dashed}/>')

    def _runs(
        self, panel: Panel, seen: Recording, x_of: Callable[[float], float], runs_y: dict[str, float]
    ) -> list[str]:
        """The bars; returns their labels, to be drawn over all else."""
        named, labels = set(), []
        for run in seen.runs:
            x, y = x_of(run.start), runs_y[run.run_id]
            name = f"runs of {run.key}" if panel.by_key else "runs"
            if name not in named:
                named.add(name)
                self.lines.append(text(10, y + 13, name, fill=FAINT))
            end = x_of(panel.until if run.end is None else run.end)
            self.seen.add("run" if run.undone is None else "cancelled")
            self.lines.append(
                bar(x, y, end if run.undone is None else x_of(run.undone), BAR, RUN, f' stroke="{PAPER}"')
            )
            if run.undone is not None:
                self.lines.append(
                    bar(x_of(run.undone), y, end, BAR, "url(#undo)", f' stroke="{FAINT}" stroke-width="0.7"')
                )
            if (end if run.undone is None else x_of(run.undone)) - x > 6 * len(run.label) + 4:
                labels.append(text(x + 4, y + 13, run.label, more=HALO))
            if panel.span is not None:
                self.lines.append(bar(x, y + BAR, x_of(run.start + panel.span[1]), 5, SPAN))
        return labels

    def svg(self, about: str, span: str | None) -> str:
        legend = [(mark(o, 0, 0), WORDS.get(o, o)) for o in FILLS if o in self.seen]
        legend.append((bar(-6, -6, 8, 12, RUN), "run"))
        if "cancelled" in self.seen:
            legend.append(
                (bar(-6, -6, 8, 12, "url(#undo)", f' stroke="{FAINT}" stroke-width="0.7"'), "run, being undone")
            )
        if "named" in self.seen:
            legend.append((f'<path d="M0 -8v16" stroke="{FAINT}"{DASHED}/>', "its outcome names the run"))
        if span:
            legend.append((bar(-6, -3, 8, 5, SPAN), span))
        if "waiting: number" in self.seen:
            legend.append((bar(-6, -6, 8, 12, COUNTED["waiting"]), "how many events wait"))
        if "not taken in: number" in self.seen:
            legend.append((bar(-6, -6, 8, 12, COUNTED["not taken in"]), "how many wait at the source"))
        x = 20.0
        self.y += 14
        for shape, words in legend:
            if x + 24 + 6 * len(words) > WIDTH:
                x, self.y = 20.0, self.y + 18
            self.lines.append(f'<g transform="translate({x:.1f} {self.y:.1f})">{shape}{text(12, 4, words)}</g>')
            x += 34 + 6 * len(words)
        height = self.y + 14
        size = f'width="{WIDTH}" height="{height:.0f}"'
        hatched = f'<rect width="6" height="6" fill="{CANCELLED}"/><path d="M0 0v6" stroke="{FAINT}" stroke-width="2"/>'
        tile = 'width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"'
        begin = f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {height:.0f}"'
        return "\n".join([
            f'{begin} font-family="sans-serif" role="img">',
            f"<title>{escape(about)}</title>",
            f'<defs><pattern id="undo" {tile}>{hatched}</pattern></defs>',
            f'<rect {size} rx="6" fill="{PAPER}"/>',
            *self.lines,
            "</svg>\n",
        ])  # fmt: skip


def _lanes(runs: Sequence[Ran], panel: Panel) -> Iterator[int]:
    """The line of each run: its key's, else the first that is free."""
    keys: list[str] = []
    free: list[float] = []
    for run in runs:
        if panel.by_key:
            if run.key not in keys:
                keys.append(run.key)
            yield keys.index(run.key)
            continue
        end = panel.until if run.end is None else run.end
        lane = next((n for n, until in enumerate(free) if until <= run.start), len(free))
        free[lane : lane + 1] = [end]
        yield lane


# --- the pictures ---


def of(*topics: str) -> list[dict[str, str]]:
    return [{"source": "memory", "topic": topic} for topic in topics]


ORDERS = {"events": "a1@0 a2@2 b3@4 a4@6 a5@11", "until": 16, "unit": "min", "run": 3, "by_key": True}
BURST = {"events": "1@0 2@2 3@4 4@6 5@8 6@10 7@16", "until": 24, "tick": 2, "run": 2.5}
CLASH = {"events": "1@0 2@2 3@7", "until": 14, "run": 5}
CROWD = {"events": "1@0 2@1 3@2 4@3 5@4", "until": 18, "tick": 2, "run": 3.5}


def crowd(strategy: Any) -> dict[str, Any]:
    config = TriggerConfig(queue_size=2, backpressure_strategy=strategy)
    return {"max_concurrent_sagas": 1, "config": config}


PICTURES: dict[str, Sequence[Panel]] = {
    "idempotency": (
        Panel('idempotency_ttl="10m"', options={"idempotency_key": "model", "idempotency_ttl": "10m"}, **ORDERS),
        Panel('until="terminal"', options={"idempotency_key": "model", "until": "terminal"}, **ORDERS),
    ),
    "rate_limit_per_second": (
        Panel("rate_limit_per_second=2", "1@0 2@0.1 3@0.2 4@0.3 5@2.5", {"rate_limit_per_second": 2}, 4,
              tick=0.5, run=0.3),
    ),
    "throttle": (
        Panel('Throttle(3, "1m")', "1@0 2@3 3@6 4@9 5@80", {"throttle": Throttle(3, "1m")}, 100, tick=10, run=8),
        Panel('Throttle(3, "1m", burst=2)', "1@0 2@3 3@6 4@9 5@80", {"throttle": Throttle(3, "1m", burst=2)}, 100,
              tick=10, run=8),
    ),
    "cooldown": (
        Panel('cooldown="6h", concurrency_key="model"', "a1@0 a2@2 b3@3 a4@5.5 a5@7 b6@8 b7@9.5",
              {"cooldown": "6h", "concurrency_key": "model"}, 16, unit="h", run=1, by_key=True,
              span=("cooling down", 6)),
    ),
    "debounce": tuple(
        Panel(f'Debounce("3s", max_wait="7s"{more})', options={"debounce": Debounce(3, 7, mode=mode)}, **BURST)
        for mode, more in (("trailing", ""), ("leading", ', mode="leading"'), ("all", ', mode="all"'))
    ),
    "batch": (
        Panel('Batch(3, "60s")', "1@0 2@10 3@20 4@30 5@45", {"batch": Batch(3, 60)}, 120, tick=10, run=10),
    ),
    "singleton": tuple(
        Panel(f'singleton="{mode}"', options={"singleton": mode}, undo=1, **CLASH)
        for mode in ("skip", "return_existing", "error", "cancel")
    ),
    "max_concurrent_sagas": (
        Panel("max_concurrent_sagas=2", "1@0 2@1.5 3@2 4@3 5@4", {"max_concurrent_sagas": 2}, 14, run=4),
    ),
    "concurrency_key": (
        Panel('concurrency_key="model"', "a1@0 a2@1 a3@2 b4@3 b5@4", {"concurrency_key": "model"}, 14, run=4,
              by_key=True),
    ),
    "priority": (
        Panel("priority=5 on the trigger of topic high; Lab(max_live_runs=1)", "1@0:low 2@1:low 3@2:high 4@3:high", {},
              18, run=4, topics=("low", "high"), lab={"max_live_runs": 1}, high=5),
    ),
    "backpressure": tuple(
        Panel(f'backpressure_strategy="{strategy}"', options=crowd(strategy), **CROWD)
        for strategy in ("block", "drop_oldest", "drop_newest", "reject")
    ),
    "all_of": (
        Panel('all_of(data, labels), within="10s"', "1@0:data 2@3:data 3@5:labels 4@8:labels 5@20:data",
              {"source": all_of(*of("data", "labels")), "within": 10}, 24, tick=2, topics=("data", "labels")),
    ),
    "any_of": (
        Panel("any_of(data, labels)", "1@0:data 2@5:labels 3@7:data",
              {"source": any_of(*of("data", "labels"))}, 12, topics=("data", "labels")),
    ),
    "sequence": (
        Panel('sequence(a, b), within="10s"', "1@0:b 2@2:a 3@4:a 4@6:b 5@10:a",
              {"source": sequence(*of("a", "b")), "within": 10}, 24, tick=2, topics=("a", "b")),
    ),
    "absent": (
        Panel('absent(payment, after=order, within="6s"), concurrency_key="order"',
              "a1@0:order b2@2:order a3@4:payment c4@9:order",
              {"source": absent(of("payment")[0], after=of("order")[0], within=6), "concurrency_key": "model"}, 18,
              topics=("payment", "order")),
    ),
}  # fmt: skip


def picture(name: str) -> str:
    """The SVG of this name."""
    panels = PICTURES[name]

    async def played() -> list[Recording]:
        return [await play(panel) for panel in panels]

    drawing = Drawing()
    for panel, seen in zip(panels, asyncio.run(played()), strict=True):
        drawing.panel(panel, seen)
    span = panels[0].span
    return drawing.svg("; ".join(panel.title for panel in panels), span[0] if span else None)


def pictures() -> dict[str, str]:
    return {name: picture(name) for name in PICTURES}
