"""Explains a `TypeError` from a wrong call of one of this package's functions in the style of its other errors.

It works from the traceback of the failed call, so a correct call costs nothing.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import linecache
import re
import sys
from collections.abc import Callable, Iterator
from dis import opmap
from itertools import islice
from types import FrameType, ModuleType, TracebackType
from typing import Any

from sagaz_lab.errors import UnknownName

_REFUSED = re.compile(r"(?P<function>[\w.]+)\(\) (?P<what>(?:got|missing|takes) .*)")
_UNKNOWN = re.compile(r"got an unexpected keyword argument '(\w+)'")
_MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.*)")
_CONSTRUCTORS = ("__init__", "__new__")


def explain(error: BaseException) -> str | None:
    """The problem with a call of one of this package's functions; None for other errors."""
    refused = _REFUSED.match(str(error)) if type(error) is TypeError else None
    step = _last_of_others(error)
    if refused is None or step is None or is_own_error(error):
        return None
    node = _expression(step)
    function = _called(node, step.tb_frame, refused["function"])
    if function is None:
        return None
    return _said(function, refused["what"], is_bare=isinstance(node, ast.Name | ast.Attribute))


def is_own_error(error: BaseException) -> bool:
    """Whether this package raised it: such an error explains itself."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or not _is_ours(last.tb_frame.f_globals.get("__name__")):
        return False
    return last.tb_frame.f_code.co_code[last.tb_lasti] == opmap["RAISE_VARARGS"]


def _last_of_others(error: BaseException) -> TracebackType | None:
    """The innermost frame outside this package, since the Lab's methods are called through its loop."""
    found, step = None, error.__traceback__
    while step is not None:
        if not _is_ours(step.tb_frame.f_globals.get("__name__")):
            found = step
        step = step.tb_next
    return found


def _is_ours(module: Any) -> bool:
    return str(module).partition(".")[0] == "sagaz_lab"


def _expression(step: TracebackType) -> ast.expr | None:
    """The failed call or decorator in the source; None if its position is not known exactly."""
    code = step.tb_frame.f_code
    place = next(islice(code.co_positions(), step.tb_lasti // 2, None), None)
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename, step.tb_frame.f_globals)))
    except (SyntaxError, ValueError):
        return None
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call | ast.Name | ast.Attribute)
        and (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset) == place
    ]
    return found[0] if found else None


def _called(node: ast.expr | None, frame: FrameType, name: str) -> Callable[..., Any] | None:
    """The function of this package that the expression calls by that name."""
    try:
        callee = _value(node.func if isinstance(node, ast.Call) else node, frame)
    except LookupError:
        callee = _method(name)
    functions = [callee, *(getattr(callee, made, None) for made in _CONSTRUCTORS if isinstance(callee, type))]
    found = next((it for it in functions if getattr(it, "__qualname__", "") == name), None)
    return found if _is_ours(getattr(found, "__module__", "")) or _is_ours(getattr(callee, "__module__", "")) else None


def _value(node: ast.expr | None, frame: FrameType) -> Any:
    """Resolve a name without running user code. Raises `LookupError`."""
    if isinstance(node, ast.Name):
        for names in (frame.f_locals, frame.f_globals, vars(builtins)):
            if node.id in names:
                return names[node.id]
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        if isinstance(owner, ModuleType) or _is_ours(type(owner).__module__):
            return getattr(owner, node.attr, None)
        found = inspect.getattr_static(owner, node.attr, None)
        if not inspect.isdatadescriptor(found):
            return getattr(found, "__func__", found)
    raise LookupError


def _method(name: str) -> Any:
    """The method `Class.method` of this package."""
    owner, _, attribute = name.partition(".")
    for module in [one for path, one in sys.modules.items() if attribute and _is_ours(path)]:
        cls = vars(module).get(owner)
        if isinstance(cls, type) and cls.__module__ == module.__name__:
            return getattr(cls, attribute, None)
    return None


def _said(function: Callable[..., Any], what: str, *, is_bare: bool) -> str:
    path = function.__qualname__.split(".")
    name = ".".join(path[:-1] if path[-1] in _CONSTRUCTORS else path)
    if is_bare:
        return f"@{name}: write @{name}(...) with parentheses"
    parameters = list(_parameters(function))
    if unknown := _UNKNOWN.match(what):
        known = [it.name for it in parameters if it.kind in (it.POSITIONAL_OR_KEYWORD, it.KEYWORD_ONLY)]
        return str(UnknownName(f"{name}()", "option", unknown[1], known))
    if missing := _MISSING.match(what):
        what = f"needs {missing[1]}"
    elif what.startswith("takes "):  # Python counts `self`
        what = "got too many positional arguments"
    return f"{name}() {what}; expected {name}{inspect.Signature(parameters)}"


def _parameters(function: Callable[..., Any]) -> Iterator[inspect.Parameter]:
    """The parameters a caller passes, without types."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in ("self", "cls", "_cls"):
            yield parameter.replace(annotation=inspect.Parameter.empty)
