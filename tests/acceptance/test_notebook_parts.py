"""What the notebook layer does to text, without a kernel."""

import xml.etree.ElementTree as ElementTree
from itertools import combinations

import pytest
from IPython.core.error import UsageError
from IPython.core.inputtransformer2 import TransformerManager

from sagaz_lab import Lab, Saga, action, compensate, trigger
from sagaz_lab.model.run import Outcome, OutcomeKind
from sagaz_lab.notebook import dag
from sagaz_lab.notebook.cards import change_card, outcome_card, saga_card
from sagaz_lab.notebook.cells import announce_saga, ask_for_help, await_commands
from sagaz_lab.notebook.commands import COMMANDS, read, read_firing, split, without_semicolon
from sagaz_lab.notebook.expansion import expand
from sagaz_lab.runtime.registry.changes import Change


def transformed(cell):
    manager = TransformerManager()
    manager.cleanup_transforms += [announce_saga, ask_for_help]
    lines = manager.transform_cell(cell).splitlines(keepends=True)
    return "".join(await_commands(lines))


def fired(rest, **names):
    return read_firing(COMMANDS["fire"], rest, names, expand)


CALL = "get_ipython().run_cell_magic('saga', '--quiet', '\\n')"


def test_only_the_magics_line_of_a_saga_cell_is_replaced():
    cell = "%%saga --quiet\nimport math\n\nawait f()\n"
    first, *body = transformed(cell).splitlines()
    assert first == CALL
    assert body == cell.splitlines()[1:]


def test_the_magic_stands_behind_what_comes_from_the_future_and_no_line_moves():
    cell = "%%saga --quiet\nfrom __future__ import annotations\n\nawait f()\n"
    assert transformed(cell).splitlines() == ["", f"from __future__ import annotations; {CALL}", "", "await f()"]


@pytest.mark.parametrize("above", ["# why\n", "\n# why\n\n", "  # why\n# how\n"])
@pytest.mark.parametrize("timed", ["", "%triggers timed\n"])
def test_comments_and_blank_lines_may_stand_above_the_magic(timed, above):
    lines = announce_saga(f"{timed}{above}%%saga --quiet\nawait f()\n".splitlines(keepends=True))
    assert len(lines) == len((timed + above).splitlines()) + 2
    assert CALL.strip() in lines[-2]
    assert ("'timed'" in lines[-2]) == bool(timed)
    assert "%%" not in "".join(lines)


def test_a_question_about_the_magic_stays_a_question():
    assert "pinfo" in transformed("%%saga?")
    assert "help fire" in transformed("%triggers fire?")


@pytest.mark.parametrize(
    "cell",
    [
        '%triggers fire a.b {"x": 1}',
        "x = %triggers fire a.b 1",
        "x.y[0], z = %triggers preview a.b 1",
        "if True:\n    for i in range(3):\n        %triggers wait 3 events",
        "async def f():\n    y = %triggers stop\n    return y",
        "%triggers dlq redrive all",
        "%triggers start",
        "handle = %triggers start a.b --fresh",
    ],
)
def test_a_command_that_awaits_is_awaited(cell):
    changed = transformed(cell)
    assert changed.count("await get_ipython().run_line_magic('triggers'") == 1
    assert len(changed.splitlines()) == len(cell.splitlines())


@pytest.mark.parametrize("end", [";", " ;", " ; ", ";  # a note", " ; # a note"])
@pytest.mark.parametrize("command", [*COMMANDS.values()], ids=lambda command: command.name)
def test_a_semicolon_makes_no_difference_to_what_is_awaited(command, end):
    assert transformed(f"%triggers {command.name}{end}").count("await ") == command.awaits
    assert transformed(f"x = %triggers {command.name} a.b{end}").count("await ") == command.awaits


def test_a_semicolon_within_a_payload_stays():
    for payload in ('{"a": "b; # c"}', "f('x;')", '"; "'):
        assert without_semicolon(f"fire a.b {payload}") == f"fire a.b {payload}"
        assert without_semicolon(f"fire a.b {payload} ; # why") == f"fire a.b {payload}"


@pytest.mark.parametrize(
    "cell",
    [
        "%triggers status",
        "%triggers dlq --by cause",
        "s = '''\n%triggers fire x\n'''",
        '''s = "get_ipython().run_line_magic('triggers', 'fire x')"''',
        "# %triggers fire x",
        "x = (",
        "%triggers nonsense",
    ],
)
def test_nothing_else_is(cell):
    assert "await" not in transformed(cell)


@pytest.mark.parametrize(
    ("rest", "payload", "options"),
    [
        ('s.on {"score": 0.5}', {"score": 0.5}, {}),
        ('s.on {"a": "--no-wait"} --id d-7 --no-wait', {"a": "--no-wait"}, {"--id": "d-7", "--no-wait": ""}),
        ("s.on --id=d-7 [1, 2]", [1, 2], {"--id": "d-7"}),
        ("s.on {'score': score, 'of': f'{score}'} --no-wait", {"score": 7, "of": "7"}, {"--no-wait": ""}),
        ("s.on score", 7, {}),
        ('s.on "text {score} $score"', "text {score} $score", {}),
        ("s.on", None, {}),
        ('s.on {"a": 1}  # as last time', {"a": 1}, {}),
    ],
)
def test_a_payload_is_json_or_python(rest, payload, options):
    firing = fired(rest, score=7)
    assert (firing.name, firing.payload, firing.options) == ("s.on", payload, options)


