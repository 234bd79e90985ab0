"""What makes two versions of a saga the same: its code, its evaluated options, and what it reaches of the user's."""

from __future__ import annotations

import ast
import dataclasses
import dis
import functools
import hashlib
import inspect
import linecache
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from sagaz_lab.model.code import PLAIN, code_text, constant_text, function_text
from sagaz_lab.model.saga import Saga, SagaDefinition

_NOT_THE_USERS = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"),
                  os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # fmt: skip
_STORING = ("STORE_GLOBAL", "DELETE_GLOBAL")
_LOADING = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_GLOBAL = frozenset((*_STORING, *_LOADING))


class Fingerprint(NamedTuple):
    """`digest` stands for all; `reached` has a digest for each function and constant outside the class, by name."""

    digest: str
    source_text: str
    reached: Mapping[str, str]


def fingerprint(cls: type[Saga], definition: SagaDefinition) -> Fingerprint:
    tree, text = class_source(cls)
    methods = [m for base in cls.__mro__ if issubclass(base, Saga) and base is not Saga for m in vars(base).values()]
    functions = [m for m in methods if isinstance(m, FunctionType)]
    code = ast.dump(tree) if tree is not None else "".join(code_text(f.__code__) for f in functions)
    payloads = [t.payload_type for t in definition.triggers.values() if isinstance(t.payload_type, type)]
    reached = dict(_reached(functions, payloads, cls.__module__))
    whole = "\n".join([code, _options(definition), *(f"{name}={digest}" for name, digest in sorted(reached.items()))])
    return Fingerprint(_digest(whole), text, reached)


def class_source(cls: type) -> tuple[ast.ClassDef | None, str]:
    """The class statement, from the file or cell that its methods were compiled from; (None, "") if that is gone."""
    for method in vars(cls).values():
        if not isinstance(method, FunctionType):
            continue
        lines = linecache.getlines(method.__code__.co_filename, method.__globals__)
        found = _class_around("".join(lines), cls.__name__, method.__code__.co_firstlineno)
        if found is not None:
            start = min([found.lineno, *(d.lineno for d in found.decorator_list)])
            return found, "".join(lines[start - 1 : found.end_lineno])
    return None, ""


def _class_around(text: str, name: str, line: int) -> ast.ClassDef | None:
    tree = _parse(text)
    if tree is None:
        return None
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    return next((node for node in classes if node.lineno <= line <= (node.end_lineno or 0)), None)


@functools.lru_cache(maxsize=32)
def _parse(text: str) -> ast.AST | None:
    try:
        # A cell may use await at its top level.
        tree: ast.AST = compile(text, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        return tree
    except (SyntaxError, ValueError):
        return None


def _reached(functions: list[FunctionType], payloads: list[type], module: str) -> Iterator[tuple[str, str]]:
    """The user's functions, classes and constants that these functions use, directly or not: those of the saga's
    module, and of modules that are not installed, which `%autoreload` may change in place."""
    seen: set[str] = set()
    stored = {name for function in functions for name in _stored_globals(function, module)}
    waiting = [(kind.__name__, kind) for kind in payloads] + [used for f in functions for used in _used(f, module)]
    while waiting:
        name, value = waiting.pop()
        value = inspect.unwrap(value) if callable(value) and not isinstance(value, type) else value
        if name in seen or name in stored:
            continue
        if isinstance(value, FunctionType) and (value.__module__ == module or _is_own(value.__module__)):
            seen.add(name)
            waiting += _used(value, module)
            stored |= set(_stored_globals(value, module))
            yield f"{name}()", _digest(_plain(value))
        elif isinstance(value, type) and (value.__module__ == module or _is_own(value.__module__)):
            if issubclass(value, Saga):
                continue
            seen.add(name)
            methods = [m for m in vars(value).values() if isinstance(m, FunctionType)]
            waiting += [used for method in methods for used in _used(method, module)]
            yield name, _digest(_class_text(value, methods))
        elif isinstance(value, PLAIN):
            seen.add(name)
            yield name, _digest(constant_text(value))


def _class_text(cls: type, methods: list[FunctionType]) -> str:
    fields = {n: v for n, v in vars(cls).items() if not n.startswith("__") and isinstance(v, PLAIN)}
    return _plain([getattr(cls, "__annotations__", {}), fields, methods])


def _used(function: FunctionType, home: str) -> Iterator[tuple[str, Any]]:
    """By name, with its module where that is not the saga's."""
    names, there = _names(function.__code__), _prefix(function, home)
    for name in _globals_of(function.__code__).loaded:
        if name not in function.__globals__:
            continue
        value = function.__globals__[name]
        yield there + name, value
        if isinstance(value, ModuleType) and _is_own(value.__name__):
            yield from ((f"{value.__name__}.{inner}", vars(value)[inner]) for inner in names if inner in vars(value))
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield there + name, cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue


def _prefix(function: FunctionType, home: str) -> str:
    return "" if function.__module__ == home else f"{function.__module__}."


@functools.cache
def _is_own(module: str | None) -> bool:
    """Whether its file is the user's: not Python's, not an installed package's and not ours."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is not None and not file.startswith(_NOT_THE_USERS) and "site-packages" not in file


def _names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names(constant)
    return names


class Globals(NamedTuple):
    """Names of its module that code reads and assigns, in what it has inside too. Those of attributes are none."""

    loaded: frozenset[str]
    stored: frozenset[str]


@functools.lru_cache(maxsize=1000)
def _globals_of(code: CodeType) -> Globals:
    inner = [_globals_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    used = [(found.opname, found.argval) for found in dis.get_instructions(code) if found.opname in _GLOBAL]
    loaded, stored = ({name for how, name in used if how in hows} for hows in (_LOADING, _STORING))
    return Globals(
        frozenset(loaded).union(*(it.loaded for it in inner)), frozenset(stored).union(*(it.stored for it in inner))
    )


def _stored_globals(function: FunctionType, home: str) -> Iterator[str]:
    """What changes while it runs is no constant."""
    return (_prefix(function, home) + name for name in _globals_of(function.__code__).stored)


def _options(definition: SagaDefinition) -> str:
    parts = [definition.name, definition.on_failure, _plain(definition.config)]
    parts += [_plain(action) for action in definition.actions.values()]
    parts += [_plain(compensation) for compensation in definition.compensations.values()]
    for trigger in definition.triggers.values():
        parts += [
            trigger.name,
            trigger.spec.identity,
            _plain(trigger.gates),
            _plain(trigger.config),
            _plain(trigger.decode),
            _plain(dict(trigger.params)),
        ]
    return "\n".join(parts)


def _plain(value: Any) -> str:
    """A text that is the same for an object that is made anew in the same way."""
    if isinstance(value, FunctionType):
        return function_text(value, _without_place)
    if isinstance(value, functools.partial):
        return f"partial({_plain([value.func, value.args, value.keywords])})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(_plain(getattr(value, f.name)) for f in dataclasses.fields(value))})"
    return constant_text(value) if isinstance(value, PLAIN) else _without_place(value)


def _without_place(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
