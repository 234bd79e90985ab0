"""Draws a saga as inline SVG or text: triggers on the left, actions in layers by longest path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from sagaz_lab.model.saga import Action, SagaDefinition
from sagaz_lab.model.trigger import Trigger

CHAR_PX = 6.7  # of the 12 px sans-serif below, on average
LONGEST = 30
BOX_PX, LINE_PX, GAP_PX, LAYER_GAP_PX, MARGIN_PX = 40.0, 10.0, 14.0, 44.0, 8.0


@dataclass(frozen=True, slots=True)
class Node:
    """A box or, without lines, a waypoint of an edge that crosses a layer."""

    id: str
    lines: tuple[str, ...] = ()
    look: str = ""
    tip: str = ""

    @property
    def width(self) -> float:
        return max((len(line) for line in self.lines), default=0) * CHAR_PX + (20 if self.lines else 0)

    @property
    def height(self) -> float:
        return BOX_PX if self.lines else LINE_PX


@dataclass(frozen=True, slots=True)
class Box:
    """A placed node."""

    node: Node
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.y + self.node.height / 2


@dataclass(frozen=True, slots=True)
class Layout:
    boxes: Mapping[str, Box]
    paths: tuple[tuple[str, ...], ...]
    width: float
    height: float


def layout(saga: SagaDefinition) -> Layout:
    """Place all nodes. An edge over several layers has a waypoint in each, so it crosses no box."""
    nodes = {node.id: node for node in _nodes(saga)}
    depth = depths(saga)
    layers: list[list[Node]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for name, node in nodes.items():
        layers[depth[name]].append(node)
    paths: list[tuple[str, ...]] = []
    for start, end in _edges(saga):
        between = [Node(f"{start}>{end}@{n}") for n in range(depth[start] + 1, depth[end])]
        for node in between:
            layers[depth[start] + 1 + between.index(node)].append(node)
        paths.append((start, *(node.id for node in between), end))
    return _placed(_untangled(layers, paths), paths)


def depths(saga: SagaDefinition) -> dict[str, int]:
    """The layer of each node: 0 for triggers, for an action one more than its deepest dependency."""
    found = {f"trigger {name}": 0 for name in saga.triggers}
    first = 1 if found else 0
    for name in saga.plan.order:
        needed = [found[f"action {other}"] for other in saga.actions[name].depends_on]
        found[f"action {name}"] = 1 + max(needed) if needed else first
    return found


def svg(saga: SagaDefinition) -> str:
    """An SVG in the colours of the surrounding page."""
    plan = layout(saga)
    width, height = max(plan.width, 60.0), max(plan.height, 20.0)
    title = f"{saga.name}, revision {saga.revision}"
    drawn = [_edge(plan.boxes, path) for path in plan.paths]
    drawn += [_box(box) for box in plan.boxes.values() if box.node.lines]
    return (
        f'<svg role="img" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" style="max-width:100%;font:12px system-ui,sans-serif" '
        f'fill="none" stroke="currentColor"><title>{escape(title)}</title><desc>{escape(text(saga))}</desc>'
        f"{''.join(drawn)}</svg>"
    )


def text(saga: SagaDefinition) -> str:
    """One line per trigger and action."""
    lines = [f"{saga.name}, revision {saga.revision}"]
    lines += [f"  trigger {name} <- {trigger.spec}" for name, trigger in saga.triggers.items()]
    for name in saga.plan.order:
        needed, remarks = ", ".join(saga.actions[name].depends_on), _remarks(saga, saga.actions[name])
        lines.append(f"  action {name}{needed and f' after {needed}'}{remarks and f' ({remarks})'}")
    return "\n".join(lines)


def _nodes(saga: SagaDefinition) -> Iterable[Node]:
    for name, trigger in saga.triggers.items():
        yield Node(f"trigger {name}", _lines(name, str(trigger.spec)), "trigger", _trigger_tip(trigger))
    for name in saga.plan.order:
        action = saga.actions[name]
        undone = saga.compensations.get(name)
        look = "pivot" if action.pivot else "stream" if action.how == "stream" else "action"
        yield Node(f"action {name}", _lines(name, f"↩ {undone.method_name}" if undone else ""), look,
                   f"{name}: {_remarks(saga, action) or 'not undone'}")  # fmt: skip


def _lines(*lines: str) -> tuple[str, ...]:
    return tuple(line if len(line) <= LONGEST else line[: LONGEST - 1] + "…" for line in lines if line)


def _trigger_tip(trigger: Trigger) -> str:
    gates = (f"{name}={value!r}" for name in trigger.gates.__dataclass_fields__
             if (value := getattr(trigger.gates, name)) is not None and value != 0)  # fmt: skip
    return ", ".join((f"{trigger.name} from {trigger.spec}", *gates))


def _remarks(saga: SagaDefinition, action: Action) -> str:
    undone = saga.compensations.get(action.name)
    remarks = (
        f"undone by {undone.method_name}" if undone else "",
        "pivot" if action.pivot else "",
        "stream" if action.how == "stream" else "",
        f"up to {action.timeout_s:g} s" if action.timeout_s is not None else "",
        f"{action.max_retries} retries" if action.max_retries else "",
    )
    return ", ".join(filter(None, remarks))


def _edges(saga: SagaDefinition) -> Iterable[tuple[str, str]]:
    for trigger in saga.triggers:
        for root in saga.plan.roots:
            yield f"trigger {trigger}", f"action {root}"
    for name in saga.plan.order:
        for other in saga.actions[name].depends_on:
            yield f"action {other}", f"action {name}"


def _untangled(layers: list[list[Node]], paths: Iterable[tuple[str, ...]]) -> list[list[Node]]:
    """Sort each layer by the positions of its neighbours, from the left and then from the right."""
    steps = [pair for path in paths for pair in pairwise(path)]
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    for start, end in steps:
        before.setdefault(end, []).append(start)
        after.setdefault(start, []).append(end)
    place = {node.id: float(n) for layer in layers for n, node in enumerate(layer)}
    for sweep, neighbours in ((layers[1:], before), (layers[-2::-1], after)):
        for layer in sweep:
            weight = {}
            for node in layer:
                near = [place[other] for other in neighbours.get(node.id, ())]
                weight[node.id] = sum(near) / len(near) if near else place[node.id]
            layer.sort(key=lambda node: weight[node.id])
            place.update({node.id: float(n) for n, node in enumerate(layer)})
    return layers


def _placed(layers: list[list[Node]], paths: list[tuple[str, ...]]) -> Layout:
    heights = [sum(node.height + GAP_PX for node in layer) - GAP_PX for layer in layers]
    tallest = max(heights, default=0.0)
    boxes: dict[str, Box] = {}
    x = MARGIN_PX
    for layer, height in zip(layers, heights, strict=True):
        width = max(node.width for node in layer)
        y = MARGIN_PX + (tallest - height) / 2
        for node in layer:
            boxes[node.id] = Box(node, x, y, width)
            y += node.height + GAP_PX
        x += width + LAYER_GAP_PX
    return Layout(boxes, tuple(paths), x - LAYER_GAP_PX + MARGIN_PX, tallest + 2 * MARGIN_PX)


_LOOKS = {
    "trigger": 'rx="20" stroke="var(--jp-brand-color1,#1976d2)"',
    "action": 'rx="4"',
    "stream": 'rx="4" stroke-dasharray="5 3"',
    "pivot": 'rx="4" stroke-width="2.5"',
}


def _box(box: Box) -> str:
    middle, lines = box.x + box.width / 2, box.node.lines
    top = box.middle + (4 if len(lines) == 1 else -3)
    words = "".join(
        f'<text x="{middle:.1f}" y="{top + 15 * n:.1f}" text-anchor="middle" fill="currentColor" stroke="none" '
        f'opacity="{0.7 if n else 1}">{escape(line)}</text>'
        for n, line in enumerate(lines)
    )
    return (
        f'<g><title>{escape(box.node.tip)}</title><rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" '
        f'height="{box.node.height:.1f}" {_LOOKS[box.node.look]}/>{words}</g>'
    )


def _edge(boxes: Mapping[str, Box], path: tuple[str, ...]) -> str:
    stops = [boxes[name] for name in path]
    drawn = f"M{stops[0].x + stops[0].width:.1f} {stops[0].middle:.1f}"
    for one, other in pairwise(stops):
        x, half = one.x + one.width, (other.x - one.x - one.width) / 2
        drawn += f"C{x + half:.1f} {one.middle:.1f} {x + half:.1f} {other.middle:.1f} {other.x:.1f} {other.middle:.1f}"
        if not other.node.lines:
            drawn += f"H{other.x + other.width:.1f}"
    tip_x, tip_y = stops[-1].x, stops[-1].middle
    head = f"M{tip_x:.1f} {tip_y:.1f}l-7 -4v8z"
    return f'<path d="{drawn}" opacity=".6"/><path d="{head}" fill="currentColor" stroke="none" opacity=".6"/>'
