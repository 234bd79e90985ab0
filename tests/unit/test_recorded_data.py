"""`source="recording", data=...`: equal data is the same source and the same revision, whichever object it is."""

import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagaz_lab import Lab
from sagaz_lab.model.content import PARTS, content_digest
from tests.unit.test_registry import Notebook

DATA = [
    '[{"n": 1}, {"n": 2}]',
    '({"n": 1}, {"n": 2})',
    'pd.DataFrame({"n": [1, 2], "who": ["a", None], "at": pd.to_datetime(["2024-01-01", "2024-01-02"])})',
    '[Event({"n": n}, str(n), "s", timestamp=datetime(2024, 1, 1, tzinfo=UTC)) for n in (1, 2)]',
]
CELL = """
    class Reads(Saga):
        @trigger(source="recording", data=DATA)
        def on_row(self, event):
            return {"n": event["n"]}

        @action("work")
        async def work(self, ctx):
            done.append(ctx["n"])
"""


@pytest.fixture
async def lab() -> Any:
    async with Lab("memory") as lab:
        yield lab


@pytest.fixture
def cells() -> Notebook:
    notebook = Notebook()
    notebook.run("from datetime import UTC, datetime\nimport pandas as pd\ndone = []")
    return notebook


async def drained(lab: Lab) -> None:
    await lab.start()
    await lab.drain()


@pytest.mark.parametrize("data", DATA)
async def test_a_cell_that_is_run_again_reads_it_once(lab: Lab, cells: Notebook, data: str) -> None:
    for _ in range(3):
        cells.run(CELL.replace("DATA", data))
        await drained(lab)
    assert cells.names["done"] == [1, 2]
    assert lab.sagas["Reads"].revision == 1


@pytest.mark.parametrize("data", DATA)
async def test_only_other_data_is_read_anew(lab: Lab, cells: Notebook, data: str) -> None:
    cells.run(CELL.replace("DATA", data))
    await drained(lab)
    cells.run(CELL.replace("DATA", data).replace('append(ctx["n"])', 'append(-ctx["n"])'))
    await drained(lab)
    assert cells.names["done"] == [1, 2]
    cells.run(CELL.replace("DATA", data.replace("2]", "3]").replace("2)]", "3)]").replace("2}", "3}")))
    await drained(lab)
    assert cells.names["done"] == [1, 2, 1, 3]
    assert lab.sagas["Reads"].revision == 3


async def test_another_saga_reads_equal_data_from_its_beginning(lab: Lab, cells: Notebook) -> None:
    for name in ("Reads", "Also"):
        cells.run(CELL.replace("DATA", DATA[0]).replace("Reads", name))
        await drained(lab)
    assert cells.names["done"] == [1, 2, 1, 2]


@pytest.mark.parametrize("rows", [2, PARTS])
def test_it_is_the_same_revision_in_every_process(tmp_path: Path, rows: int) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        dedent(f"""
            import sys
            padding = [object() for _ in range(int(sys.argv[1]))]
            from sagaz_lab import Lab, Saga, all_of, trigger
            def part(): return {{"source": "recording", "data": [{{"n": n}} for n in range({rows})]}}
            with Lab("memory").activate() as lab:
                class One(Saga):
                    @trigger(**part())
                    def on(self, event): ...
                    @trigger(source=all_of(part(), {{"source": "memory", "topic": "t"}}), within="1m")
                    def both(self, events): ...
            print(lab.sagas["One"].digest)
        """)
    )
    commands = [[sys.executable, str(script), number] for number in ("0", "100000")]
    digests = {subprocess.run(it, capture_output=True, text=True, check=True).stdout for it in commands}
    assert len(digests) == 1


async def test_of_data_that_is_too_large_the_new_one_is_used_and_that_is_told(lab: Lab, cells: Notebook) -> None:
    cell = CELL.replace("DATA", f'[{{"n": 1, "more": list(range({PARTS}))}}]')
    cells.run(cell)
    before = lab.sagas["Reads"]
    with lab.registry.staging() as staged:
        cells.run(cell)
    (change,) = lab.registry.commit(staged)
    assert not change.is_new
    assert "its list cannot be compared" in str(change.warnings)
    assert lab.sagas["Reads"].cls is not before.cls


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(_PLAIN)
def test_a_copy_has_the_same_content(value: Any) -> None:
    assert content_digest(value) == content_digest(deepcopy(value)) is not None
    assert content_digest([value]) != content_digest([value, value]) != content_digest([[value], value])
