"""What a Lab opens for a trigger: its own source, one of the Lab's, or one of the package's."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from sagaz_lab.abc import Publisher, Source, Surroundings
from sagaz_lab.model.trigger import SourceSpec, Trigger


class Package(Protocol):
    """The package's own kinds of source."""

    def open_source(self, spec: SourceSpec, surroundings: Surroundings) -> Source: ...

    def open_publisher(self, spec: SourceSpec, but_not: Container[str] | None = ()) -> Publisher | None: ...


@dataclass(frozen=True, slots=True)
class Opening:
    """`makers` are the Lab's own kinds of source; `offline`: none is opened at all."""

    package: Package
    makers: Mapping[str, Callable[..., Source]]
    offline: bool

    def source(self, trigger: Trigger, spec: SourceSpec, surroundings: Callable[[], Surroundings]) -> Source | None:
        """None where the Lab is offline."""
        if self.offline:
            return None
        if trigger.source is not None:
            source: Source = trigger.source
            return source
        if maker := self.makers.get(spec.kind):
            return maker(dict(spec.settings), surroundings())
        return self.package.open_source(spec, surroundings())

    @property
    def publisher(self) -> Callable[[SourceSpec], Publisher | None]:
        """Opens the publisher of a kind of source; offline, and for the Lab's own kinds, there is none."""
        return partial(self.package.open_publisher, but_not=None if self.offline else self.makers)
