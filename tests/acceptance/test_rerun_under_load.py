"""A saga's cell is run again and again while events flow: each event is handled once, by a trigger that exists."""

from __future__ import annotations

import ast
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.kernel import LOAD, Kernel
from tests.services.redis import RedisServer, running_redis
from tests.services.topics import KEYS

EVENTS, RUNS = 10_000, 50
PER_S = 2_000

FEED = f"""
import asyncio, json, time
from tests.services.topics import Numbers, Topic
numbers, others, unread = (Topic(name, "Counting") for name in ("numbers", "others", "unread"))

class Notes:
    decided, handled = [], []

    def decides(self, event, trigger):
        self.decided.append((event["n"], trigger, [t.name for t in default_lab().sagas["Counting"].triggers.values()]))

    def handles(self, ctx):
        self.handled.append((ctx["n"], ctx["by"]))

notes, feed = Notes(), Numbers(lambda n: {{7: others, 9: unread}}.get(n % 10, numbers), {PER_S})

async def followed(name):
    '''Lets more numbers come, and returns when the topic of this name is read, and no other.'''
    feed.allowed = min(feed.allowed + {EVENTS // RUNS}, {EVENTS})
    while [topic.name for topic in (numbers, others, unread) if topic.is_open] != [name] * bool(name):
        await asyncio.sleep(0.002)
    return [(topic.entered, topic.left) for topic in (numbers, others, unread)]
"""

SAGA = """%%saga
class Counting(Saga):
    {trigger}

    @action("note")
    async def note(self, ctx):
        notes.handles(ctx)
{after}
"""

TRIGGER = """@trigger(source={topic}, concurrency_key=lambda event: event.key)
    def {method}(self, event):
        notes.decides(event, "Counting.{method}")
        return {{"n": event["n"], "by": "Counting.{method}"}} if event["n"] % {keep} else skip("not kept")
"""

