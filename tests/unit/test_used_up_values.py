"""A value that reading uses up is kept by no store; a table as a stream gives its rows."""

import asyncio
import io
from collections.abc import Callable
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from sagaz_lab import Lab, OutcomeKind, Saga, action, trigger
from sagaz_lab.errors import UnstorableValue


async def agen() -> Any:
    yield 1


def generator() -> Any:
    return (n for n in range(3))


MAKERS: dict[str, Callable[[], Any]] = {
    "generator": generator,
    "async generator": agen,
    "iterator": lambda: iter([1, 2]),
    "map": lambda: map(str, [1]),
    "file": lambda: io.StringIO("line"),
    "rows of a table": lambda: pd.DataFrame({"a": [1]}).iterrows(),
    "within a list": lambda: [1, generator()],
    "within a mapping": lambda: {"rows": [{"deep": generator()}]},
}


@pytest.fixture(params=MAKERS)
def used_up(request: pytest.FixtureRequest) -> Any:
    return MAKERS[request.param]()


async def test_in_a_triggers_context_it_is_a_dead_letter_that_names_it(each_lab: Lab, used_up: Any) -> None:
    class Rows(Saga):
        @trigger(source="memory", topic="rows")
        def on_rows(self, event):
            return {"rows": used_up}

    (outcome,) = await each_lab.fire("Rows.on_rows", {})
    assert outcome.kind is OutcomeKind.DEAD
    assert "cannot be stored" in outcome.reason
    assert len(each_lab.dead_letters()) == 1


async def test_as_a_payload_it_is_a_dead_letter(each_lab: Lab, used_up: Any) -> None:
    class Rows(Saga):
        @trigger(source="memory", topic="rows")
        def on_rows(self, event):
            return {}

    (outcome,) = await each_lab.fire("Rows.on_rows", used_up)
    assert outcome.kind is OutcomeKind.DEAD


@pytest.mark.parametrize("how", ["returned", "merged", "set"])
async def test_from_an_action_it_fails_the_action(each_lab: Lab, used_up: Any, how: str) -> None:
    class Rows(Saga):
        @action("read")
        async def read(self, ctx):
            if how == "set":
                ctx["rows"] = used_up
                return None
            return {"rows": used_up} if how == "merged" else used_up

        @action("after", depends_on="read")
        async def after(self, ctx): ...

    with pytest.raises(UnstorableValue, match="cannot be stored"):
        await Rows().run()


async def test_a_coroutine_within_a_result_is_no_result(each_lab: Lab) -> None:
    waits = asyncio.sleep(0)

    class Rows(Saga):
        @action("read")
        async def read(self, ctx):
            return {"rows": waits}

    with pytest.raises(UnstorableValue):
        await Rows().run()
    await waits


class Lines:
    """A codec that writes what it is given, line by line."""

    def dump(self, value: Any, path: Any) -> None:
        path.write_text("\n".join(map(str, value)))

    def load(self, path: Any) -> list[str]:
        return list(path.read_text().split("\n"))


async def test_a_codec_may_read_it(each_lab: Lab) -> None:
    class Rows(Saga):
        @action("read", codec=Lines())
        async def read(self, ctx):
            return generator()

    await Rows().run()


TABLE = {"n": [1, 2], "name": ["a", "b"]}
ROWS = [{"n": 1, "name": "a"}, {"n": 2, "name": "b"}]


@pytest.mark.parametrize("table", [pd.DataFrame(TABLE), pa.table(TABLE), pd.DataFrame(TABLE, index=[7, 8])])
async def test_a_table_as_a_stream_gives_its_rows(each_lab: Lab, table: Any) -> None:
    class Reading(Saga):
        @trigger(source="memory", topic="tables")
        def on_table(self, event):
            return {"table": table}

        @action("read")
        async def read(self, ctx):
            return {"rows": [row async for row in ctx.stream("table")]}

    (outcome,) = await each_lab.fire("Reading.on_table", {})
    await each_lab.drain()
    assert each_lab.context(outcome.run_id or "")["rows"] == ROWS


async def test_the_columns_of_a_stream_of_rows_may_have_any_name(lab: Lab) -> None:
    class Reading(Saga):
        @action("read")
        async def read(self, ctx):
            return {"rows": [row async for row in ctx.stream("table")]}

    frame = pd.DataFrame([[1, 2]], columns=["class", "a b"])
    assert (await Reading().run({"table": frame}))["rows"] == [{"class": 1, "a b": 2}]
    assert (await Reading().run({"table": frame.iloc[:0]}))["rows"] == []
