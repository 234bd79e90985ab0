"""Recordings of events, and tables.

`tables()` loads pandas and pyarrow on first use.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from sagaz_lab.errors import SourceNotReady


def tables() -> ModuleType:
    """The module that uses pandas and pyarrow. Raises `SourceNotReady` if they are not installed."""
    try:
        return import_module("sagaz_lab.history.frames")
    except ModuleNotFoundError as error:
        if error.name not in ("pandas", "pyarrow"):
            raise
        raise SourceNotReady(f"tables need {error.name}: pip install 'sagaz-lab[frames]'") from error
