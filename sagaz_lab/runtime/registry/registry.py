"""The sagas and their revisions: an immutable mapping, replaced in one assignment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial, wraps
from types import MappingProxyType
from typing import ParamSpec, Protocol, TypeVar

from sagaz_lab.abc import RevisionRow
from sagaz_lab.errors import DefinitionError, SagaConflict, UnknownName
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.runtime.registry.changes import SECRETS, Change, Diff, definition_diff, text_diff, unwritten, warnings_of
from sagaz_lab.runtime.registry.fingerprint import Fingerprint, fingerprint
from sagaz_lab.runtime.registry.payload_types import validator_of

T = TypeVar("T")
P = ParamSpec("P")


class CallThere(Protocol):
    def __call__(self, function: Callable[[], T], /) -> T: ...


KEPT_REVISIONS = 50
"""Revisions of a saga whose classes stay in memory for a rollback."""


@dataclass(slots=True)
class Staged:
    """Classes defined while staging, in order. `around` is the enclosing staging."""

    classes: list[type[Saga]] = field(default_factory=list)
    around: Staged | None = None


def _there(method: Callable[P, T]) -> Callable[P, T]:
    """Runs the method on the thread that decides events; for methods that replace the mapping."""

    @wraps(method)
    def called_there(*args: P.args, **options: P.kwargs) -> T:
        registry = args[0]
        assert isinstance(registry, Registry)
        return registry._call_there(partial(method, *args, **options))

    return called_there


def call_here(function: Callable[[], T]) -> T:
    return function()


class ReadRevisions(Protocol):
    """Reads a saga's stored revisions, oldest first: all, or the `newest` ones."""

    def __call__(self, saga: str, newest: int | None = None, /) -> Sequence[RevisionRow]: ...


