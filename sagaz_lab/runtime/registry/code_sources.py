"""The source of code: the statement of a class, the globals that a function uses, and the owner of a module."""

from __future__ import annotations

import ast
import dis
import functools
import linecache
import os
import sys
import sysconfig
from types import CodeType, FunctionType
from typing import NamedTuple

from sagaz_lab.errors import PACKAGE_FOLDER
from sagaz_lab.model.code import syntax_tree

_NOT_THE_USERS = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), PACKAGE_FOLDER.rstrip(os.sep))
_STORING = ("STORE_GLOBAL", "DELETE_GLOBAL")
_LOADING = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_GLOBAL = frozenset((*_STORING, *_LOADING))


class ClassSource(NamedTuple):
    """The class statement as text and as a tree without comments and layout; both empty if it is lost."""

    text: str = ""
    tree_text: str = ""
    file: str = ""
    first: int = 0
    last: int = 0


class Covered:
    """The lines of cells whose class statements cover the code within. Line numbers of a file may be stale."""

    def __init__(self) -> None:
        self._sources: set[ClassSource] = set()

    def add(self, source: ClassSource) -> None:
        if source.file and not os.path.exists(source.file):
            self._sources.add(source)

    def __contains__(self, code: CodeType) -> bool:
        return any(it.file == code.co_filename and it.first <= code.co_firstlineno <= it.last for it in self._sources)


def class_source(cls: type) -> ClassSource:
    """The class statement, from the file or cell of its methods."""
    for method in vars(cls).values():
        if not isinstance(method, FunctionType):
            continue
        file = method.__code__.co_filename
        text = "".join(linecache.getlines(file, method.__globals__))
        found = _class_around(file, text, cls.__name__, method.__code__.co_firstlineno)
        if found is not None:
            return found
    return ClassSource()


@functools.lru_cache(maxsize=256)
def _class_around(file: str, text: str, name: str, line: int) -> ClassSource | None:
    tree = _parse(text)
    if tree is None:
        return None
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == name)
    found = next((node for node in classes if node.lineno <= line <= (node.end_lineno or 0)), None)
    if found is None:
        return None
    first, last = min([found.lineno, *(d.lineno for d in found.decorator_list)]), found.end_lineno or 0
    lines = text.splitlines(keepends=True)
    return ClassSource("".join(lines[first - 1 : last]), ast.dump(found), file, first, last)


@functools.lru_cache(maxsize=32)
def _parse(text: str) -> ast.AST | None:
    try:
        return syntax_tree(text)
    except (SyntaxError, ValueError):
        return None


class Globals(NamedTuple):
    """Module-level names that code reads and assigns, including nested code, excluding attributes."""

    loaded: frozenset[str]
    stored: frozenset[str]


@functools.lru_cache(maxsize=1000)
def globals_of(code: CodeType) -> Globals:
    inner = [globals_of(constant) for constant in code.co_consts if isinstance(constant, CodeType)]
    used = [(found.opname, found.argval) for found in dis.get_instructions(code) if found.opname in _GLOBAL]
    loaded, stored = ({name for how, name in used if how in hows} for hows in (_LOADING, _STORING))
    return Globals(
        frozenset(loaded).union(*(it.loaded for it in inner)), frozenset(stored).union(*(it.stored for it in inner))
    )


def names_of(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= names_of(constant)
    return names


@functools.cache
def is_own(module: str | None) -> bool:
    """Whether its file is the user's: not Python's, an installed package's or ours."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    return file is not None and not file.startswith(_NOT_THE_USERS) and "site-packages" not in file
