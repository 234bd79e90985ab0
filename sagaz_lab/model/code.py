"""Texts that stand for code: equal in every process for equal code, and for nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any

PLAIN = (int, float, complex, str, bytes, tuple, frozenset, type(None))
"""Values that a text can stand for."""


def syntax_tree(text: str) -> ast.AST:
    """Of a module or a cell, which may use await at its top level. Raises `SyntaxError`, `ValueError`."""
    flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    try:
        tree: ast.AST = compile(text, "<cell>", "exec", flags)
    except SystemError:
        # CPython 3.11 miscounts its depth where the collector runs other code meanwhile. It does not do so twice.
        tree = compile(text, "<cell>", "exec", flags)
    return tree


def constant_text(value: Any) -> str:
    """Like `repr`, but a set has its items in one order."""
    if isinstance(value, CodeType):
        return code_text(value)
    if isinstance(value, frozenset):
        return f"frozenset({sorted(map(constant_text, value))})"
    if type(value) is tuple:
        return f"({', '.join(map(constant_text, value))})"
    if type(value) is int:
        return hex(value)  # which has no limit of digits
    return repr(value)


def code_text(code: CodeType) -> str:
    constants = ";".join(map(constant_text, code.co_consts))
    return f"{code.co_code.hex()}|{code.co_names}|{code.co_varnames}|{code.co_freevars}|{constants}"


def function_text(function: FunctionType, other: Callable[[Any], str]) -> str:
    """Its code, its defaults and what it closes over; `other` gives the text of what is not plain."""
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return "|".join([code_text(function.__code__), *(_value_text(value, other) for value in values)])


def _value_text(value: Any, other: Callable[[Any], str]) -> str:
    if isinstance(value, FunctionType):
        return code_text(value.__code__)
    return constant_text(value) if isinstance(value, PLAIN) else other(value)
