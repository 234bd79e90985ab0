"""What becomes of a cell's text before Python sees it.

The transformers keep the lines where they are, so that a traceback names the line that the user wrote, and know
nothing of the shell: a front end may call them at any time to see whether a cell is complete.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable

from sagaz_lab.notebook.commands import awaits

_SAGA = re.compile(r"%%saga(?:[ \t]+(?P<options>[^?]*?))?\s*")
_HELP = re.compile(r"\s*%triggers[ \t]+(?P<command>[\w-]+)[ \t]*\?+\s*")
_CALL = ["get_ipython", "(", ")", ".", "run_line_magic", "(", "'triggers'", ","]


def is_saga_cell(text: str) -> bool:
    """Does the cell begin with `%%saga`?"""
    lines = text.lstrip().splitlines()
    return bool(lines) and _SAGA.fullmatch(lines[0]) is not None


def announce_saga(lines: list[str]) -> list[str]:
    """Replaces the line `%%saga ...` by a call of that magic without a body: the body stays an ordinary cell."""
    match = _SAGA.fullmatch(lines[0]) if lines else None
    if match is None:
        return lines
    return [f"get_ipython().run_cell_magic('saga', {match['options'] or ''!r}, '\\n')\n", *lines[1:]]


def ask_for_help(lines: list[str]) -> list[str]:
    """Replaces `%triggers fire?`, which IPython would read as a question about a variable `fire`."""
    match = _HELP.fullmatch(lines[0]) if len(lines) == 1 else None
    return lines if match is None else [f"%triggers help {match['command']}\n"]


def await_commands(lines: list[str]) -> list[str]:
    """Puts `await` before each call of `%triggers` that gives something to await. Runs after IPython's own."""
    if not any("run_line_magic('triggers'" in line for line in lines):
        return lines
    try:
        tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    except (tokenize.TokenError, SyntaxError):
        return lines  # Python will say what is wrong with the cell
    changed = list(lines)
    for row, column in reversed(list(_calls(tokens))):
        line = changed[row - 1]
        changed[row - 1] = f"{line[:column]}await {line[column:]}"
    return changed


def _calls(tokens: list[tokenize.TokenInfo]) -> Iterable[tuple[int, int]]:
    words = [token.string for token in tokens]
    for n in range(len(tokens) - len(_CALL)):
        if words[n : n + len(_CALL)] == _CALL and words[n - 1] != "await":
            argument = tokens[n + len(_CALL)]
            if argument.type == tokenize.STRING and awaits(ast.literal_eval(argument.string)):
                yield tokens[n].start
