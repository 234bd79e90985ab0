"""Transforms a cell's text before Python sees it.

The transformers keep line numbers, so that tracebacks match the user's code. They do not depend on the shell: a front
end may call them at any time to check whether a cell is complete.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterable
from contextlib import suppress

from sagaz_lab.notebook.commands import awaits
from sagaz_lab.notebook.wrapped import misplaced

_SAGA = re.compile(r"%%saga(?:[ \t]+(?P<options>[^?]*?))?\s*")
_TIMED = re.compile(r"%triggers timed\s*")
_NOTHING = re.compile(r"\s*(#|$)")
_HELP = re.compile(r"\s*%triggers[ \t]+(?P<command>[\w-]+)[ \t]*\?+\s*")
_CALL = ["get_ipython", "(", ")", ".", "run_line_magic", "(", "'triggers'", ","]


def is_saga_cell(text: str) -> bool:
    """Whether the cell begins with `%%saga`, ignoring comments."""
    lines = text.splitlines()
    at = _after_comments(lines, 0)
    return at < len(lines) and _SAGA.fullmatch(lines[at].lstrip()) is not None


def announce_saga(lines: list[str]) -> list[str]:
    """Replace the line `%%saga ...` with a call of that magic without a body: the body remains an ordinary cell.

    The call goes after imports from `__future__`, which must come first. So does the call of `%triggers timed`, which
    replaces `%%time`.
    """
    first = 1 if lines and _TIMED.fullmatch(lines[0]) else 0
    at = _after_comments(lines, first)
    match = _SAGA.fullmatch(lines[at]) if at < len(lines) else None
    calls = ["get_ipython().run_line_magic('triggers', 'timed')"] if first else []
    if match is not None:
        calls.append(f"get_ipython().run_cell_magic('saga', {match['options'] or ''!r}, '\\n')")
    if not calls:
        return lines
    body = lines[first if match is None else at + 1 :]
    before = ["\n"] * (len(lines) - len(body))
    place = _after_future(body)
    if place is None:
        return [*before[1:], f"{'; '.join(calls)}\n", *body]
    row, column = place
    body[row] = f"{body[row][:column]}; {'; '.join(calls)}{body[row][column:]}"
    return [*before, *body]


def _after_comments(lines: list[str], first: int) -> int:
    """The first line from `first` on that is neither blank nor a comment."""
    return next((n for n in range(first, len(lines)) if not _NOTHING.match(lines[n])), len(lines))


def _after_future(body: list[str]) -> tuple[int, int] | None:
    """The end of the cell's last `from __future__ import`, which only a docstring may precede."""
    found: tuple[int, int] | None = None
    words: list[tokenize.TokenInfo] = []
    try:
        for token in tokenize.generate_tokens(iter(body).__next__):
            if token.type in (tokenize.COMMENT, tokenize.NL):
                continue
            if token.type != tokenize.NEWLINE:
                words.append(token)
                continue
            if [word.string for word in words[:2]] == ["from", "__future__"]:
                found = (words[-1].end[0] - 1, words[-1].end[1])
            elif [word.type for word in words] != [tokenize.STRING]:
                return found
            words = []
    except (tokenize.TokenError, SyntaxError):
        pass
    return found


def ask_for_help(lines: list[str]) -> list[str]:
    """Replace `%triggers fire?`, which IPython would read as help on a variable `fire`."""
    match = _HELP.fullmatch(lines[0]) if len(lines) == 1 else None
    return lines if match is None else [f"%triggers help {match['command']}\n"]


def await_commands(lines: list[str]) -> list[str]:
    """Put `await` before each awaitable call of `%triggers`. Runs after IPython's own transformers.

    If `await` is not allowed there (in a plain `def` or a class), one line that reports it replaces the cell.
    """
    if not any("run_line_magic('triggers'" in line for line in lines):
        return lines
    try:
        tokens = list(tokenize.generate_tokens(iter(lines).__next__))
    except (tokenize.TokenError, SyntaxError):
        return lines  # Python will report the error
    changed = list(lines)
    calls = list(_calls(tokens))
    for row, column, _ in reversed(calls):
        line = changed[row - 1]
        changed[row - 1] = f"{line[:column]}await {line[column:]}"
    scopes = _scopes_that_cannot_await(changed)
    for row, _, command in calls:
        if row in scopes:
            call = f"get_ipython().run_line_magic('triggers', {misplaced(row, command, scopes[row])!r})\n"
            return [call, *["\n"] * (len(lines) - 1)]
    return changed


def _calls(tokens: list[tokenize.TokenInfo]) -> Iterable[tuple[int, int, str]]:
    """Row, column and line of each awaitable `%triggers`."""
    words = [token.string for token in tokens]
    for n in range(len(tokens) - len(_CALL)):
        if words[n : n + len(_CALL)] == _CALL and words[n - 1] != "await":
            argument = tokens[n + len(_CALL)]
            if argument.type == tokenize.STRING and awaits(line := ast.literal_eval(argument.string)):
                yield *tokens[n].start, line


def _scopes_that_cannot_await(lines: list[str]) -> dict[int, str]:
    """For each row with a misplaced `await`: the innermost plain function or class around it."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, scope: str) -> None:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                scope = f"{'class' if isinstance(node, ast.ClassDef) else 'def'} {node.name}"
            case ast.AsyncFunctionDef():
                scope = ""
            case ast.Await() if scope:
                found[node.lineno] = scope
        for child in ast.iter_child_nodes(node):
            visit(child, scope)

    with suppress(SyntaxError, ValueError):  # Python will report the error
        visit(ast.parse("".join(lines)), "")
    return found
