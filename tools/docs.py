"""tools/docs.py [--check]: writes the parts of docs/ that are made from the code, or says which are out of date.

Such a part stands between the lines `<!-- from the code: NAME -->` and `<!-- end -->`; or it is a picture of
`tools/timelines.py`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import timelines

from sagaz_lab import errors
from sagaz_lab.model.options import KINDS
from sagaz_lab.notebook.commands import COMMANDS
from sagaz_lab.sources import ADAPTERS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sagaz_lab"
_PART = re.compile(r"(?<=<!-- from the code: )(?P<name>[\w ]+) -->\n.*?(?=<!-- end -->)", re.DOTALL)


def tables_of_options() -> str:
    """What each kind of source takes."""
    lines = []
    for kind, takes in KINDS.items():
        lines.append(f"### `{kind}`\n")
        if kind not in ADAPTERS and kind != "custom":
            lines.append("It can be defined and fed with `fire`; there is no adapter to start it yet.\n")
        lines += ["| option | default | description |", "|---|---|---|"]
        for name, option in takes.items():
            default = "required" if option.required else "" if option.default is None else f"`{option.default!r}`"
            lines.append(f"| `{name}` | {default} | {option.about} |")
        lines.append("")
    return "\n".join(lines)


def table_of_commands() -> str:
    """The sub-commands of `%triggers`."""
    rows = []
    for command in COMMANDS.values():
        what = " ".join(line for line in command.what.splitlines() if "%triggers" not in line).replace("|", "\\|")
        usage = f"%triggers {command.usage}".replace("|", "\\|")
        rows.append(f"| `{usage}` | {' '.join(what.split())} |")
    return "\n".join(["| line | description |", "|---|---|", *rows, ""])


def tree_of_errors() -> str:
    """As their module draws it."""
    tree = (errors.__doc__ or "").partition("\n\n")[2].strip()
    return f"```text\n{tree}\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "options": tables_of_options,
    "commands": table_of_commands,
    "errors": tree_of_errors,
}


def renewed(text: str) -> str:
    return _PART.sub(lambda part: f"{part['name']} -->\n\n{PARTS[part['name']]()}\n", text)


def wanted() -> Iterator[tuple[Path, str]]:
    """Each file with what it is to be."""
    for page in sorted((ROOT / "docs").rglob("*.md")):
        yield page, renewed(page.read_text())
    logging.disable()  # what befalls the runs of the pictures is meant to
    for name, svg in timelines.pictures().items():
        yield ROOT / "docs" / "images" / "flow" / f"{name}.svg", svg


def main() -> int:
    stale = []
    for page, after in wanted():
        before = page.read_text() if page.exists() else None
        if after != before:
            stale.append(page.relative_to(ROOT).as_posix())
            if "--check" not in sys.argv:
                page.write_text(after)
    if stale:
        print("out of date:" if "--check" in sys.argv else "written:", *stale)
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
