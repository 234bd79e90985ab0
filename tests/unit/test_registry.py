"""A saga that is defined again replaces itself between two events."""

import asyncio
import linecache
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from sagaz_lab import Lab, OutcomeKind, Saga, TriggerConfig, action, compensate, skip, trigger
from sagaz_lab.errors import DefinitionError, SagaConflict, UnknownName
from sagaz_lab.stores.memory.store import MemoryStore
from tests.unit.tools import Taps, assert_adds_up, counted, statuses, until

_cells = count(1)


class Notebook:
    """Cells that run one after the other in one namespace, as a kernel's do."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.run("from sagaz_lab import *")

    def run(self, *texts: str) -> None:
        text = "\n".join(dedent(text) for text in texts)
        file = f"<ipython-input-{next(_cells)}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        exec(compile(text, file, "exec"), self.names)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def shut() -> Iterator[Lab]:
    """A Lab that is current, but not open."""
    with Lab("memory").activate() as lab:
        yield lab


def revision(lab: Lab, name: str = "Scores") -> int:
    return lab.sagas[name].revision


SCORES = """
    class Scores(Saga):
        @trigger(source="memory", topic=TOPIC, idempotency_key="id")
        def on_score(self, event):
            return {"score": event.score} if event.score > LIMIT else skip("too low")

        @action("work", max_retries=RETRIES)
        async def work(self, ctx):
            return {"worth": worth(ctx["score"])}
"""
HELPERS = """
    TOPIC, LIMIT, RETRIES = "scores", 5, 1
    def worth(score):
        return factor() * score
    def factor():
        return 2