class Registry:
    """`history` reads the stored revisions of a saga; `on_change` is called after every change; `now` is the time.

    `call_there` calls a function on the thread that decides events; every change happens there.
    """

    def __init__(
        self,
        history: ReadRevisions,
        on_change: Callable[[Sequence[Change]], None],
        now: Callable[[], float],
        call_there: CallThere = call_here,
    ) -> None:
        self._history = history
        self._on_change = on_change
        self._now = now
        self._call_there = call_there
        self._staged: Staged | None = None
        self._past: dict[str, dict[int, SagaDefinition]] = {}
        self._prints: dict[str, Fingerprint] = {}
        self.current: Mapping[str, SagaDefinition] = MappingProxyType({})

    def register(self, cls: type[Saga]) -> None:
        """Make the class current, or stage it. Raises `SagaConflict`."""
        if self._staged is not None:
            self._refuse_conflict(cls)
            self._staged.classes.append(cls)
        else:
            self.commit(Staged([cls]))

    @_there
    def unregister(self, name: str) -> None:
        if name not in self.current:
            raise UnknownName("unregister", "saga", name, self.current)
        change = Change(
            name, self.current[name].revision, self.current[name].revision, False, warnings=["unregistered"]
        )
        self._swap({n: d for n, d in self.current.items() if n != name})
        self._on_change([change])

    @contextmanager
    def staging(self) -> Iterator[Staged]:
        """Collect classes without making them current; `commit` makes them current."""
        staged = self.begin_staging()
        try:
            yield staged
        finally:
            self.end_staging(staged)

    def begin_staging(self) -> Staged:
        self._staged = Staged(around=self._staged)
        return self._staged

    def end_staging(self, staged: Staged) -> None:
        if self._staged is staged:
            self._staged = staged.around

    @_there
    def commit(self, staged: Staged) -> list[Change]:
        """Make the staged classes current, all or none. Raises `SagaConflict`."""
        latest = {_definition(cls).name: cls for cls in staged.classes}
        for cls in latest.values():
            self._refuse_conflict(cls)
        changes, news = [], {}
        for cls in latest.values():
            change, definition = self._next(_definition(cls), self._print(cls, _definition(cls)))
            changes.append(change)
            if definition is not None:
                news[definition.name] = definition
        self._make_current(news, changes)
        return changes

    def draft(self, cls: type[Saga]) -> tuple[Change, SagaDefinition]:
        """What registering the class would give, without doing it.

        Raises `SagaConflict`, and `DefinitionError` if no saga of its name is registered.
        """
        definition = _definition(cls)
        before = self.current.get(definition.name)
        if before is None:
            raise DefinitionError(
                f"no saga {definition.name!r} is registered, so there is nothing to run it beside; "
                "register it first: run its cell without --shadow"
            )
        self._refuse_conflict(cls)
        now = self._print(cls, definition)
        is_new = now.digest != before.digest
        number = self._last(definition.name) + 1 if is_new else before.revision
        after = replace(definition, revision=number, digest=now.digest, source_text=now.source_text)
        diff = definition_diff(before, after) if is_new else []
        return Change(definition.name, number, before.revision, is_new, diff), after

    def refresh(self) -> list[Change]:
        """Detect changed helpers and constants of the notebook: each saga that reaches one gets its next revision."""
        return self._refresh() if any(self._changed_helpers()) else []  # most cells change none and need not wait

    @_there
    def _refresh(self) -> list[Change]:
        changes, news = [], {}
        for name, _, now in list(self._changed_helpers()):
            definition, before = self.current[name], self._prints[name]
            change, changed = self._next(definition, now._replace(source_text=before.source_text))
            changes.append(change)
            if changed is not None:
                news[definition.name] = changed
        if news:
            self._make_current(news, changes)
        return changes

    def changed_helpers(self) -> dict[str, list[str]]:
        """By saga, the notebook code that it reaches and that has changed unnoticed."""
        return {name: helpers for name, helpers, _ in self._changed_helpers()}

    def _changed_helpers(self) -> Iterator[tuple[str, list[str], Fingerprint]]:
        for name, definition in self.current.items():
            if not _of_notebook(definition):
                continue
            before, now = self._prints[name], self._print(definition.cls, definition)
            helpers = now.changed(before)
            if helpers and before.digest != now.digest:
                yield name, helpers, now
            elif self._prints[name] is before:
                self._prints[name] = before._replace(known=now.known)  # drops the texts of objects that are gone

    def outdated(self) -> dict[str, dict[str, type]]:
        """By saga, the notebook classes that have been redefined differently since its cell ran."""
        found = {name: self._prints[name].outdated() for name, it in self.current.items() if _of_notebook(it)}
        return {name: classes for name, classes in found.items() if classes}

    def _print(self, cls: type[Saga], definition: SagaDefinition) -> Fingerprint:
        return fingerprint(cls, definition, self._prints.get(definition.name))

    @_there
    def rollback(self, name: str, number: int) -> Change:
        """Make an earlier revision current again, under its number."""
        if name not in self.current:
            raise UnknownName("rollback", "saga", name, self.current)
        past = self._past[name]
        if number not in past:
            stored = "; it is stored: run the code from lab.revisions() shows" if number in self._numbers(name) else ""
            raise UnknownName(f"rollback of {name}{stored}", "revision in this process", str(number), map(str, past))
        before, definition = self.current[name], past[number]
        self._prints[name] = self._print(definition.cls, definition)._replace(digest=definition.digest)
        change = Change(
            name, number, before.revision, False, definition_diff(before, definition), warnings_of(before, definition)
        )
        self._make_current({name: definition}, [change])
        return change

    @_there
    def renumber(self, name: str) -> Mapping[int, int]:
        """The store has other code under a number of this process: renumber its revisions.

        They get the numbers that the store has for them, or the next free ones. Returns the new number of each.
        """
        stored = self._history(name)
        digests, numbers = {row.number: row.digest for row in stored}, {row.digest: row.number for row in stored}
        past, became = self._past[name], dict[int, int]()
        last, moved = max([*past, *digests]), False
        for number in sorted(past):
            digest = past[number].digest
            moved = moved or digests.get(number, digest) != digest  # later revisions move too, to stay in order
            keeps = digests.get(number) == digest or not moved
            became[number] = number if keeps else numbers.get(digest, last + 1)
            last = max(last, became[number])
        self._past[name] = {became[old]: replace(it, revision=became[old]) for old, it in sorted(past.items())}
        for definition in self._past[name].values():
            definition.cls.__definition__ = definition
        current = self.current.get(name)
        if current is not None:
            self._swap({**self.current, name: self._past[name][became[current.revision]]})
        return became

    def past(self, name: str) -> Mapping[int, SagaDefinition]:
        """The revisions of this process by number; a copy, since other threads register."""
        return dict(self._past.get(name, ()))

    def stored(self, name: str) -> Sequence[RevisionRow]:
        """The stored revisions, oldest first, including earlier processes'."""
        return self._history(name)

    def diff(self, name: str, old: int, new: int) -> Diff:
        """The change of code between two revisions. Raises `UnknownName`."""
        codes = {row.number: row.source_text for row in self._history(name)}
        codes |= {number: definition.source_text for number, definition in self.past(name).items()}
        if not codes:
            raise UnknownName("diff", "saga", name, self.current)
        for number in (old, new):
            if number not in codes:
                raise UnknownName(f"diff of {name}", "revision", str(number), map(str, codes))
        return Diff(name, old, new, tuple(text_diff(codes[old], codes[new], old, new)))

    def _make_current(self, news: Mapping[str, SagaDefinition], changes: Sequence[Change]) -> None:
        before = self.current
        if news:
            self._swap({**before, **news})
        try:
            self._on_change(changes)
        except BaseException:
            self.current = before
            raise

    def _swap(self, sagas: Mapping[str, SagaDefinition]) -> None:
        self.current = MappingProxyType(dict(sagas))

    def _next(self, definition: SagaDefinition, now: Fingerprint) -> tuple[Change, SagaDefinition | None]:
        name = definition.name
        before = self.current.get(name)
        if before is not None and before.digest == now.digest:
            again = replace(
                definition,
                revision=before.revision,
                digest=before.digest,
                source_text=before.source_text,
                registered_at=before.registered_at,
            )
            definition.cls.__definition__ = again
            return self._same(again, now)
        stored = next(iter(self._history(name, 1)), None)
        last = max(self._last_here(name), 0 if stored is None else stored.number)
        if before is None and stored is not None and stored.digest == now.digest:
            number, at, is_new = stored.number, stored.at, False
        else:
            number, at, is_new = last + 1, self._now(), True
        after = replace(definition, revision=number, digest=now.digest, source_text=now.source_text, registered_at=at)
        definition.cls.__definition__ = after
        then, self._prints[name] = self._prints.get(name), now
        past = self._past.setdefault(name, {})
        past[number] = after
        while len(past) > KEPT_REVISIONS:
            del past[min(past)]
        previous = before.revision if before else (last or None)
        old_text = before.source_text if before else (stored.source_text if stored else "")
        diff = text_diff(old_text, after.source_text, previous, number) if is_new and previous is not None else []
        warnings = [*warnings_of(before, after), *unwritten(then, now)] if before and then else []
        if now.has_secrets:
            warnings.append(SECRETS)
        return Change(name, number, previous, is_new, diff, warnings), after

    def _same(self, again: SagaDefinition, now: Fingerprint) -> tuple[Change, SagaDefinition | None]:
        """The revision stays, with the new class if that holds something that may differ."""
        name, number = again.name, again.revision
        doubts = now.doubts(self._prints[name])
        if not doubts:
            return Change(name, number, number, False), None
        self._prints[name] = now
        self._past[name][number] = again
        warning = f"the new class is used from now on: its {', '.join(doubts)} cannot be compared with the one before"
        return Change(name, number, number, False, warnings=[warning]), again

    def _last(self, name: str) -> int:
        return max([self._last_here(name), *(row.number for row in self._history(name, 1))])

    def _last_here(self, name: str) -> int:
        """The newest revision of this process; 0 without any."""
        return max(self._past.get(name, ()), default=0)

    def _numbers(self, name: str) -> set[int]:
        return {row.number for row in self._history(name)}

    def _refuse_conflict(self, cls: type[Saga]) -> None:
        definition = _definition(cls)
        for trigger in definition.triggers.values():
            validator_of(trigger)  # an unusable payload type is refused where it is defined
        other = self.current.get(definition.name)
        if other is None:
            return
        here, there = (cls.__module__, cls.__qualname__), (other.cls.__module__, other.cls.__qualname__)
        if here[0] != there[0] or (here[1] != there[1] and here[0] != "__main__"):
            raise SagaConflict(
                f"{'.'.join(here)}: saga_name {definition.name!r} is taken by {'.'.join(there)}; "
                f"give it another saga_name, or call lab.unregister({definition.name!r}) first"
            )


def _definition(cls: type[Saga]) -> SagaDefinition:
    """Raises `DefinitionError` for anything but a saga class."""
    if isinstance(cls, Saga):
        raise DefinitionError(f"pass the saga's class, {type(cls).__qualname__}, not an instance")
    if not (isinstance(cls, type) and issubclass(cls, Saga)):
        what = f"class {cls.__qualname__}" if isinstance(cls, type) else f"value of type {type(cls).__qualname__}"
        raise DefinitionError(f"the {what} is not a saga: pass a class that derives from Saga")
    if cls.__definition__ is None:
        raise DefinitionError(f"{cls.__qualname__} is abstract: it decides nothing")
    return cls.__definition__


def _of_notebook(definition: SagaDefinition) -> bool:
    return definition.cls.__module__ == "__main__"
