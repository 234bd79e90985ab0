"""What a registration changed: the next revision, its diff, and warnings about what the diff does not show."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sagaz_lab.model.params import same
from sagaz_lab.model.saga import SagaDefinition
from sagaz_lab.runtime.registry.fingerprint import Fingerprint

SECRETS = (
    "its code contains a credential, which is stored and shown as ***: read it from the environment, "
    "as url=os.environ['REDIS_URL'] does"
)


@dataclass(frozen=True, slots=True)
class Change:
    """The effect of a registration. `previous` is the earlier revision, if any; `is_new`: it created a new one."""

    name: str
    revision: int
    previous: int | None
    is_new: bool
    diff: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """The change of code between two revisions: the `lines` of a unified diff, joined by `str`."""

    saga: str
    old: int
    new: int
    lines: Sequence[str]

    @property
    def added(self) -> int:
        return sum(line.startswith("+") for line in self.lines[2:])

    @property
    def removed(self) -> int:
        return sum(line.startswith("-") for line in self.lines[2:])

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return f"Diff({self.saga} r{self.old} -> r{self.new}: {self.added} added, {self.removed} removed)"


def definition_diff(before: SagaDefinition, after: SagaDefinition) -> list[str]:
    return text_diff(before.source_text, after.source_text, before.revision, after.revision)


def text_diff(before: str, after: str, old: int, new: int) -> list[str]:
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"revision {old}", f"revision {new}", lineterm="", n=2
    )
    return list(lines)


def warnings_of(before: SagaDefinition, after: SagaDefinition) -> list[str]:
    """Warnings about events that now flow elsewhere, or no longer."""
    found = []
    for method, old in before.triggers.items():
        name, new = old.name, after.triggers.get(method)
        if new is None:
            found.append(f"trigger {name} removed: its source {old.spec} is no longer read for it")
        elif new.spec.identity != old.spec.identity:
            found.append(f"trigger {name}: source changed from {old.spec} to {new.spec}")
    found += [
        f"trigger {new.name} added: {new.spec}"
        for method, new in after.triggers.items()
        if method not in before.triggers
    ]
    found += list(_param_warnings(before, after))
    found += [f"action {name} removed" for name in before.actions if name not in after.actions]
    return found


def unwritten(before: Fingerprint, now: Fingerprint) -> Iterator[str]:
    """Changes outside the text of the class."""
    if helpers := now.changed(before):
        yield f"helper changed: {', '.join(helpers)}"
    if before.source_text == now.source_text and (members := now.changed_members(before)):
        yield f"value changed: {', '.join(members)}"


def _param_warnings(before: SagaDefinition, after: SagaDefinition) -> Iterator[str]:
    for method, trigger in after.triggers.items():
        old = before.triggers[method].params if method in before.triggers else {}
        for name, default in trigger.params.items():
            if name in old and not same(old[name], default):
                was = f"its default was {old[name]!r}"
                yield f"trigger {trigger.name}: param {name} is {default!r} from now on; {was}"
