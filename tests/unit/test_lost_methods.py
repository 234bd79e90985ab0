"""A class never loses a decorated method in silence: two of one name, or one that something else replaces."""

from __future__ import annotations

import functools
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Lab, Saga, action, compensate, forward_recovery, trigger
from sagaz_lab.errors import DefinitionError


@pytest.fixture(autouse=True, scope="module")
def lab() -> Iterator[Lab]:
    with Lab("memory").activate() as lab:
        yield lab


def without_wraps(function: Any) -> Any:
    def other(self: Any, ctx: Any) -> Any:
        return function(self, ctx)

    return other


def with_wraps(function: Any) -> Any:
    return functools.wraps(function)(without_wraps(function))


def shorthand(function: Any) -> Any:
    return action("short", max_retries=3)(function)


CLASS = "class Pay(Saga{options}):\n{body}"
MARKS = {
    "trigger": "    @trigger(source='memory', topic='{topic}')\n    def {name}(self, event): return {{}}\n",
    "action": "    @action('{topic}')\n    def {name}(self, ctx): ...\n",
    "own": "    @shorthand\n    def {name}(self, ctx): ...\n",
    "compensate": "    @compensate('a')\n    def {name}(self, ctx): ...\n",
    "recovery": "    @forward_recovery('a')\n    def {name}(self, ctx, error): ...\n",
    "wrapped": "    @action('{topic}')\n    @with_wraps\n    def {name}(self, ctx): ...\n",
    "plain": "    def {name}(self): ...\n",
    "value": "    {name} = 3\n",
}


def run(body: str, options: str = "", **names: Any) -> Any:
    space = {**globals(), **names}
    exec(compile(CLASS.format(options=options, body=body), "cell", "exec"), space)
    return space["Pay"]


def says(*texts: str) -> Any:
    return pytest.raises(DefinitionError, match=".*".join(map(re.escape, texts)))


def test_two_compensations_of_one_name_are_refused_with_both_lines() -> None:
    body = """    @action("charge")
    def charge(self, ctx): ...
    @compensate("charge")
    def undo(self, ctx): ...
    @action("book")
    def book(self, ctx): ...
    @compensate("book")
    def undo(self, ctx): ...
"""
    both = "@compensate('charge') at line 4 and @compensate('book') at line 8"
    with says(f"Pay.undo: two methods have this name, {both}; give each its own name"):
        run(body)
    with says("Pay.undo: two methods have this name"):
        run(body, ", abstract=True")


@given(st.sampled_from(sorted(MARKS.keys() - {"plain", "value"})), st.sampled_from(sorted(MARKS)))
def test_whatever_replaces_a_decorated_method_is_refused(first: str, second: str) -> None:
    lines = MARKS[first].format(name="on", topic="a")
    replaced_at = "" if second == "value" else f"at line {lines.count(chr(10)) + 2}"
    with pytest.raises(DefinitionError, match=r"^Pay.on: ") as caught:
        run(lines + MARKS[second].format(name="on", topic="b"))
    assert "at line 2" in str(caught.value)
    assert replaced_at in str(caught.value)
    assert "above" not in str(caught.value)


def test_a_decorator_above_that_hides_the_mark_is_refused() -> None:
    with says("Pay.w: the decorator above @action('w') at line 3 replaces the method; write it below"):
        run("    @without_wraps\n    @action('w')\n    def w(self, ctx): ...\n")
    with says("Pay.w: the decorator above @action('w') at line 3"):
        run("    @property\n    @action('w')\n    def w(self, ctx): ...\n")
    assert run("    @with_wraps\n    @action('w')\n    def w(self, ctx): ...\n").__definition__.actions.keys() == {"w"}


def test_a_method_that_a_wrapper_renames_is_missed_too() -> None:
    body = "    @action('{0}')\n    @without_wraps\n    def w(self, ctx): ...\n"
    with says("Pay.other: the class has lost the method of @action('a') at line 2"):
        run(body.format("a") + body.format("b"))


def test_methods_in_a_loop_are_kept_under_names_of_their_own() -> None:
    step = "    for i in range(3):\n        @action(f'a{i}')\n        def step(self, ctx): ...\n"
    with says("Pay.step: two methods have this name, @action('a0') at line 3 and @action('a2') at line 3"):
        run(step)
    assert len(run(f"{step}        vars()[f'a{{i}}'] = step\n    del step, i\n").__definition__.actions) == 3


def test_a_cell_run_again_overrides_and_renamed_methods_are_no_loss() -> None:
    body = MARKS["action"].format(name="w", topic="a") + MARKS["trigger"].format(name="on", topic="a")
    for _ in range(2):
        base = run(body, ", abstract=True")
        child = run(body, "", Saga=base)
        assert child.__definition__.actions.keys() == {"a"}
    assert not [name for name in vars(base) if "written" in name]
    assert run("    @action('a')\n    def w(self, ctx): ...\n    v = w\n    del w\n").__definition__.actions["a"]
    assert run("    @shorthand\n    def w(self, ctx): ...\n").__definition__.actions.keys() == {"short"}


def test_a_plain_mixin_is_looked_at_when_a_saga_takes_it() -> None:
    space: dict[str, Any] = dict(globals())
    exec("class Mixin:\n" + MARKS["action"].format(name="w", topic="a") * 2, space)
    for _ in range(2):
        with says("Mixin.w: two methods have this name"):
            run("    ...\n", ", Mixin", Mixin=space["Mixin"])


def test_methods_made_outside_of_a_class_body_belong_to_none() -> None:
    def fill(names: dict[str, Any]) -> None:
        for name in ("w", "v"):

            @action(name)
            def step(self: Any, ctx: Any) -> None: ...

            names[name] = step

    assert types.new_class("Made", (Saga,), {}, fill).__definition__.actions.keys() == {"w", "v"}  # type: ignore[attr-defined]


class CallableObject:
    def __call__(self, one: Any, two: Any = None) -> None: ...


@pytest.mark.parametrize(
    "given", [functools.partial(print), classmethod(print), staticmethod(print), CallableObject(),
              functools.lru_cache(lambda self, ctx: None), print], ids=lambda it: type(it).__name__
)  # fmt: skip
@pytest.mark.parametrize(
    "decorate", [action("w"), compensate("w"), forward_recovery("w"), trigger(source="memory", topic="t")]
)
def test_what_is_no_function_is_refused_by_name(decorate: Callable[[Any], Any], given: Any) -> None:
    with says("@", "on ", f"it is a {type(given).__name__}; decorate a method written with def"):
        decorate(given)
