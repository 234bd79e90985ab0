"""A cell that is run again stays on nothing old: whatever the saga reaches and differs makes the next revision."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType

import pytest

from sagaz_lab import Lab
from tests.unit.test_registry import Notebook

CASES = """
=== base class
class Base(Saga, abstract=True):
    @action('a')
    def a(self, ctx): return {'n': ONE}
--- class S(Base)
pass
=== base of a base
class A(Saga, abstract=True):
    n = ONE
class Base(A, abstract=True): ...
--- class S(Base)
pass
=== mixin
class Mix:
    def helped(self): return ONE
class Base(Mix, Saga, abstract=True): ...
--- class S(Base)
pass
=== property of a mixin
class Mix:
    n = property(lambda self: ONE)
class Base(Mix, Saga, abstract=True): ...
--- class S(Base)
pass
=== metaclass's method
class Meta(type):
    def n(cls): return ONE
class Base(Saga, abstract=True, metaclass=Meta): ...
--- class S(Base)
pass
=== class attribute
WHAT = ONE
--- class S(Saga)
what = WHAT
=== list attribute
WHAT = [ONE, {'a': {2, 3}}]
--- class S(Saga)
what = WHAT
=== object as attribute
class Model:
    def __init__(self, n): self.n = n
WHAT = Model(ONE)
--- class S(Saga)
what = WHAT
=== object with slots
class Model:
    __slots__ = ('n',)
    def __init__(self, n): self.n = n
WHAT = Model(ONE)
--- class S(Saga)
what = WHAT
=== array
import numpy as np
WHAT = np.arange(3) + ONE
--- class S(Saga)
what = WHAT
=== table
import pandas as pd
WHAT = pd.DataFrame({'n': [ONE]})
--- class S(Saga)
what = WHAT
=== pattern
import re
WHAT = re.compile('x' * 300 + 'ONE')
--- class S(Saga)
what = WHAT
=== class as attribute
class Model:
    def n(self): return ONE
--- class S(Saga)
what = Model
=== saga as attribute
class Other(Saga):
    n = ONE
--- class S(Saga)
what = Other
=== enum
import enum
class Kind(enum.Enum):
    A = ONE
--- class S(Saga)
what = Kind.A
=== lambda as attribute
WHAT = lambda: ONE
--- class S(Saga)
what = staticmethod(WHAT)
=== partial
from functools import partial
WHAT = partial(max, ONE)
--- class S(Saga)
what = WHAT
=== bound method
class Model:
    def n(self): return ONE
WHAT = Model().n
--- class S(Saga)
what = staticmethod(WHAT)
=== method of a list
WHAT = [ONE].count
--- class S(Saga)
what = staticmethod(WHAT)
=== default
WHAT = ONE
--- class S(Saga)
@action('b')
def b(self, ctx, n=WHAT): ...
=== default that must be named
WHAT = ONE
--- class S(Saga)
@action('b')
def b(self, ctx, *, n=WHAT): ...
=== closure
def made(n):
    def b(self, ctx): return {'n': n}
    return action('b')(b)
WHAT = ONE
--- class S(Saga)
b = made(WHAT)
=== closure of a closure
def made(n):
    def inner(): return n
    def b(self, ctx): return inner()
    return action('b')(b)
WHAT = ONE
--- class S(Saga)
b = made(WHAT)
=== decorator's argument
import functools
def times(n):
    def wrap(f):
        @functools.wraps(f)
        def call(*a): return f(*a), n
        return call
    return wrap
WHAT = ONE
--- class S(Saga)
@action('b')
@times(WHAT)
def b(self, ctx): ...
=== decorated helper
import functools
def times(n):
    def wrap(f):
        @functools.wraps(f)
        def call(*a): return f(*a), n
        return call
    return wrap
