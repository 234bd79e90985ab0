"""Canonical texts of the user's code that other code reaches: the same in every process for the same code only."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from sagaz_lab.model.code import code_text, constant_text
from sagaz_lab.model.saga import ROLE, Saga
from sagaz_lab.model.trigger import MARK
from sagaz_lab.runtime.registry.code_sources import Covered, class_source, globals_of, is_own, names_of

LONG = 500
"""Characters of a constant shown in a text; a longer one is shown as its digest."""

SIZE, PARTS = 16 * 2**20, 5000
"""Limits in bytes and objects for an object of a library's class; a larger one cannot be compared."""

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), CodeType)
_LISTS, _SETS, _MAPPINGS = (list, tuple, deque), (set, frozenset), (dict, MappingProxyType)
_BUILT_IN: tuple[type[Any], ...] = (*_LISTS, *_SETS, dict, str, bytes, int, float)
"""Base classes whose content is not in the attributes of an instance."""

_CODE = (FunctionType, property, classmethod, staticmethod)
_SLOTS = (GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType)
_CONSTRAINTS = frozenset({
    "__annotations__", "__attrs_attrs__", "__dataclass_fields__", "__dataclass_params__", "__optional_keys__",
    "__orig_bases__", "__private_attributes__", "__pydantic_decorators__", "__pydantic_fields__", "__required_keys__",
    "__struct_config__", "__struct_defaults__", "__struct_encode_fields__", "__struct_fields__", "__total__",
})  # fmt: skip
"""Dunder names under which payload types keep their constraints. All others are Python's own."""

_CHANGING = frozenset({"cls_ref", "_abc_impl"})
"""Attributes of libraries' objects that hold addresses and caches."""

_NOT_OF_THE_CODE = frozenset({ROLE, MARK})
_ITS_GLOBALS = ""
"""Refers to a function's globals, which are looked up each time."""


class Kept(NamedTuple):
    """The text of an object, or of a place's first value, and what the text refers to.

    `anchor` is the object or the place's owner; it is kept so that its address is not reused.
    """

    anchor: object
    text: str
    refers: tuple[tuple[str, Any], ...]
    unsure: frozenset[int]


Known = Mapping[Any, Kept]


class _Opaque(Exception):
    """An object whose state cannot be read."""


