"""Masks the credentials in a class's source code before it is stored or displayed."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Collection, Iterator
from typing import NamedTuple

from sagaz_lab.model.code import syntax_tree
from sagaz_lab.texts import FILLED_IN, HIDDEN, is_secret, masked, masked_address, secrets_of_address

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_GETTERS = ("get", "getenv", "pop", "setdefault")
_WRAPPERS = ("SecretBytes", "SecretStr", "bytes", "str", "encode", "strip")


class _Change(NamedTuple):
    """Offsets are in bytes, as in syntax trees."""

    start: int
    end: int
    text: str


def masked_code(code: str, known: Collection[str] = ()) -> str:
    """The code with `***` for each credential: in addresses, under names such as `password=`, and the `known` ones.

    Line numbers stay the same. Code that cannot be parsed is masked as plain text.
    """
    try:
        changes = list(_Masking(code, known).changes())
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError):
        return masked(code, known)
    data, end = code.encode("utf-8", "surrogatepass"), None
    for change in sorted(changes, reverse=True):
        if end is None or change.end <= end:  # a nested change is part of the outer one
            data = data[: change.start] + change.text.encode("utf-8", "surrogatepass") + data[change.end :]
            end = change.start
    text = data.decode("utf-8", "surrogatepass")
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN) if len(secret) > 3 else text
    return text


class _Masking:
    def __init__(self, code: str, known: Collection[str]) -> None:
        self._known = known
        self._data = code.encode("utf-8", "surrogatepass")
        indented = code[:1] in (" ", "\t")
        self._code = f"if 1:\n{code}" if indented else code
        self._lines = [0]
        for line in self._data.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))
        self._above = 1 if indented else 0

    def changes(self) -> Iterator[_Change]:
        tree = syntax_tree(self._code)
        secret = {id(literal) for value in _under_secret_names(tree) for literal in _literals(value)}
        yield from self._of(tree, secret)
        for token in tokenize.generate_tokens(io.StringIO(self._code).readline):
            if (
                token.type == tokenize.COMMENT
                and (text := masked(token.string, self._known, in_code=True)) != token.string
            ):
                start = len(token.line[: token.start[1]].encode("utf-8", "surrogatepass"))
                end = start + len(token.string.encode("utf-8", "surrogatepass"))
                yield _Change(self._at(token.start[0], start), self._at(token.start[0], end), text)

    def _of(self, node: ast.AST, secret: Collection[int]) -> Iterator[_Change]:
        value = _folded(node)
        if isinstance(node, ast.JoinedStr) or value is not None:
            assert isinstance(node, ast.expr)
            start, end = self._at(node.lineno, node.col_offset), self._at(node.end_lineno, node.end_col_offset)
            raw = self._data[start:end].decode("utf-8", "surrogatepass")
            text = self._literal(value, raw, hide=id(node) in secret)
            if text != raw:
                yield _Change(start, end, text + "\n" * (raw.count("\n") - text.count("\n")))
            return
        for child in ast.iter_child_nodes(node):
            yield from self._of(child, secret)

    def _literal(self, value: str | bytes | None, raw: str, *, hide: bool) -> str:
        """The masked literal; `value` is None for an f-string."""
        if value is None:
            plain = _PLACEHOLDER.sub("", raw)
            is_written = hide and re.search(r"\w", plain[2:]) is not None
            return repr(HIDDEN) if is_written else self._with_placeholders(raw)
        if not value:
            return raw
        mark = "b" if isinstance(value, bytes) else ""
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        if hide:
            return f"{mark}{HIDDEN!r}"
        shown = masked(
            masked_address(text) if secrets_of_address(text) and " " not in text else text, self._known, in_code=True
        )
        if shown == text:
            return raw
        in_lines = masked(raw, self._known, in_code=True) if "\n" in raw else raw
        if in_lines != raw and _shows_no_more(in_lines, shown):
            return in_lines  # a docstring keeps its lines
        return f"{mark}{shown!r}"

    def _with_placeholders(self, raw: str) -> str:
        """A credential from a placeholder's name is not in the code, so placeholders stay."""
        names: list[str] = []

        def take(found: re.Match[str]) -> str:
            names.append(found[0])
            return f"\0{len(names) - 1}\0"

        plain, before = raw, ""
        while plain != before:  # placeholders may be nested in a format
            plain, before = _PLACEHOLDER.sub(take, plain), plain
        plain, before = masked(plain, self._known, in_code=True), ""
        while plain != before:
            plain, before = FILLED_IN.sub(lambda found: names[int(found[0][1:-1])], plain), plain
        return plain

    def _at(self, line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return self._lines[line - 1 - self._above] + column


def _folded(node: ast.AST) -> str | bytes | None:
    """The value of a string literal or a sum of literals."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str | bytes) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _folded(node.left), _folded(node.right)
        if isinstance(left, str) and isinstance(right, str):
            return left + right
        if isinstance(left, bytes) and isinstance(right, bytes):
            return left + right
    return None


def _shows_no_more(literal: str, shown: str) -> bool:
    try:
        return bool(ast.literal_eval(literal) == shown)
    except (SyntaxError, ValueError):
        return False


def _under_secret_names(tree: ast.AST) -> Iterator[ast.expr]:
    """Values passed to, assigned to or compared with names of credentials."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword):
            pairs = [(node.arg or "", node.value)]
        elif isinstance(node, ast.Assign):
            pairs = [(_name(target), node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            pairs = [(_name(node.target), node.value)]
        elif isinstance(node, ast.Dict):
            pairs = [(_name(key), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.List | ast.Tuple):  # a command line: ["--password", "x"]
            names = (name if (name := _name(one)).startswith("-") else "" for one in node.elts)
            pairs = list(zip(names, node.elts[1:], strict=False))
        elif isinstance(node, ast.arguments):
            given = [*node.posonlyargs, *node.args][::-1]
            pairs = [(arg.arg, value) for arg, value in zip(given, node.defaults[::-1], strict=False)]
            keywords = zip(node.kwonlyargs, node.kw_defaults, strict=True)
            pairs += [(arg.arg, value) for arg, value in keywords if value is not None]
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            pairs = [(_name(one), other) for one in sides for other in sides if one is not other]
        elif isinstance(node, ast.Call) and len(node.args) == 2 and _name(node.func) in _GETTERS:
            pairs = [(_name(node.args[0]), node.args[1])]
        else:
            continue
        yield from (value for name, value in pairs if name and is_secret(name))


def _name(node: ast.AST | None) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Subscript):
        return _name(node.slice)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _literals(node: ast.AST) -> Iterator[ast.AST]:
    """The literals the value may come from."""
    if isinstance(node, ast.JoinedStr) or _folded(node) is not None:
        yield node
    elif isinstance(node, ast.BoolOp):
        yield from (found for value in node.values for found in _literals(value))
    elif isinstance(node, ast.IfExp):
        yield from (*_literals(node.body), *_literals(node.orelse))
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        yield from (found for value in node.elts for found in _literals(value))
    elif isinstance(node, ast.Call) and _name(node.func) in _GETTERS and len(node.args) == 2:
        yield from _literals(node.args[1])
    elif isinstance(node, ast.Call) and _name(node.func) in _WRAPPERS:
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        yield from (found for value in [*node.args[:1], inner] if value is not None for found in _literals(value))
