"""Opens a Lab's store and sources. A source is the trigger's own, one of the Lab's kinds or one of the package's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from sagaz_lab.abc import Engine, Publisher, RevisionRow, Source, Store, Surroundings
from sagaz_lab.errors import DefinitionError, StoreError
from sagaz_lab.model.trigger import SourceSpec, Trigger, number_of
from sagaz_lab.texts import masked

V = TypeVar("V")

DEFAULT_STORE = "sqlite:///.sagaz_lab/lab.db"


def checked_option(option: str, value: V, verbs: Iterable[str], what: str) -> V:
    """The option's value if it has all these attributes. Raises `DefinitionError`."""
    if value is not None and (isinstance(value, type) or not all(hasattr(value, verb) for verb in verbs)):
        raise DefinitionError(f"Lab: {masked(f'{option}={value!r}')} must be {what}")
    return value


def checked_engine(engine: Engine | None, threads: int | None) -> Engine | None:
    """The custom engine, if any. Raises `DefinitionError`."""
    if not (engine is None or threads is None):
        raise DefinitionError("Lab: threads= is an option of the built-in engine; it does not go with engine=")
    return checked_option("engine", engine, ("launch", "attach", "cancel", "abandon", "close"), "an Engine")


class Package(Protocol):
    """The package's own kinds of source."""

    def open_source(self, spec: SourceSpec, surroundings: Surroundings) -> Source: ...

    def check(self, spec: SourceSpec) -> None: ...

    def checked(self, owner: str, returned: object) -> Source: ...

    def open_publisher(self, spec: SourceSpec, but_not: Container[str] | None = ()) -> Publisher | None: ...


class LabStore:
    """The Lab's store: given as an object, or made from its address on first use."""

    def __init__(
        self, where: str | Store, make: Callable[..., Store], retention_days: float, artifacts: str | Path | None
    ) -> None:
        if not isinstance(where, str):
            checked_option("store", where, ("open", "close"), "an address such as 'sqlite:///lab.db', or a Store")
            if artifacts is not None:
                raise DefinitionError("Lab: artifacts= goes with the address of a store; it does not go with a Store")
        self._where = where
        self._make = partial(make, artifacts=artifacts, retention_days=retention_days)
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            self._store = self.make(self._where)
        return self._store

    def make(self, where: str | Store) -> Store:
        """Raises `StoreError`."""
        return self._make(where) if isinstance(where, str) else where

    async def look(self, where: str | Store) -> Store:
        """Make a store and check that it can be opened. Raises `StoreError`."""
        store = self.make(where)
        if probe := getattr(store, "probe", None):
            await asyncio.to_thread(probe)
        return store

    def move(self, where: str | Store, store: Store) -> None:
        self._where, self._store = where, store

    def forget(self) -> None:
        """Its loop is gone: a store made from an address is recreated."""
        if isinstance(self._where, str) and self.store.traits.survives:
            self._store = None

    def revisions(self, saga: str, newest: int | None = None) -> Sequence[RevisionRow]:
        """Stored revisions, oldest first, all or the `newest` N; empty if the store keeps none."""
        try:
            return self.store.revisions(saga, newest)
        except StoreError:
            return ()


@dataclass(frozen=True, slots=True)
class Opening:
    """`makers` are the Lab's own kinds of source. With `offline` no source is opened."""

    package: Package
    makers: Mapping[str, Callable[..., Source]]
    offline: bool

    def __post_init__(self) -> None:
        what = "a mapping of kinds to functions of (settings, surroundings)"
        checked_option("sources", self.makers, ("items",), what)
        if not all(isinstance(kind, str) and callable(maker) for kind, maker in self.makers.items()):
            raise DefinitionError(f"Lab: {masked(f'sources={dict(self.makers)!r}')} must be {what}")

    def source(
        self, trigger: Trigger, spec: SourceSpec, surroundings: Callable[[str, int], Surroundings]
    ) -> Source | None:
        """None if the Lab is offline."""
        if self.offline:
            return None
        if trigger.source is not None:
            source: Source = trigger.source
            return source
        here = surroundings(trigger.name, number_of(trigger, spec))
        if maker := self.makers.get(spec.kind):
            return self.package.checked(f"Lab: sources[{spec.kind!r}]", maker(dict(spec.settings), here))
        return self.package.open_source(spec, here)

    def publisher(self, spec: SourceSpec) -> Publisher | None:
        """None if offline or for the Lab's own kinds."""
        return self.package.open_publisher(spec, but_not=None if self.offline else self.makers)