class Reach:
    """Texts of values. State mutated at run time, such as lists and counters, keeps its first text.

    `known` are the texts of an earlier reach. `unsure` are addresses of objects that cannot be compared: two of them
    may differ although their texts are equal.
    """

    def __init__(self, home: str, known: Known) -> None:
        self._home = home
        self._before = known
        self.known: dict[Any, Kept] = {}
        self.unsure: set[int] = set()
        self.classes: dict[str, type] = {}
        self._digests: dict[str, set[str]] = {}
        self._stored: set[str] = set()
        self._seen: set[tuple[str, int]] = set()
        self._refers: list[tuple[str, Any]] = []
        self._open: set[int] = set()
        self._strict = 0
        self._parts = 0
        self._covered = Covered()

    def reached(self) -> dict[str, str]:
        """A digest for each outside function, class and value that the texts refer to, by name."""
        while self._refers:
            name, value = self._refers.pop()
            if (name, id(value)) in self._seen:
                continue
            self._seen.add((name, id(value)))
            if name == _ITS_GLOBALS:
                self._refers += self._used(value)
                continue
            if isinstance(value, type) and self._is_users(value.__module__):
                self.classes.setdefault(name, value)
                text = "\n".join(f"{part}: {told}" for part, told in self.parts_of_class(value).items())
            else:
                text = self.text(value)
                name += "()" if callable(value) and not isinstance(value, type) else ""
            self._digests.setdefault(name, set()).add(digest(text))
        return {name: digest(" ".join(sorted(found))) for name, found in self._digests.items()
                if name.removesuffix("()") not in self._stored}  # fmt: skip

    def cover(self, cls: type) -> None:
        """Exclude this class from what is reached."""
        self._seen.add((self._name(cls), id(cls)))

    def doubtful(self, value: Any) -> str:
        """The text of an object that is not inspected: another of its class may differ."""
        self.unsure.add(id(value))
        self.known[id(value)] = Kept(value, f"some {self._class_name(type(value))}", (), frozenset({id(value)}))
        return self.known[id(value)].text

    # --- values ---

    def text(self, value: Any) -> str:
        kind = type(value)
        if kind in _CONSTANTS:
            return _constant(value)
        if kind in _LISTS:
            return self._one_by_one(value, self._sequence)
        if kind in _SETS:
            return f"{{{', '.join(sorted(map(self.text, value)))}}}"
        if kind in _MAPPINGS:
            return self._one_by_one(value, self._mapping)
        if isinstance(value, FunctionType):
            return self._function(value)
        if arguments := get_args(value):
            return f"{self.text(get_origin(value))}[{', '.join(map(self.text, arguments))}]"
        if isinstance(value, type):
            return self._class_name(value)
        return self._special(value)

    def _special(self, value: Any) -> str:
        if isinstance(value, ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, property):
            return f"property({', '.join(map(self.text, (value.fget, value.fset, value.fdel)))})"
        if isinstance(value, classmethod | staticmethod):
            return f"{type(value).__name__}({self.text(value.__func__)})"
        if isinstance(value, MethodType):
            return f"{self.text(value.__func__)} of {self.text(value.__self__)}"
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            return f"{'' if owner is None else self.text(owner)}.{value.__name__}"
        if isinstance(value, _SLOTS):
            return f"{type(value).__name__} {value.__name__}"
        return self._instance(value)

    def _sequence(self, values: Any) -> str:
        return f"{type(values).__name__}[{', '.join(map(self.text, values))}]"

    def _mapping(self, values: Any) -> str:
        return f"{{{', '.join(f'{self.text(key)}: {self.text(item)}' for key, item in values.items())}}}"

    # --- what is seen once ---

    def _one_by_one(self, value: Any, describe: Callable[[Any], str]) -> str:
        return self._once(id(value), value, lambda: describe(value))

    def _once(self, key: Any, anchor: object, describe: Callable[[], str]) -> str:
        """Described once, at first sight; within itself it is only named."""
        if key in self._open:
            return "itself"
        kept = self.known.get(key) or self._before.get(key)
        if kept is None:
            kept = self._look(key, anchor, describe)
        else:
            self._refers += kept.refers
        self.unsure |= kept.unsure
        self.known[key] = kept
        return kept.text

    def _look(self, key: Any, anchor: object, describe: Callable[[], str]) -> Kept:
        mark, outside, self.unsure = len(self._refers), self.unsure, set()
        self._open.add(key)
        try:
            text = describe()
        except _Opaque:
            if self._strict:
                raise
            del self._refers[mark:]
            self.unsure = {id(anchor)}
            text = f"some {self._class_name(type(anchor))}"
        finally:
            self._open.discard(key)
            unsure, self.unsure = self.unsure, outside
        return Kept(anchor, text, tuple(self._refers[mark:]), frozenset(unsure))

    # --- objects ---

    def _instance(self, value: Any) -> str:
        if isinstance(value, Enum):
            return f"{self._class_name(type(value))}.{value.name} {self.text(value.value)}"
        if dataclasses.is_dataclass(value):
            names = [it.name for it in dataclasses.fields(value) if it.name not in _CHANGING]
            return self._once(id(value), value, lambda: self._fields(value, names))
        users = self._is_users(type(value).__module__)
        return self._once(id(value), value, lambda: self._attributes(value) if users else self._reduced(value))

    def _fields(self, value: Any, names: Iterable[str]) -> str:
        found = {name: getattr(value, name) for name in names if hasattr(value, name)}
        return f"{self._class_name(type(value))}({self._mapping({**getattr(value, '__dict__', {}), **found})})"

    def _attributes(self, value: Any) -> str:
        """For an object of a user's class."""
        found = dict(getattr(value, "__dict__", {}))
        slots = [name for cls in type(value).__mro__ for name in _slots(cls)]
        found |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        inside = next((kind(value) for kind in _BUILT_IN if isinstance(value, kind)), None)
        arguments = value.args if isinstance(value, BaseException) else ()
        return f"{self._class_name(type(value))}({self.text(inside)}, {self.text(arguments)}, {self._mapping(found)})"

    def _reduced(self, value: Any) -> str:
        """For an object of a library's class, as pickle would store it. Raises `_Opaque`."""
        self._strict += 1
        try:
            return self._parts_of(value)
        finally:
            self._strict -= 1
            if not self._strict:
                self._parts = 0

    def _parts_of(self, value: Any) -> str:
        self._parts += 1
        kind = type(value)
        if self._parts > PARTS or kind.__module__ == "itertools":
            raise _Opaque
        try:
            reduced = copyreg.dispatch_table.get(kind) or (lambda it: it.__reduce_ex__(4))
            found = reduced(value) if sys.getsizeof(value) <= SIZE else None
            parts = found if found is None or isinstance(found, str) else [*found[:3], *map(_listed, found[3:])]
        except Exception:  # from the object's own code
            parts = None
        if parts is None:
            return _constructor_repr(value)
        if isinstance(parts, str):
            return f"{kind.__module__}.{kind.__qualname__} {parts} {self.text(getattr(value, '__wrapped__', None))}"
        state = parts[2] if len(parts) > 2 else None
        if isinstance(state, dict):
            parts[2] = {name: one for name, one in state.items() if name not in _CHANGING}
        return f"{kind.__module__}.{kind.__qualname__}({', '.join(map(self.text, parts))})"

    # --- functions ---

    def _function(self, function: FunctionType) -> str:
        """Its code and the values it holds; the name suffices for an installed function that holds none."""
        users = self._is_users(function.__module__)
        if id(function) in self._open or not (users or function.__closure__):
            return f"{function.__module__}.{function.__qualname__}"
        self._open.add(id(function))
        try:
            parts = [] if function.__code__ in self._covered else [code_text(function.__code__)]
            parts += map(self.text, function.__defaults__ or ())
            parts += [f"{name}={self.text(value)}" for name, value in (function.__kwdefaults__ or {}).items()]
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
            parts += [f"{name}: {self._cell(cell)}" for name, cell in cells]
            parts += [f".{name}: {self._place(function, name, value)}" for name, value in vars(function).items()
                      if name not in _NOT_OF_THE_CODE]  # fmt: skip
        finally:
            self._open.discard(id(function))
        self._refers.append((_ITS_GLOBALS, function))
        self._stored.update(self._prefix(function) + name for name in globals_of(function.__code__).stored)
        return f"function({'|'.join(parts)})"

    def _cell(self, cell: CellType) -> str:
        try:
            value = cell.cell_contents
        except ValueError:
            return "not filled yet"
        return self._place(cell, "", value)

    def _place(self, owner: object, name: str, value: Any) -> str:
        """Code is read each time, as `%autoreload` changes it in place; other values are state once described."""
        if isinstance(value, (*_CODE, type, MethodType)):
            return self.text(value)
        return self._once((id(owner), name), owner, lambda: self.text(value))

    def _used(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        """The values of its globals by name, prefixed with the module if that is not the saga's."""
        names, there = names_of(function.__code__), self._prefix(function)
        for name in sorted(globals_of(function.__code__).loaded & function.__globals__.keys()):
            value = function.__globals__[name]
            if not (isinstance(value, type) and issubclass(value, Saga)):  # a saga run by name has its own revisions
                yield there + name, value
            if isinstance(value, ModuleType):
                yield from self._used_of(value, names)

    def _used_of(self, module: ModuleType, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        if is_own(module.__name__):
            for name in sorted(vars(module).keys() & names):
                inner = vars(module)[name]
                yield f"{module.__name__}.{name}", inner
                if isinstance(inner, ModuleType) and inner.__name__ == f"{module.__name__}.{name}":
                    yield from self._used_of(inner, names)

    def _prefix(self, function: FunctionType) -> str:
        return "" if function.__module__ == self._home else f"{function.__module__}."

    # --- classes ---

    def parts_of_class(self, cls: type) -> dict[str, str]:
        """Its statement, if available, and its evaluated members by name."""
        source = class_source(cls)
        self._covered.add(source)
        parts = {"class": source.tree_text, "bases": self._sequence(cls.__bases__), "kind": self.text(type(cls))}
        parts["hints"] = self._hints(cls)
        kept_by_kind = {name: getattr(cls, name) for name in sorted(_CONSTRAINTS) if hasattr(type(cls), name)}
        if (settings := kept_by_kind.get("__struct_config__")) is not None:  # has no repr and cannot be pickled
            kept_by_kind["__struct_config__"] = {n: getattr(settings, n) for n in dir(settings) if n[0] != "_"}
        for name, member in [*vars(cls).items(), *kept_by_kind.items()]:
            is_pythons = name.startswith("__") and name.endswith("__")
            if not (name in _CHANGING or (is_pythons and name not in _CONSTRAINTS and not isinstance(member, _CODE))):
                parts[f".{name}"] = self._place(cls, name, member)
        return parts

    def _hints(self, cls: type) -> str:
        """The evaluated annotations."""
        annotations = vars(cls).get("__annotations__")
        # On `type` itself it is a descriptor.
        if not isinstance(annotations, dict) or not any(isinstance(one, str) for one in annotations.values()):
            return ""
        try:
            hints = get_type_hints(cls, include_extras=True)
        except Exception:  # a name defined later, or never
            return ""
        return self._mapping({name: hints[name] for name in annotations if name in hints})

    def _class_name(self, cls: type) -> str:
        if not self._is_users(cls.__module__):
            return f"{cls.__module__}.{cls.__qualname__}"
        name = self._name(cls)
        self._refers.append((name, cls))
        return f"class {name}"

    def _name(self, cls: type) -> str:
        return cls.__qualname__ if cls.__module__ == self._home else f"{cls.__module__}.{cls.__qualname__}"

    def _is_users(self, module: str | None) -> bool:
        return module in (self._home, "__main__") or is_own(module)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _constant(value: Any) -> str:
    text = constant_text(value)
    return text if len(text) <= LONG else f"{type(value).__name__} {digest(text)}"


def _constructor_repr(value: Any) -> str:
    """A repr in the form of a constructor call. Raises `_Opaque`."""
    try:
        text = repr(value)
    except Exception:
        raise _Opaque from None
    if not text.startswith(f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}(") or " at 0x" in text:
        raise _Opaque
    return text


def _listed(part: Any) -> Any:
    """The items that a reduced object yields through iterators, as a list."""
    return None if part is None or callable(part) else list(part)


@functools.cache
def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)