@times(ONE)
def helper(): ...
--- class S(Saga)
def b(self): return helper()
=== cached helper
import functools
@functools.lru_cache
def helper(): return ONE
--- class S(Saga)
def b(self): return helper()
=== which function a name is
import math
helper = math.sin if ONE == 1 else math.cos
--- class S(Saga)
def b(self): return helper(1)
=== global list
WHAT = [ONE]
--- class S(Saga)
def b(self): return WHAT
=== global object
class Model:
    n = ONE
WHAT = Model()
--- class S(Saga)
def b(self): return WHAT.n
=== listener's argument
class Hears(SagaListener):
    def __init__(self, n): self.n = n
WHAT = ONE
--- class S(Saga)
listeners = (Hears(WHAT),)
=== listener's method
class Hears(SagaListener):
    def on_saga_start(self, *a): return ONE
--- class S(Saga)
listeners = (Hears(),)
=== option
WHAT = ONE
--- class S(Saga)
@action('b', max_retries=WHAT)
def b(self, ctx): ...
=== codec's state
class Codec:
    def __init__(self, n): self.n = n
    def dump(self, value, path): ...
    def load(self, path): ...
WHAT = ONE
--- class S(Saga)
@action('b', codec=Codec(WHAT))
def b(self, ctx): ...
=== key function's closure
def by(n):
    return lambda event: n
WHAT = ONE
--- class S(Saga)
@trigger(source='memory', topic='b', idempotency_key=by(WHAT))
def b(self, event): ...
=== dataclass
@dataclass
class Item:
    n: int = ONE
--- class S(Saga)
PAYLOAD
=== field of a dataclass
@dataclass
class Item:
    n: int
    m: list = field(default_factory=lambda: [ONE])
--- class S(Saga)
PAYLOAD
=== nested dataclass
@dataclass
class Inner:
    n: int = ONE
@dataclass
class Item:
    inner: Inner
--- class S(Saga)
PAYLOAD
=== nested dataclass that a text names
@dataclass
class Inner:
    n: int = ONE
@dataclass
class Item:
    inner: 'list[Inner] | None' = None
--- class S(Saga)
PAYLOAD
=== base of a dataclass
@dataclass
class Base0:
    n: int = ONE
@dataclass
class Item(Base0): ...
--- class S(Saga)
PAYLOAD
=== property of a dataclass
@dataclass
class Item:
    n: int
    @property
    def twice(self): return self.n + ONE
--- class S(Saga)
PAYLOAD
=== check of a dataclass
@dataclass
class Item:
    n: int
    def __post_init__(self): assert self.n > ONE
--- class S(Saga)
PAYLOAD
=== typed dict
class Item(TypedDict):
    n: Literal[ONE]
--- class S(Saga)
PAYLOAD
=== struct
class Item(msgspec.Struct):
    n: Annotated[int, msgspec.Meta(gt=ONE)]
--- class S(Saga)
PAYLOAD
=== struct's default
class Item(msgspec.Struct):
    n: int = ONE
--- class S(Saga)
PAYLOAD
=== struct's options
class Item(msgspec.Struct, frozen=bool(ONE == 1)):
    n: int
--- class S(Saga)
PAYLOAD
=== struct's names in JSON
class Item(msgspec.Struct, rename="lower" if ONE == 1 else "upper"):
    aB: int = 1
--- class S(Saga)
PAYLOAD
=== struct's names in JSON, one by one
class Item(msgspec.Struct):
    n: int = msgspec.field(name=str(ONE))
--- class S(Saga)
PAYLOAD
=== model
class Item(pydantic.BaseModel):
    n: int = ONE
--- class S(Saga)
PAYLOAD
=== model's constraint
class Item(pydantic.BaseModel):
    n: int = pydantic.Field(gt=ONE)
--- class S(Saga)
PAYLOAD
=== model's validator
class Item(pydantic.BaseModel):
    n: int
    @pydantic.field_validator('n')
    @classmethod
    def check(cls, value): return value + ONE
