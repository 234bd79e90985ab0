"""Wrong calls of the package's functions are explained; other errors are left alone."""

import inspect
import linecache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sagaz_lab
from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.errors import DefinitionError, UnknownName
from sagaz_lab.model.wrong_calls import explain
from sagaz_lab.testing import TriggerTestHarness

PUBLIC = {**{name: getattr(sagaz_lab, name) for name in sagaz_lab.__all__}, "TriggerTestHarness": TriggerTestHarness}
METHODS = {f"Lab.{name}": it for name, it in vars(Lab).items() if inspect.isfunction(it) and not name.startswith("_")}


def options(function: Any) -> list[str]:
    return [it.name for it in inspect.signature(function).parameters.values()
            if it.kind in (it.POSITIONAL_OR_KEYWORD, it.KEYWORD_ONLY) and it.name != "self"]  # fmt: skip


def is_strict(function: Any) -> bool:
    """Takes options, and none of any name."""
    kinds = [it.kind for it in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD not in kinds and bool(options(function))


NOT_CALLED = ("Saga", "Permanent", "SagazLabError", "RunStatus", "OutcomeKind")
STRICT = {name: it for name, it in (PUBLIC | METHODS).items() if name not in NOT_CALLED and is_strict(it)}


def said(cell: str, **names: Any) -> str | None:
    """What is said of the error of a cell, which is compiled as a notebook's is."""
    file = f"<cell {abs(hash(cell))}>"
    linecache.cache[file] = (len(cell), None, cell.splitlines(keepends=True), file)
    try:
        exec(compile(cell, file, "exec"), {"__name__": "__main__", **PUBLIC, "sagaz_lab": sagaz_lab, **names})
    except Exception as error:  # noqa: BLE001
        return explain(error)
    raise AssertionError(f"nothing is wrong with {cell}")


CALLS = {
    '@action("a", timeout=3)\ndef f(self, ctx): ...': "action(): no option 'timeout'; did you mean 'timeout_s'?",
    'class S(Saga):\n    @compensate("a", retries=1)\n    def f(self, ctx): ...': "did you mean 'max_retries'?",
    "TriggerConfig(max_retrys=3)": "TriggerConfig(): no option 'max_retrys'; did you mean 'max_retries'? (known: ",
    "sagaz_lab.TriggerConfig(\n    max_retrys=3,\n)": "TriggerConfig(): no option 'max_retrys'",
    "class S(Saga):\n    @trigger\n    def on_event(self, event): ...": "@trigger: write @trigger(...) with parenth",
    "class S(Saga):\n    @sagaz_lab.trigger\n    def f(self, event): ...": "@trigger: write @trigger(...) with parenth",
    "@trigger()\ndef f(self, event): ...": "trigger() needs 'source'; expected trigger(*, source, config=None",
    "Batch(3)": "Batch() needs 'timeout'; expected Batch(max_size, timeout, key=None)",
    "Throttle()": "Throttle() needs 'limit' and 'per'; expected Throttle(limit, per, burst=0, key=None)",
    "Batch(1, '1s', None, 4)": "Batch() got too many positional arguments; expected Batch(max_size, ",
    "Batch(1, '1s', max_size=4)": "Batch() got multiple values for argument 'max_size'; expected Batch(max_size",
    "Outcome('started')": "Outcome() needs ",
    "Lab('memory', treads=4)": "Lab(): no option 'treads'; did you mean 'threads'?",
    "Lab('memory').start(isolate=True)": "Lab.start(): no option 'isolate'; did you mean 'isolated'?",
    "lab = Lab('memory')\nlab.why()": "Lab.why() needs 'event_id'; expected Lab.why(event_id)",
    "lab = Lab('memory')\nlab.set_params(nam=1)": "Lab.set_params() needs 'trigger'; expected Lab.set_params(trigger,",
}


@pytest.mark.parametrize("cell", CALLS)
def test_a_call_that_does_not_fit_names_what_is_wrong_and_what_would_be_right(cell):
    assert CALLS[cell] in (said(cell) or "")


@pytest.mark.parametrize(
    "cell",
    [
        "def action(name): ...\naction('a', timeout=3)",  # the user's own of that name
        "class Lab:\n    def start(self): ...\nlab = Lab()\nlab.start(isolate=True)",
        "len(3)",
        "1 + 'x'",
        "raise TypeError('action() got an unexpected keyword argument \\'x\\'')",
        "Batch(*3)",
        "def f(x): ...\nany_of(f())",
        "skip(5)",  # refused by the package itself, in its own words
        "skip('')",
    ],
)
def test_any_other_error_is_left_as_it_is(cell):
    assert said(cell) is None


@st.composite
def misspelled(draw: st.DrawFn) -> tuple[str, str, str]:
    name = draw(st.sampled_from(sorted(STRICT)))
    option = draw(st.sampled_from([it for it in options(STRICT[name]) if len(it) > 3] or ["source"]))
    at = draw(st.integers(1, len(option) - 2))
    return name, option, option[:at] + option[at + 1] + option[at] + option[at + 2 :]


@given(misspelled())
def test_an_option_that_is_misspelled_is_named_whatever_the_function(case):
    name, option, wrong = case
    if wrong in options(STRICT[name]) or option not in options(STRICT[name]):
        return
    call = f"Lab('memory').{name.partition('.')[2]}" if name.startswith("Lab.") else name
    text = said(f"{call}(**{{{wrong!r}: 1}})") or ""
    assert text.startswith(f"{name}(): no option {wrong!r}")
    assert f"did you mean {option!r}?" in text


# --- values of the wrong kind ---


ODD = [None, 3, -1.5, "x", "", b"x", [], [1], {}, {"a": 1}, {"source": None}, {"source": 3}, object(), len, int]


@pytest.mark.parametrize("value", ODD, ids=lambda it: "an object" if type(it) is object else repr(it))
@pytest.mark.parametrize("how", ["all_of", "any_of", "sequence", "absent"])
def test_a_part_of_a_composite_that_is_no_source_is_a_definition_error(how, value):
    memory = {"source": "memory", "topic": "t"}
    with pytest.raises(DefinitionError, match=f"{how}"):
        if how == "absent":
            PUBLIC[how](memory, after=value, within="1m")
        else:
            PUBLIC[how](memory, value)


@pytest.mark.parametrize("value", [3, -1.5, b"x", [1], ["x"], {"a": 1}, len, int], ids=repr)
@pytest.mark.parametrize("option", ["store", "config", "clock", "sources", "engine"])
def test_an_option_of_the_lab_that_is_of_no_use_is_a_definition_error(option, value):
    with pytest.raises(DefinitionError, match=f"Lab: {option}=.* must be "):
        Lab(**{"store": "memory", option: value})


@pytest.mark.parametrize("value", [5, None, "s", int, len, Saga, type("Base", (Saga,), {}, abstract=True)], ids=repr)
@pytest.mark.parametrize("method", ["register", "shadow"])
async def test_what_is_no_saga_is_a_definition_error(method, value):
    async with Lab("memory") as lab:
        with pytest.raises(DefinitionError, match=r"is not a saga: pass a class that|is abstract: it decides nothing"):
            getattr(lab, method)(value)
        with lab.activate():

            class Right(Saga): ...

        with pytest.raises(DefinitionError, match=r"pass the saga's class, .*Right, not an instance"):
            getattr(lab, method)(Right())


@pytest.mark.parametrize("limit", ["3", -1, 2.5, True, [1], b"1"], ids=repr)
@pytest.mark.parametrize("frame", ["runs", "steps", "outcomes", "events", "dead_letters"])
@pytest.mark.parametrize("store", ["memory", "sqlite:///lab.db"])
def test_a_limit_that_is_no_number_of_rows_is_a_definition_error(tmp_path, monkeypatch, store, frame, limit):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DefinitionError, match=f"{frame}: limit=.* must be a whole number, 0 or more, or None"):
        getattr(Lab(store), frame)(limit=limit)
    for right in (None, 0, 7, 2**80):
        assert len(getattr(Lab(store), frame)(limit=right)) == 0


FIRED = {
    ("cold.on_reding", (("truck", "T2"),)): "no trigger or source 'cold.on_reding'; did you mean 'cold.on_reading'?",
    ("memroy", (("topic", "t"),)): "no trigger or source 'memroy'; did you mean 'memory'?",
    ("memory", (("topc", "t"),)): "fire memory: no setting 'topc'; did you mean 'topic'?",
    ("memory", (("topic", "reading"),)): "no trigger with \"topic='reading'\"; did you mean \"topic='readings'\"?",
}


@pytest.mark.parametrize(("target", "where"), FIRED)
async def test_what_no_trigger_takes_names_the_nearest_that_one_does(target, where):
    async with Lab("memory") as lab:
        with lab.activate():

            class Cold(Saga):
                saga_name = "cold"

                @trigger(source="memory", topic="readings")
                def on_reading(self, event): ...

        with pytest.raises(UnknownName) as raised:
            await lab.fire(target, {}, **dict(where))
        assert FIRED[target, where] in str(raised.value)
