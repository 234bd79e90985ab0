"""The code blocks of a page. `python -m tests.acceptance.pages PAGE` runs them, as the tests do in a new folder.

A block is called by its language. `python` runs; `ipython` makes the whole page run in a kernel; `output` is what the
block before it prints, where `...` stands for any text; `sh` and `text` are only read. A block whose first line is
`# name.py` is a file: it is written, not run.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
LANGUAGES = {"python", "ipython", "output", "sh", "text"}
_FENCE = re.compile(r"^```(?P<language>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?P<name>\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """`line` is that of its first line in the page, counted from 0; `output` is what it is to print."""

    language: str
    text: str
    line: int
    output: str | None = None

    @property
    def file(self) -> str | None:
        match = _FILE.match(self.text)
        return match["name"] if match else None

    def check(self, printed: str) -> None:
        if self.output is not None:
            wanted = r"\s+".join(map(re.escape, self.output.split())).replace(re.escape("..."), ".*?")
            assert re.search(wanted, printed, re.DOTALL), f"line {self.line}: it prints\n{printed}\nnot\n{self.output}"


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Those that run or are files."""
    text = page.read_text()
    found = list(_FENCE.finditer(text))
    for match, after in zip_longest(found, found[1:]):
        if match["language"] in ("python", "ipython"):
            shown = after["text"] if after is not None and after["language"] == "output" else None
            yield Block(match["language"], match["text"], text[: match.start("text")].count("\n"), shown)


def fences(page: Path) -> list[str]:
    """The languages of all blocks."""
    return [match["language"] for match in _FENCE.finditer(page.read_text())]


def run(page: Path) -> None:
    """All blocks in one namespace and on one loop, in the working directory."""
    module = sys.modules["__main__"] = ModuleType("__main__")
    sys.path.insert(0, "")
    with asyncio.Runner() as runner:
        for block in blocks(page):
            if block.file:
                Path(block.file).write_text(block.text)
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                runner.run(_execute(block, page, module))
            block.check(printed.getvalue())


async def _execute(block: Block, page: Path, module: ModuleType) -> None:
    # The empty lines make a traceback name the line of the page.
    text = "\n" * block.line + block.text
    code = compile(text, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    value = eval(code, vars(module))
    if inspect.iscoroutine(value):
        await value


if __name__ == "__main__":
    run(Path(sys.argv[1]).resolve())