--- class S(Saga)
PAYLOAD
=== model's kind of validator
class Item(pydantic.BaseModel):
    n: int
    @pydantic.field_validator('n', mode='before' if ONE == 1 else 'after')
    @classmethod
    def check(cls, value): return value
--- class S(Saga)
PAYLOAD
=== model's settings
class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(str_max_length=ONE)
    n: str
--- class S(Saga)
PAYLOAD
=== model in a model
class Inner(pydantic.BaseModel):
    n: int = ONE
class Item(pydantic.BaseModel):
    inner: list[Inner]
--- class S(Saga)
PAYLOAD
=== union
@dataclass
class One:
    n: int = ONE
Item = Optional[One]
--- class S(Saga)
PAYLOAD
=== list of payloads
@dataclass
class One:
    n: int = ONE
Item = list[One | None]
--- class S(Saga)
PAYLOAD
"""
"""Cells of helpers, and the body of the saga that reaches them. `ONE` is edited."""

REACHED = {name: rest for name, _, rest in (case.partition("\n") for case in CASES.split("=== ")[1:])}
HEAD = """
import msgspec
import pydantic
from dataclasses import dataclass, field
from typing import *
"""
PAYLOAD = "@trigger(source='memory', topic='p')\ndef on_p(self, event: Item): ..."
TRIGGER = "@trigger(source='memory', topic='t')\ndef on_e(self, event): return {}"


def cells(case: str) -> tuple[str, str, str]:
    """The helper's cell, the same edited, and the saga's."""
    helper, _, saga = REACHED[case].partition("--- ")
    head, _, body = saga.partition("\n")
    body = indent(body.replace("PAYLOAD", PAYLOAD) + TRIGGER, "    ")
    return helper.replace("ONE", "1"), helper.replace("ONE", "2"), f"{head}:\n{body}"


def a_notebook() -> Notebook:
    """Its names are those of `__main__`, as a kernel's are."""
    notebook, module = Notebook(), ModuleType("__main__")
    sys.modules["__main__"] = module
    module.__dict__.update(notebook.names)
    notebook.names = module.__dict__
    notebook.run(HEAD)
    return notebook


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Notebook:
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    return a_notebook()


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("memory").activate() as lab:
        yield lab


@pytest.mark.parametrize("case", REACHED)
def test_an_edited_cell_that_the_saga_reaches_makes_the_next_revision(lab: Lab, notebook: Notebook, case: str) -> None:
    helper, edited, saga = cells(case)
    for text in (helper, saga, edited, saga):
        notebook.run(text)
        lab.registry.refresh()
    assert lab.sagas["S"].revision == 2


@pytest.mark.parametrize("case", REACHED)
def test_cells_that_run_again_unchanged_make_none(lab: Lab, notebook: Notebook, case: str) -> None:
    helper, _, saga = cells(case)
    for text in (helper, saga, helper, saga, saga):
        notebook.run(text)
        lab.registry.refresh()
    assert lab.sagas["S"].revision == 1


