"""The marks that decorators leave on methods. A class that loses a marked method is an error."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from sagaz_lab.errors import DefinitionError

_WRITTEN = "__sagaz_written__"
"""The key, in a class body's namespace, of the methods marked so far. Each execution of the body has its own."""


class _Written(NamedTuple):
    """A method as written, with the line of its decorator."""

    method: str
    decorator: str
    line: int
    attribute: str
    mark: object

    def __str__(self) -> str:
        return f"{self.decorator} at line {self.line}"


def refuse_bare(decorator: str, given: Any) -> None:
    """Raises `DefinitionError` if the decorator lacks parentheses."""
    if callable(given):
        raise DefinitionError(f"@{decorator} on {_named(given)}: write @{decorator}(...) with parentheses")


def refuse_other_than_function(decorator: str, given: Any) -> None:
    """Raises `DefinitionError` for anything but a function: a `functools.partial`, `classmethod` or callable object."""
    if not inspect.isfunction(given):
        kind = type(given).__name__
        raise DefinitionError(f"{decorator} on {_named(given)}: it is a {kind}; decorate a method written with def")


def _named(given: Any) -> str:
    return getattr(given, "__qualname__", None) or f"a {type(given).__name__}"


def put_mark(function: Callable[..., Any], attribute: str, mark: object, decorator: str) -> None:
    """Mark the method and record it in the class body being executed, if any."""
    setattr(function, attribute, mark)
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_flags & inspect.CO_OPTIMIZED:  # a function: the user's own decorator
        frame = frame.f_back  # type: ignore[assignment]
    if frame is not None and "__qualname__" in frame.f_locals:  # else a module or a cell
        written = _Written(function.__name__, decorator, frame.f_lineno, attribute, mark)
        frame.f_locals.setdefault(_WRITTEN, []).append(written)


def refuse_lost_methods(cls: type) -> None:
    """Raises `DefinitionError` for a marked method lost from its class, such as one of two of the same name."""
    for base in cls.__mro__:
        members = vars(base)
        if (written := members.get(_WRITTEN)) is None:
            continue
        kept = {id(mark) for member in members.values() for mark in _marks(member, written)}
        for one in written:
            if id(one.mark) not in kept:
                raise DefinitionError(f"{base.__qualname__}.{one.method}: {_loss(base, one, written)}")
        delattr(base, _WRITTEN)


def _marks(member: Any, written: list[_Written]) -> Iterator[object]:
    function = getattr(member, "__func__", member)
    for attribute in {one.attribute for one in written}:
        yield getattr(function, attribute, None)


def _loss(cls: type, one: _Written, written: list[_Written]) -> str:
    if one.method not in vars(cls):
        return f"the class has lost the method of {one}; give each method its own name, or remove the decorator"
    heir = vars(cls)[one.method]
    marks = {id(mark) for mark in _marks(heir, written)}
    for other in written:
        if id(other.mark) in marks:
            return f"two methods have this name, {one} and {other}; give each its own name"
    code = getattr(heir, "__code__", None)
    if code is not None and code.co_qualname.rpartition(".")[0] == cls.__qualname__:
        return f"another of this name, at line {code.co_firstlineno}, replaces the method of {one}; rename one of them"
    if not hasattr(heir, "__get__"):
        return f"a value of this name, {type(heir).__name__}, replaces the method of {one}; rename one of them"
    return f"the decorator above {one} replaces the method; write it below, or use functools.wraps in it"