KINDS = (
    "changed", "unchanged", "a syntax error", "an error at run time",
    "a renamed trigger", "a new topic", "a removed trigger",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One more run of the cell, and what holds after it."""

    what: str
    text: str
    works: bool
    reads: str
    is_new: bool


def steps() -> Iterator[Step]:
    method, topic, keep, text, reads = "on_number", "numbers", 3, "", ""
    for n in range(RUNS + 1):
        what, after = KINDS[n % len(KINDS)], ""
        match what:
            case "changed":
                method, topic, keep = "on_number", "numbers", 3 + n % 2
            case "a syntax error":
                after = "x = = 1"
            case "an error at run time":
                after = "1 / 0"
            case "a renamed trigger":
                method = "on_renamed"
            case "a new topic":
                method, topic = "on_number", "others"
            case "a removed trigger":
                topic = ""
        if after:  # an edit that does not become current
            failing = SAGA.format(trigger=TRIGGER.format(topic="unread", method="on_wrong", keep=1), after=after)
            yield Step(f"step {n}, {what}", failing, False, reads, False)
            continue
        trigger = TRIGGER.format(topic=topic, method=method, keep=keep) if topic else ""
        before, text, reads = text, SAGA.format(trigger=trigger, after=""), topic
        yield Step(f"step {n}, {what}", text, True, reads, text != before)


FOUND = """
while feed.put < feed.allowed or len(numbers.given) < numbers.size:
    await asyncio.sleep(0.01)
await default_lab().drain()
outcomes = default_lab().outcomes(limit=None).query("outcome != 'waiting'")
found = {
    "given": {n: (topic.name, triggers) for topic in (numbers, others, unread) for n, triggers in topic.given.items()},
    "decided": notes.decided,
    "handled": notes.handled,
    "outcomes": [(int(n), by, str(kind)) for n, by, kind in zip(outcomes.event_id, outcomes.trigger, outcomes.outcome)],
    "statuses": default_lab().runs(limit=None).status.value_counts().to_dict(),
    "revisions": len(default_lab().revisions("Counting")),
    "warnings": list(default_lab().status().warnings),
    "counters": list(default_lab().counters().values()),
}
json.dump(found, open("found.json", "w"))
"""


@dataclass
class Found:
    """What the kernel has noted."""

    given: Mapping[int, tuple[str, Sequence[str]]]
    outcomes: Mapping[int, Sequence[tuple[str, str]]]
    decided: Mapping[int, Sequence[tuple[str, Sequence[str]]]]
    handled: Sequence[tuple[int, str]]
    rest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Found:
        found = json.loads(path.read_text())
        outcomes, decided = defaultdict(list), defaultdict(list)
        for n, by, kind in found.pop("outcomes"):
            outcomes[n].append((by, kind))
        for n, by, existing in found.pop("decided"):
            decided[n].append((by, existing))
        given = {int(n): (topic, triggers) for n, (topic, triggers) in found.pop("given").items()}
        return cls(given, outcomes, decided, [(n, by) for n, by in found.pop("handled")], found)


def wrong_with(n: int, found: Found, times: Mapping[int, int]) -> str:
    """What contradicts the promises about this event, if anything does."""
    outcomes = found.outcomes.get(n, [])
    if n not in found.given:
        if n % 10 not in (7, 9):
            return "is lost: its topic was read, and it was never handed over"
        return f"was not handed over, but has {outcomes}" if outcomes or times[n] else ""
    topic, existed = found.given[n]
    if topic == "unread":
        return "was handed over by a topic that nobody reads"
    if len(outcomes) != 1:
        return f"has {len(outcomes)} outcomes: {outcomes}"
    (by, kind) = outcomes[0]
    for decided_by, existing in found.decided[n]:
        if decided_by not in (*existed, *existing):
            return f"was decided by {decided_by}, when there was only {existing}, and {existed} when it came"
        if decided_by != by:
            return f"was decided by {decided_by}, and its outcome is that of {by}"
    if kind not in ("started", "filtered") or times[n] != (kind == "started"):
        return f"is {kind}, and an action has had it {times[n]} times"
    return ""


def out_of_order(found: Found) -> str:
    """The first event that came behind a later one of its trigger, topic and key."""
    latest: dict[tuple[str, str, int], int] = {}
    for n, by in found.handled:
        lane = (by, found.given[n][0], n % KEYS)
        if latest.get(lane, -1) > n:
            return f"event {n} was handled by {by} after {latest[lane]} of the same key"
        latest[lane] = n
    return ""


@pytest.mark.timeout(180)
def test_each_event_is_handled_once_while_the_cell_is_run_fifty_times(tmp_path: Path) -> None:
    story = list(steps())
    with Kernel(tmp_path) as kernel:
        kernel.run(LOAD + FEED)
        assert kernel.run(story[0].text).ok
        assert kernel.run("%triggers start").ok
        reads, count = "", [[0, 0], [0, 0], [0, 0]]
        for step in story:
            result = kernel.run(step.text) if step is not story[0] else None
            assert result is None or result.ok is step.works, step
            if step.reads != reads:  # only then is a connection opened, and one closed
                for number, topic in enumerate(("numbers", "others", "unread")):
                    count[number][0] += step.reads == topic
                    count[number][1] += reads == topic
                reads = step.reads
            now = kernel.run(f"await followed({reads!r})")
            assert ast.literal_eval(now.text) == [tuple(both) for both in count], f"{step.what}: [(opened, closed)]"
        last = kernel.run(FOUND, timeout_s=120)
        assert last.ok, last.error
    found = Found.read(tmp_path / "found.json")
    times = Counter(n for n, _ in found.handled)
    wrong = ((n, wrong_with(n, found, times)) for n in range(EVENTS))
    assert next((f"event {n} {what}" for n, what in wrong if what), None) is None
    assert out_of_order(found) == ""
    assert found.rest["revisions"] == sum(step.is_new for step in story)
    assert found.rest["statuses"] == {"completed": len(found.handled)}
    assert found.rest["warnings"] == []


# --- a real broker's connections ---

NOTES = """
class Notes:
    numbers = []

    def handles(self, ctx):
        self.numbers.append(ctx["n"])

notes = Notes()
"""

READER = """%%saga
class {saga}(Saga):
    @trigger(source="redis", stream="{stream}", url="{url}", concurrency_key=lambda event: "one")
    def {method}(self, event):
        return {{"n": int(event["n"]), "text": {text!r}}}

    @action("note")
    async def note(self, ctx):
        notes.handles(ctx)
{after}
"""

EDITS: Sequence[tuple[str, Mapping[str, str], bool]] = (
    ("changed", {"text": "changed"}, True),
    ("unchanged", {"text": "changed"}, True),
    ("a syntax error", {"after": "x = = 1"}, False),
    ("an error at run time", {"after": "1 / 0"}, False),
    ("a renamed trigger", {"method": "on_renamed"}, True),
)


def connections(server: RedisServer) -> set[int]:
    """The ids of all connections but the one that asks."""
    with server.client() as client:
        own = client.client_id()
        return {int(one["id"]) for one in client.client_list()} - {own}


@pytest.mark.timeout(120)
def test_the_connections_to_redis_are_the_same_before_and_after(tmp_path: Path) -> None:
    put = 0
    with running_redis(tmp_path) as server, Kernel(tmp_path) as kernel, server.client() as producer:

        def give(stream: str, n: int) -> None:
            nonlocal put
            with producer.pipeline(transaction=False) as pipeline:
                for _ in range(n):
                    pipeline.xadd(stream, {"n": put})
                    put += 1
                pipeline.execute()

        def reader(saga: str, stream: str, method: str = "on_number", text: str = "", after: str = "") -> str:
            return READER.format(saga=saga, stream=stream, url=server.url, method=method, text=text, after=after)

        def handled() -> None:
            wait = f"while len(notes.numbers) < {put}:\n    await asyncio.sleep(0.01)"
            assert kernel.run(wait, timeout_s=60).ok

        kernel.run(LOAD + "\nimport asyncio" + NOTES)
        kernel.run(reader("Bystander", "steady"))
        kernel.run("await default_lab().start()")
        give("steady", 5)
        handled()
        steady = connections(server)
        kernel.run(reader("Counting", "numbers"))
        give("numbers", 5)
        handled()
        ours = connections(server)
        assert steady < ours
        for number in range(2 * len(EDITS)):
            what, edit, works = EDITS[number % len(EDITS)]
            request = kernel.send(reader("Counting", "numbers", **edit))
            give("numbers", 100)
            assert kernel.result(request).ok is works, what
            assert connections(server) == ours, f"run {number} of the cell, {what}"
        handled()
        assert connections(server) == ours
        kernel.run(reader("Counting", "elsewhere"))
        give("elsewhere", 100)
        give("steady", 100)
        handled()
        left = connections(server) & ours
        assert steady <= left, "those of the stream that is read on stay"
        assert left < ours, "those of the stream that is read no more are closed"
        times = Counter(ast.literal_eval(kernel.run("print(notes.numbers)").stdout))
        wrong = (f"event {n} was handled {times[n]} times" for n in range(put) if times[n] != 1)
        assert next(wrong, None) is None