def test_every_process_gives_them_the_same_digests(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(dedent("""
        from tests.unit.test_what_a_saga_reaches import REACHED, Lab, a_notebook, cells
        for case in REACHED:
            with Lab("memory").activate() as lab:
                notebook = a_notebook()
                notebook.run(cells(case)[0])
                notebook.run(cells(case)[2])
                print(case, lab.sagas["S"].digest)
    """))  # fmt: skip
    told = [
        subprocess.run(
            [sys.executable, script],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(set(told[0])) == len(REACHED)


PAYLOADS = {
    "dataclass": "@dataclass\nclass Inner:\n    m: int\n@dataclass\nclass Item:\n    n: int\n    inner: Inner",
    "struct": "class Inner(msgspec.Struct):\n    m: int\nclass Item(msgspec.Struct):\n    n: int\n    inner: Inner",
    "model": "from pydantic import BaseModel as Model\nclass Inner(Model):\n    m: int\n"
    "class Item(Model):\n    n: int\n    inner: Inner",
}


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("again", ["unchanged", "with a new field", "the saga alone"])
async def test_a_payload_of_a_class_that_was_made_anew_still_fits(notebook: Notebook, kind: str, again: str) -> None:
    saga = """
        class S(Saga):
            @trigger(source="memory", topic="t")
            def on_e(self, event: Item): return {"n": event.n, "m": event.inner.m, "fits": type(event)}
    """
    async with Lab("memory") as lab:
        notebook.run(PAYLOADS[kind], saga)
        fits = notebook.names["Item"]
        if again == "the saga alone":
            before = notebook.names["Item"](n=1, inner=notebook.names["Inner"](m=2))
            notebook.run(PAYLOADS[kind], saga)
        else:
            more = "\n    more: int = 0" if again == "with a new field" else ""
            notebook.run(PAYLOADS[kind] + more)
            before = notebook.names["Item"](n=1, inner=notebook.names["Inner"](m=2))
        (outcome,) = await lab.fire("S.on_e", before)
        context = lab.context(outcome.run_id)
        assert (context["n"], context["m"]) == (1, 2)
        assert context["fits"] in (fits, notebook.names["Item"])


async def test_another_class_does_not_fit_because_its_fields_do(notebook: Notebook) -> None:
    async with Lab("memory") as lab:
        notebook.run(PAYLOADS["dataclass"], PAYLOADS["dataclass"].replace("Item", "Other"))
        notebook.run("class S(Saga):\n    @trigger(source='memory')\n    def on_e(self, event: Item): return {}")
        (outcome,) = await lab.fire("S.on_e", notebook.names["Other"](1, notebook.names["Inner"](2)))
        assert outcome.kind == "dead"


async def test_what_cannot_be_compared_is_the_new_cells(notebook: Notebook) -> None:
    cell = """
        import threading
        class Gate:
            def __init__(self): self.lock = threading.Lock()
        class S(Saga):
            gate = Gate()
            @action()
            async def work(self, ctx): return {"gate": id(self.gate.lock)}
    """
    async with Lab("memory") as lab:
        notebook.run(cell)
        notebook.run("1")
        assert lab.registry.refresh() == []
        with lab.registry.staging() as staged:
            notebook.run(cell)
        changes = lab.registry.commit(staged)
        assert lab.sagas["S"].cls is notebook.names["S"]
        assert lab.sagas["S"].revision == 1
        assert "its lock cannot be compared" in changes[0].warnings[0]
        assert (await notebook.names["S"]().run())["gate"] == id(notebook.names["S"].gate.lock)


async def test_what_changes_in_place_while_it_runs_is_state(notebook: Notebook) -> None:
    cell = """
        seen, counts = [], {"n": 0}
        def remember(known=[]):
            known.append(1)
        class S(Saga):
            total = 0
            kept = []
            @action()
            async def work(self, ctx):
                seen.append(1)
                counts["n"] += 1
                type(self).total += 1
                self.kept.append(1)
                remember()
    """
    async with Lab("memory") as lab:
        notebook.run(cell)
        await notebook.names["S"]().run()
        assert lab.registry.refresh() == []
        notebook.run(cell)
        assert lab.sagas["S"].revision == 1


def test_a_change_says_what_has_changed_outside_the_text_of_the_class(lab: Lab, notebook: Notebook) -> None:
    saga = "class S(Base):\n    what = WHAT\n    @action()\n    def work(self, ctx): ..."
    notebook.run("WHAT = 1\nclass Base(Saga, abstract=True):\n    n = 1", saga)
    with lab.registry.staging() as staged:
        notebook.run("WHAT = 2\nclass Base(Saga, abstract=True):\n    n = 2", saga)
    changes = lab.registry.commit(staged)
    assert changes[0].warnings == ["helper changed: Base", "value changed: S.what"]
