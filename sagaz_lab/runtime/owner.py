"""The name of a process as an owner of triggers."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import Any


def owner_name(environment: Mapping[str, str] = os.environ, modules: Mapping[str, Any] = sys.modules) -> str:
    """The notebook's name if the kernel knows it, else the program's."""
    # A process started by a notebook inherits its environment, but is not a kernel.
    if "ipykernel" in modules:
        # Jupyter's servers set the first, VS Code the second.
        known = (environment.get("JPY_SESSION_NAME"), getattr(modules.get("__main__"), "__vsc_ipynb_file__", None))
        if path := next((path for path in known if isinstance(path, str) and path), None):
            name = re.split(r"[\\/]", path.rstrip("\\/"))[-1]
            return re.sub(r"(\.ipynb)-.*", r"\1", name) or name  # VS Code appends an id
    return os.path.basename(sys.argv[0]) or "python"
