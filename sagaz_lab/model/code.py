"""Canonical texts of code: equal code has equal texts in every process, different code never has."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

PLAIN = (int, float, complex, str, bytes, tuple, frozenset, type(None))
"""Values with a canonical text."""


def syntax_tree(text: str) -> ast.AST:
    """Parse a module or a cell, with top-level await allowed. Raises `SyntaxError`, `ValueError`."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree: ast.AST = compile(text, "<cell>", "exec", flags)
    except SystemError:
        # CPython 3.11 miscounts its recursion depth if the collector runs other code meanwhile; a second call succeeds.
        tree = compile(text, "<cell>", "exec", flags)
    return tree


def constant_text(value: Any) -> str:
    """Like `repr`, with the items of sets sorted."""
    if isinstance(value, CodeType):
        return code_text(value)
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(constant_text, value))})"
    if type(value) is tuple:
        return f"({', '.join(map(constant_text, value))})"
    if type(value) is int:
        return hex(value)  # no digit limit
    return repr(value)


def code_text(code: CodeType) -> str:
    constants = ";".join(map(constant_text, code.co_consts))
    return f"{code.co_code.hex()}|{code.co_names}|{code.co_varnames}|{code.co_freevars}|{constants}"


def function_text(function: FunctionType, other: Callable[[Any], str]) -> str:
    """Its code, defaults and closure; `other` gives the text of values that are not plain."""
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # an empty cell
            continue
    return "|".join([code_text(function.__code__), *(_value_text(value, other) for value in values)])


def _value_text(value: Any, other: Callable[[Any], str]) -> str:
    if isinstance(value, FunctionType):
        return code_text(value.__code__)
    return constant_text(value) if isinstance(value, PLAIN) else other(value)