"""


# --- what is a new revision ---


def test_the_same_code_gives_no_new_revision(shut: Lab, notebook: Notebook) -> None:
    notebook.run(HELPERS, SCORES)
    first = shut.sagas["Scores"]
    notebook.run(SCORES)
    notebook.run(HELPERS, SCORES)
    notebook.run(SCORES.replace("class Scores", "# a comment\n\n    class Scores").replace("(ctx[", "( ctx["))
    assert shut.sagas["Scores"] is first
    assert list(shut.revisions("Scores")["number"]) == [1]


async def test_an_object_of_the_same_code_runs_under_the_same_revision(lab: Lab, notebook: Notebook) -> None:
    for _ in range(2):
        notebook.run(HELPERS, SCORES)
    await notebook.names["Scores"]().run({"score": 1})
    assert list(lab.runs()["revision"]) == [1]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('skip("too low")', 'skip("lower")'),
        ("RETRIES)", "RETRIES, timeout_s=5)"),
        ("event.score > LIMIT", "event.score >= LIMIT"),
        ('topic="scores"', 'topic="other"'),
        ("LIMIT, RETRIES = ", "LIMIT, RETRIES = 'scores', 6, 1 #"),
        ('"scores", 5, 1', '"scores", 5, 2'),
        ('"scores", 5, 1', '"others", 5, 1'),
        ("factor() * score", "factor() + score"),
        ("return 2", "return 3"),
    ],
)
def test_a_change_in_the_class_its_options_or_what_it_reaches_is_a_new_revision(
    shut: Lab, notebook: Notebook, before: str, after: str
) -> None:
    text = HELPERS + SCORES.replace("topic=TOPIC", 'topic="scores"' if "topic=" in before else "topic=TOPIC")
    notebook.run(text)
    notebook.run(
        text.replace(before, after, 1).replace("TOPIC, LIMIT, RETRIES = 'scores'", "TOPIC, LIMIT, RETRIES = 'scores'")
    )
    assert revision(shut) == 2


def test_a_changed_helper_is_noticed_without_running_the_class_again(shut: Lab, notebook: Notebook) -> None:
    notebook.run(HELPERS, SCORES)
    notebook.run("def factor():\n    return 3")
    (change,) = shut.registry.refresh()
    assert (change.revision, change.is_new) == (2, True)
    assert change.warnings == ["helper changed: factor()"]
    assert revision(shut) == 2
    assert shut.registry.refresh() == []


def test_a_decorated_helper_is_reached(shut: Lab, notebook: Notebook) -> None:
    helper = "from functools import lru_cache\n@lru_cache\ndef worth(score):\n    return score * 2\n"
    notebook.run(HELPERS, helper, SCORES)
    notebook.run(helper.replace("* 2", "* 3"))
    assert [change.revision for change in shut.registry.refresh()] == [2]


def test_what_an_action_counts_in_a_global_is_no_constant(shut: Lab, notebook: Notebook) -> None:
    counting = """
        seen = 0
        class Counting(Saga):
            @action()
            async def work(self, ctx):
                global seen
                seen += 1
    """
    notebook.run(counting)
    notebook.names["seen"] = 7
    assert shut.registry.refresh() == []


def test_a_global_that_is_called_as_a_field_of_the_event_is_not_reached(shut: Lab, notebook: Notebook) -> None:
    notebook.run("score = 1", HELPERS, SCORES)
    notebook.run("score = 2")
    assert shut.registry.refresh() == []
    notebook.run("LIMIT = 6")
    assert [change.warnings for change in shut.registry.refresh()] == [["helper changed: LIMIT"]]


@pytest.mark.parametrize(
    "option",
    [
        "idempotency_key=lambda event: event.id",
        "idempotency_key=__import__('functools').partial(getattr, name='id')",
        "idempotency_key=__import__('operator').itemgetter('id')",
        "decode=__import__('functools').partial(str, encoding='utf-8')",
        "config=TriggerConfig(max_retries=1)",
    ],
)
def test_an_option_that_is_made_anew_each_time_is_still_the_same(shut: Lab, notebook: Notebook, option: str) -> None:
    cell = f"""
        class Codec:
            def dump(self, value, path): ...
            def load(self, path): ...

        class Scores(Saga):
            @trigger(source="memory", {option})
            def on_score(self, event): ...

            @action("work", codec=Codec())
            async def work(self, ctx): ...
    """
    notebook.run(cell)
    notebook.run(cell)
    assert revision(shut) == 1


def test_a_factory_in_the_same_cell_is_the_same_source_as_long_as_its_code_is(shut: Lab, notebook: Notebook) -> None:
    cell = """
        def make():
            return TAP

        class Scores(Saga):
            @trigger(source="custom", factory=make)
            def on_score(self, event): ...

            @trigger(source="custom", factory=lambda: TAP)
            def also(self, event): ...
    """
    notebook.run("TAP = None", cell)
    before = {name: one.spec.identity for name, one in shut.sagas["Scores"].triggers.items()}
    notebook.run(cell)
    assert {name: one.spec.identity for name, one in shut.sagas["Scores"].triggers.items()} == before
    assert before["on_score"] != before["also"]
    assert revision(shut) == 1
    notebook.run(cell.replace("return TAP", "return [TAP]"))
    assert revision(shut) == 2


def test_factories_that_differ_in_what_they_close_over_are_two_sources(shut: Lab) -> None:
    class Many(Saga):
        for name in ("a", "b"):

            def on_event(self, event): ...

            locals()[f"on_{name}"] = trigger(source="custom", factory=lambda name=name: name)(on_event)
            del on_event

    assert len({one.spec.identity for one in shut.sagas["Many"].triggers.values()}) == 2


def test_a_fingerprint_is_the_same_in_every_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        dedent("""
            from sagaz_lab import Lab, Saga, action
            WORDS = frozenset(["north", "south", "east", "west"])
            def helper(word):
                return word in {"red", "green", "blue", "yellow"} or word in WORDS
            with Lab("memory").activate() as lab:
                class Same(Saga):
                    @action()
                    def work(self, ctx):
                        return helper(ctx["word"])
            print(lab.sagas["Same"].digest)
        """)
    )
    digests = {
        subprocess.run(
            [sys.executable, script], env={"PYTHONHASHSEED": seed}, cwd=Path.cwd(), capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(digests) == 1


# --- names ---


def test_a_saga_of_the_same_name_from_another_module_is_a_conflict(shut: Lab) -> None:
    class Scores(Saga): ...

    with pytest.raises(SagaConflict, match=r"saga_name 'Scores' is taken by .*test_registry"):
        type("Scores", (Saga,), {"__module__": "elsewhere"})
    with pytest.raises(SagaConflict, match=r"lab.unregister\('Scores'\)"):
        type("Other", (Saga,), {"saga_name": "Scores", "__module__": __name__})
    shut.unregister("Scores")
    type("Scores", (Saga,), {"__module__": "elsewhere"})
    assert shut.sagas["Scores"].cls.__module__ == "elsewhere"
    with pytest.raises(UnknownName, match="did you mean 'Scores'"):
        shut.unregister("Score")


def test_in_a_notebook_a_class_may_be_renamed_and_keep_its_saga_name(shut: Lab, notebook: Notebook) -> None:
    cell = "class A(Saga):\n    saga_name = 'same'\n    @action()\n    def work(self, ctx): ..."
    notebook.run(cell)
    notebook.run(cell.replace("class A", "class B"))
    assert revision(shut, "same") == 2


def test_a_staged_cell_becomes_current_as_a_whole_or_not_at_all(shut: Lab, notebook: Notebook) -> None:
    with shut.registry.staging() as staged:
        notebook.run("class A(Saga): ...\nclass B(Saga): ...\nclass A(Saga):\n    on_failure = 'hold'")
        assert not shut.sagas
    assert [change.name for change in shut.registry.commit(staged)] == ["A", "B"]
    assert shut.sagas["A"].on_failure == "hold"
    assert revision(shut, "A") == 1

    with pytest.raises(ZeroDivisionError), shut.registry.staging():
        notebook.run("class A(Saga): ...\n1 / 0")
    assert shut.sagas["A"].on_failure == "hold"
    notebook.run("class A(Saga): ...")
    assert revision(shut, "A") == 2


async def test_a_class_that_cannot_be_made_changes_nothing(lab: Lab) -> None:
    class Scores(Saga):
        @trigger(source="memory")
        def on_score(self, event):
            return {}

    with pytest.raises(DefinitionError, match="Scores: the class must be made without arguments"):

        class Scores(Saga):
            def __init__(self, model):
                self.model = model

            @trigger(source="memory")
            def on_score(self, event):
                return {}

    assert revision(lab) == 1
    (outcome,) = await lab.fire("Scores.on_score")
    assert (outcome.kind, outcome.revision) == (OutcomeKind.STARTED, 1)


# --- revisions ---


def define(number: int, **options: Any) -> type[Saga]:
    """The saga in one of many versions."""

    class Scores(Saga):
        @trigger(source="memory", topic="scores", **options)
        def on_score(self, event):
            return {"by": number}

        @action("work")
        async def work(self, ctx):
            return {"worked": number}

    return Scores


async def test_each_event_is_decided_by_the_revision_that_is_current_then(each_lab: Lab) -> None:
    for number in (1, 2, 3):
        define(number)
        (outcome,) = await each_lab.fire("Scores.on_score")
        assert outcome.revision == number
    await each_lab.drain()
    assert list(each_lab.runs()["revision"]) == [3, 2, 1]
    revisions = each_lab.revisions("Scores")
    assert list(revisions["number"]) == [3, 2, 1]
    assert list(revisions["current"]) == [True, False, False]


async def test_an_old_revision_can_be_made_current_again(each_lab: Lab) -> None:
    for number in (1, 2):
        define(number)
    change = each_lab.rollback("Scores", 1)
    assert (change.revision, change.previous, change.is_new) == (1, 2, False)
    (outcome,) = await each_lab.fire("Scores.on_score")
    assert outcome.revision == 1
    define(2)
    assert revision(each_lab) == 3
    with pytest.raises(UnknownName, match="'7'"):
        each_lab.rollback("Scores", 7)
    with pytest.raises(UnknownName, match="did you mean 'Scores'"):
        each_lab.rollback("Score", 1)


async def test_revisions_and_their_numbers_survive_a_restart(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/lab.db"
    for numbers, current in (([1, 2], 2), ([2], 2), ([3], 3), ([1], 4)):
        async with Lab(address) as lab:
            for number in numbers:
                define(number)
            assert revision(lab) == current
            (outcome,) = await lab.fire("Scores.on_score")
            assert outcome.revision == current
    assert list(lab.revisions("Scores")["number"]) == [4, 3, 2, 1]
    assert 'return {"by": number}' in lab.revisions("Scores")["code"][0]


async def test_a_cell_that_runs_again_reads_one_stored_revision_however_many_there_are(
    notebook: Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = MemoryStore(), []
    read = store.revisions
    monkeypatch.setattr(store, "revisions", lambda saga, newest=None: (asked.append(newest), read(saga, newest))[1])
    async with Lab(store=store) as lab:
        with lab.activate():
            for limit in range(5):
                notebook.run(HELPERS.replace("5", str(limit)), SCORES)
    assert [row.number for row in read("Scores")] == [1, 2, 3, 4, 5]
    assert len(asked) >= 5
    assert set(asked) == {1}


async def test_a_change_shows_its_diff_and_what_it_does_to_the_sources(lab: Lab, notebook: Notebook) -> None:
    notebook.run(HELPERS, SCORES)
    with lab.registry.staging() as staged:
        notebook.run(
            HELPERS.replace('"scores"', '"marks"'), SCORES.replace("on_score", "on_mark").replace("too low", "low")
        )
    (change,) = lab.registry.commit(staged)
    assert any(line.startswith("+") and "on_mark" in line for line in change.diff)
    assert change.warnings == [
        "trigger Scores.on_score removed: its source memory scores is no longer read for it",
        "trigger Scores.on_mark added: memory marks",
    ]


# --- while it runs ---


async def test_a_run_and_its_compensations_finish_on_their_own_revision(each_lab: Lab) -> None:
    done = []
    go_on = asyncio.Event()

    def define(number: int) -> None:
        class Slow(Saga):
            trigger_config = TriggerConfig(max_retries=0)

            @trigger(source="memory")
            def on_event(self, event):
                return {}

            @action("one")
            async def one(self, ctx):
                done.append(f"one by {number}")
                await go_on.wait()

            @compensate("one")
            async def undo(self, ctx):
                done.append(f"undone by {number}")

            @action("two", depends_on="one")
            async def two(self, ctx):
                done.append(f"two by {number}")
                raise ValueError

    define(1)
    await each_lab.fire("Slow.on_event")
    await until(lambda: done)
    define(2)
    go_on.set()
    await each_lab.drain()
    assert done == ["one by 1", "two by 1", "undone by 1"]
    assert list(each_lab.runs()["revision"]) == [1]


@pytest.mark.parametrize("options", [{}, {"idempotency_key": "id"}, {"concurrency_key": "id"}])
async def test_waiting_events_are_decided_by_the_new_revision(each_lab: Lab, options: dict[str, Any]) -> None:
    gate = asyncio.Event()
    ran = []

    def define(number: int) -> None:
        class Held(Saga):
            @trigger(source="memory", max_concurrent_sagas=1, **options)
            def on_event(self, event):
                if number == 1 or event.n == 1:
                    return {"n": event.n, "by": number}
                if event.n == 2:
                    return skip("not any more")
                raise ValueError("a worse one")

            @action()
            async def work(self, ctx):
                await gate.wait()
                ran.append((ctx["n"], ctx["by"], number))

    define(1)
    outcomes = [
        asyncio.create_task(each_lab.fire("Held.on_event", {"n": n, "id": f"id{i}"}))
        for i, n in enumerate([0, 1, 2, 3])
    ]
    await until(lambda: each_lab.counters()["Held.on_event"]["waiting"] == 3)
    define(2)
    gate.set()
    ends = [(str(o.kind), o.revision) for (o,) in await asyncio.gather(*outcomes)]
    assert ends == [("started", 1), ("started", 2), ("filtered", 2), ("dead", 2)]
    await each_lab.drain()
    assert ran == [(0, 1, 1), (1, 2, 2)]
    assert counted(each_lab, "Held.on_event") == {"received": 4, "started": 2, "filtered": 1, "dead": 1}
    assert list(each_lab.runs()["revision"]) == [2, 1]
    assert len(each_lab.dead_letters()) == 1


async def test_a_new_body_keeps_claims_counters_and_the_pause(each_lab: Lab) -> None:
    define(1, idempotency_key="id")
    await each_lab.fire("Scores.on_score", {"id": 1})
    each_lab.pause("Scores.on_score")
    define(2, idempotency_key="id")
    assert each_lab.status().triggers[0].state == "paused"
    each_lab.resume("Scores.on_score")
    (outcome,) = await each_lab.fire("Scores.on_score", {"id": 1})
    assert outcome.kind is OutcomeKind.DUPLICATE
    assert counted(each_lab, "Scores.on_score") == {"received": 2, "started": 1, "duplicate": 1}


async def test_a_looser_gate_lets_the_waiting_ones_go_at_once(lab: Lab) -> None:
    gate = asyncio.Event()

    def define(slots: int) -> None:
        class Waiting(Saga):
            @trigger(source="memory", max_concurrent_sagas=slots)
            def on_event(self, event):
                return {}

            @action()
            async def work(self, ctx):
                await gate.wait()

    define(1)
    for _ in range(4):
        await lab.fire("Waiting.on_event", wait=False)
    define(3)
    await until(lambda: counted(lab, "Waiting.on_event") == {"received": 4, "started": 3, "waiting": 1})
    gate.set()


# --- sources ---


@pytest.fixture
async def tapped() -> Any:
    taps = Taps()
    async with Lab("memory", sources={"memory": taps}) as lab:
        yield lab, taps


async def test_only_a_source_whose_settings_changed_is_restarted(tapped: tuple[Lab, Taps]) -> None:
    lab, taps = tapped

    def define(number: int, topic: str, **options: Any) -> None:
        class Scores(Saga):
            @trigger(source="memory", topic="steady", **options)
            def on_steady(self, event):
                return {"by": number}

            @trigger(source="memory", topic=topic)
            def on_moving(self, event):
                return {}

    define(1, "a")
    await lab.start()
    define(2, "a", idempotency_key="id")
    define(3, "b")
    await until(lambda: "b" in taps.made and taps["b"].entered)
    await until(lambda: taps["a"].left)
    assert (taps["steady"].entered, taps["steady"].left) == (1, 0)
    assert (taps["a"].entered, taps["a"].left) == (1, 1)
    taps["steady"].put_nowait({"id": 1})
    taps["b"].put_nowait({})
    await until(lambda: lab.counters()["Scores.on_moving"]["started"] and lab.counters()["Scores.on_steady"]["started"])
    assert sorted(source.name for source in lab.status().sources) == ["memory b", "memory steady"]


async def test_two_triggers_of_one_source_share_it(tapped: tuple[Lab, Taps]) -> None:
    lab, taps = tapped
    one, other = define(1), type("Others", (Saga,), {"on_score": define(1).__dict__["on_score"]})
    await lab.start()
    taps["scores"].put_nowait({})
    await until(lambda: len(lab.runs()) == 2)
    assert taps["scores"].entered == 1
    assert lab.status().sources[0].read_by == ("Scores.on_score", "Others.on_score")
    lab.unregister("Others")
    taps["scores"].put_nowait({})
    await until(lambda: counted(lab, "Scores.on_score")["started"] == 2)
    assert (taps["scores"].entered, taps["scores"].left) == (1, 0)
    assert one is not other


async def test_triggers_come_and_go_with_their_class(tapped: tuple[Lab, Taps]) -> None:
    lab, taps = tapped

    def define(*topics: str) -> None:
        methods = {f"on_{topic}": trigger(source="memory", topic=topic)(lambda self, event: {}) for topic in topics}
        type("Changing", (Saga,), methods)

    define("a", "b")
    await lab.start()
    define("b", "c")
    await until(lambda: "c" in taps.made and taps["c"].entered and taps["a"].left)
    assert taps["b"].left == 0
    with pytest.raises(UnknownName, match=r"Changing.on_a"):
        await lab.fire("Changing.on_a")
    assert [one.name for one in lab.status().triggers] == ["Changing.on_b", "Changing.on_c"]
    define("a", "b", "c")
    await until(lambda: taps["a"].entered == 2)
    taps["a"].put_nowait({})
    await until(lambda: lab.counters()["Changing.on_a"]["started"] == 1)
    lab.unregister("Changing")
    await until(lambda: not lab.status().sources)


async def test_nothing_is_lost_or_run_twice_while_the_code_changes(tapped: tuple[Lab, Taps]) -> None:
    lab, taps = tapped
    ran = []

    def define(number: int) -> None:
        class Busy(Saga):
            @trigger(source="memory", topic="t", max_concurrent_sagas=3, idempotency_key="n")
            def on_event(self, event):
                return {"n": event.n, "by": number}

            @action()
            async def work(self, ctx):
                await asyncio.sleep(0)
                ran.append(ctx["n"])

    define(0)
    await lab.start()
    for n in range(300):
        taps["t"].put_nowait({"n": n})
        if n % 10 == 0:
            define(n + 1)
            await asyncio.sleep(0.001)
        assert_adds_up(lab)
    await until(lambda: len(ran) == 300)
    await lab.drain()
    assert sorted(ran) == list(range(300))
    assert set(statuses(lab)) == {"completed"}
    assert taps["t"].entered == 1
    assert revision(lab, "Busy") == 31


async def test_a_waiting_event_whose_saga_goes_and_comes_back_runs_then(each_lab: Lab) -> None:
    gate = asyncio.Event()

    def define() -> None:
        class Waiting(Saga):
            @trigger(source="memory", max_concurrent_sagas=1)
            def on_event(self, event):
                return {}

            @action()
            async def work(self, ctx):
                await gate.wait()

    define()
    await each_lab.start()
    for _ in range(2):
        await each_lab.fire("Waiting.on_event", wait=False)
    each_lab.unregister("Waiting")
    gate.set()
    await until(lambda: statuses(each_lab) == ["completed", "needs_code"])
    assert_adds_up(each_lab)
    define()
    await until(lambda: statuses(each_lab) == ["completed", "completed"])
    assert counted(each_lab, "Waiting.on_event") == {"received": 2, "started": 2}
