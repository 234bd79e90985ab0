"""One measurement, in a process of its own: `python -m tests.benchmarks.measure MODULE N OPTIONS_AS_JSON`.

Prints the figure on its last line.
"""

from __future__ import annotations

import asyncio
import json
import sys
from importlib import import_module


def main() -> None:
    module_name, n, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    module = import_module(f"tests.benchmarks.{module_name}")
    print(json.dumps(asyncio.run(module.measure(n, **options))))


if __name__ == "__main__":
    main()
