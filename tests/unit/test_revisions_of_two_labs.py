"""Two processes that define a saga of one name: a number names one code, in whichever order they meet in the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sagaz_lab import Lab, Saga, action, trigger
from tests.unit.tools import until


def define(lab: Lab, word: str) -> None:
    """A saga whose code returns the word."""
    code = f"""
class Words(Saga):
    @trigger(source="memory", topic="t")
    def on_event(self, event):
        return {{}}

    @action()
    async def say(self, ctx):
        return {{"word": {word!r}}}
"""
    names: dict[str, Any] = {"Saga": Saga, "trigger": trigger, "action": action, "__name__": "__main__"}
    with lab.activate():
        exec(code, names)


async def said(lab: Lab) -> tuple[int, str]:
    """Which revision has run, and what its code says."""
    [outcome] = await lab.fire("Words.on_event", {})
    await lab.drain()
    assert outcome.run_id is not None
    assert outcome.revision == lab.run(outcome.run_id).revision == lab.sagas["Words"].revision
    assert outcome.revision is not None
    return outcome.revision, lab.context(outcome.run_id)["word"]


def codes(lab: Lab) -> dict[int, str]:
    """By number, the digest that the store has."""
    return {row.number: row.digest for row in lab.store.revisions("Words")}


async def test_the_second_to_open_gets_the_next_number(tmp_path: Path) -> None:
    first, second = Lab(f"sqlite:///{tmp_path}/lab.db"), Lab(f"sqlite:///{tmp_path}/lab.db")
    define(first, "one")
    define(second, "two")
    assert first.sagas["Words"].revision == second.sagas["Words"].revision == 1
    async with first, second:
        assert await said(first) == (1, "one")
        assert await said(second) == (2, "two")
        assert "other code as revision 1, so this is revision 2" in str(second.status().warnings)
        assert codes(first) == {1: first.sagas["Words"].digest, 2: second.sagas["Words"].digest}
        assert second.sagas["Words"].cls.__definition__ is second.sagas["Words"]
        define(second, "three")
        define(first, "four")
        await until(lambda: len(codes(first)) == 4)
        numbers, words = zip(*[await said(lab) for lab in (first, second)], strict=True)
        assert (set(numbers), words) == ({3, 4}, ("four", "three"))  # whichever was stored first


async def test_equal_code_has_one_number(tmp_path: Path) -> None:
    first, second = Lab(f"sqlite:///{tmp_path}/lab.db"), Lab(f"sqlite:///{tmp_path}/lab.db")
    define(first, "zero")
    define(first, "one")
    define(second, "one")
    async with first, second:
        assert await said(first) == await said(second) == (2, "one")


async def test_two_that_define_at_the_same_time_while_both_are_open(tmp_path: Path) -> None:
    first, second = Lab(f"sqlite:///{tmp_path}/lab.db"), Lab(f"sqlite:///{tmp_path}/lab.db")
    async with first, second:
        define(first, "one")
        define(second, "two")  # neither has stored its own
        await until(lambda: len(codes(first)) == 2)
        await until(lambda: {lab.sagas["Words"].revision for lab in (first, second)} == {1, 2})
        assert {(await said(first))[1], (await said(second))[1]} == {"one", "two"}
        for lab in (first, second):
            assert codes(lab)[lab.sagas["Words"].revision] == lab.sagas["Words"].digest


async def test_the_first_events_of_two_new_definitions_run_under_numbers_of_their_own(tmp_path: Path) -> None:
    first, second = Lab(f"sqlite:///{tmp_path}/lab.db"), Lab(f"sqlite:///{tmp_path}/lab.db")
    async with first, second:
        for words in (("one", "two"), ("three", "four")):
            for lab, word in zip((first, second), words, strict=True):
                define(lab, word)
            said_by = await asyncio.gather(said(first), said(second))
            assert [word for _, word in said_by] == list(words)
            assert len({number for number, _ in said_by}) == 2
            for lab, (number, _) in zip((first, second), said_by, strict=True):
                assert codes(lab)[number] == lab.sagas["Words"].digest


async def test_a_lab_that_goes_on_in_another_store_takes_the_numbers_of_that(tmp_path: Path) -> None:
    async with Lab(f"sqlite:///{tmp_path}/other.db") as other:
        for word in ("a", "b", "c"):
            define(other, word)
            await said(other)
    async with Lab(f"sqlite:///{tmp_path}/lab.db") as lab:
        define(lab, "x")
        define(lab, "b")
        await said(lab)
        await lab.use(f"sqlite:///{tmp_path}/other.db")
        assert await said(lab) == (2, "b")
        assert await said(lab) == (2, "b")
        assert len(codes(lab)) == 4


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abc")), min_size=2, max_size=8), st.booleans())
def test_each_number_is_of_the_code_that_ran(steps: list[tuple[bool, str]], opens_first: bool) -> None:
    async def check() -> None:
        with TemporaryDirectory() as folder:
            labs = [Lab(f"sqlite:///{folder}/lab.db") for _ in range(2)]
            for which, word in steps:
                define(labs[which], word)
            for which, word in ((False, "d"), (True, "e")):
                define(labs[which], word)
            for lab in labs if opens_first else reversed(labs):
                await lab.open()
            for lab in labs:
                revision, _ = await said(lab)
                for number, definition in lab.registry.past("Words").items():
                    assert codes(lab)[number] == definition.digest
                assert revision == lab.sagas["Words"].revision
            for lab in labs:
                await lab.stop()

    asyncio.run(check())