@pytest.mark.parametrize(
    "payload", ["{'n': 1}", '{"n": 1}', "dict(n=score - 6)", "{x}", "$x", "{'n': 1, 'a': ' --id b'}"]
)
@pytest.mark.parametrize(
    ("behind", "options"),
    [
        ("--id {score}", {"--id": "7"}),
        ("--id=d-{score + 1}", {"--id": "d-8"}),
        ("--id $score --no-wait", {"--id": "7", "--no-wait": ""}),
        ("--no-wait --id 'a b'  # again", {"--id": "a b", "--no-wait": ""}),
    ],
)
def test_options_may_follow_any_payload_and_name_values(payload, behind, options):
    firing = fired(f"s.on {payload} {behind}", score=7, x={"n": 1})
    assert firing.payload["n"] == 1
    assert firing.options == options


def test_settings_of_a_source_stand_before_the_payload():
    firing = fired('memory topic=model.drift key="a b" {"x": 1}')
    assert (firing.name, firing.where, firing.payload) == ("memory", {"topic": "model.drift", "key": "a b"}, {"x": 1})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("strat", "did you mean 'start'?"),
        ("runs --stats x", "did you mean '--status'?"),
        ("runs --limit", "--limit needs a value"),
        ("status now", "unexpected 'now'"),
    ],
)
def test_a_mistake_names_what_would_be_right(line, told):
    with pytest.raises(UsageError, match=r"^%triggers") as caught:
        read(*split(line))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "told"),
    [
        ('s.on {"score" 0.5}', "at character 10"),
        ('s.on {"score": 0.5} {"more": 1}', "at character 15"),
        ("s.on {'score': scroe}", "NameError: name 'scroe' is not defined"),
        ("s.on 1 --idd x", "did you mean '--id'?"),
        ("s.on {'n': 1} --idd x", "did you mean '--id'?"),
        ("s.on {'n': 1} --id", "--id needs a value"),
        ("s.on {'n': 1} --id a b", "unexpected 'b'"),
        ("", "fire TRIGGER"),
    ],
)
def test_a_wrong_payload_is_told_in_one_line(rest, told):
    with pytest.raises(UsageError) as caught:
        fired(rest)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# --- pictures and cards ---


@pytest.fixture
def saga():
    with Lab(store="memory").activate():

        class Retrain(Saga):
            saga_name = "retrain <script>alert(1)</script>"

            @trigger(source="memory", topic="<b>drift</b>")
            def on_drift(self, event): ...

            @trigger(source="memory", topic="daily")
            def on_daily(self, event): ...

            @action("fetch")
            def fetch(self, ctx): ...

            @action("train", depends_on="fetch")
            def train(self, ctx): ...

            @compensate("train")
            def discard(self, ctx): ...

            @action("notify", depends_on="fetch")
            def notify(self, ctx): ...

            @action("deploy", depends_on=["train", "notify", "fetch"], pivot=True)
            def deploy(self, ctx): ...

    return Retrain.__definition__


def test_an_action_stands_right_of_all_it_depends_on_and_no_box_covers_another(saga):
    plan = dag.layout(saga)
    boxes = {name: box for name, box in plan.boxes.items() if box.node.lines}
    assert len(boxes) == 6
    for name in saga.plan.order:
        for other in saga.actions[name].depends_on:
            left = boxes[f"action {other}"]
            assert left.x + left.width < boxes[f"action {name}"].x
    assert boxes["trigger on_drift"].x < boxes["action fetch"].x
    for one, other in combinations(plan.boxes.values(), 2):
        apart_x = one.x + one.width <= other.x or other.x + other.width <= one.x
        apart_y = one.y + one.node.height <= other.y or other.y + other.node.height <= one.y
        assert apart_x or apart_y
    for box in plan.boxes.values():
        assert box.x + box.width <= plan.width
        assert box.y + box.node.height <= plan.height


def test_the_picture_is_well_formed_has_a_title_and_marks_compensations(saga):
    root = ElementTree.fromstring(dag.svg(saga))
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title").text.startswith("retrain")
    assert "↩ discard" in [text.text for text in root.iter(f"{space}text")]


def test_whatever_a_card_shows_is_escaped(saga):
    change = Change(saga.name, 2, 1, True, ["-<script>old</script>"], ["<script>warned</script>"])
    outcome = Outcome(OutcomeKind.DEAD, "<script>why</script>", "<i>e1</i>", saga.name, None, 1, 0.0, {"x": "<script>"})
    for card in (saga_card(saga), change_card(change, saga), outcome_card([outcome])):
        assert "<script" not in card.html
        assert "&lt;script&gt;" in card.html
        assert "<script>" in card.text


def test_a_saga_of_triggers_or_of_actions_alone_is_drawn():
    with Lab(store="memory").activate():

        class OnlyActions(Saga):
            @action("one")
            def one(self, ctx): ...

        class OnlyTriggers(Saga):
            @trigger(source="memory", topic="t")
            def on(self, event): ...

    for cls in (OnlyActions, OnlyTriggers):
        ElementTree.fromstring(dag.svg(cls.__definition__))
