"""An owner of triggers is named as its user knows it: by the notebook, if the kernel knows which."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sagaz_lab import Lab, Saga, trigger
from sagaz_lab.errors import TriggersOwned
from sagaz_lab.runtime.owner import owner_name

KERNEL = {"ipykernel": object()}


@pytest.mark.parametrize(
    ("environment", "main", "name"),
    [
        ({"JPY_SESSION_NAME": "/home/ada/work/drift.ipynb"}, {}, "drift.ipynb"),
        ({"JPY_SESSION_NAME": "drift.ipynb"}, {}, "drift.ipynb"),
        ({"JPY_SESSION_NAME": r"C:\\work\\drift.ipynb"}, {}, "drift.ipynb"),
        ({"JPY_SESSION_NAME": "/work/drift.ipynb-jvsc-7b1f"}, {}, "drift.ipynb"),
        ({"JPY_SESSION_NAME": "Console 1"}, {}, "Console 1"),
        ({}, {"__vsc_ipynb_file__": "/work/drift.ipynb"}, "drift.ipynb"),
        ({"JPY_SESSION_NAME": ""}, {}, Path(sys.argv[0]).name),
        ({}, {}, Path(sys.argv[0]).name),
    ],
)
def test_a_kernel_is_named_by_its_notebook(environment: dict[str, str], main: dict[str, str], name: str) -> None:
    assert owner_name(environment, {**KERNEL, "__main__": SimpleNamespace(**main)}) == name


def test_a_program_that_a_notebook_has_started_is_named_by_itself() -> None:
    assert owner_name({"JPY_SESSION_NAME": "/work/drift.ipynb"}, {}) == Path(sys.argv[0]).name


async def test_who_comes_second_hears_which_notebook_was_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", KERNEL)
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/ada/drift.ipynb")
    first, second = (Lab(store=f"sqlite:///{tmp_path / 'lab.db'}") for _ in range(2))
    for lab in (first, second):
        with lab.activate():
            define()
    await first.start()
    with pytest.raises(TriggersOwned, match=r"already run by drift\.ipynb \(process"):
        await second.start()
    await asyncio.gather(first.stop(), second.stop())


def define() -> type[Saga]:
    class Flow(Saga):
        saga_name = "flow"

        @trigger(source="memory", topic="flow")
        def on_event(self, event: Any) -> None: ...

    return Flow
