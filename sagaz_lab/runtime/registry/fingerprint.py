"""The identity of a saga's version: its code, its evaluated options, and the user's code and values that it reaches."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from sagaz_lab.model.masked_code import masked_code
from sagaz_lab.model.options import Placed, has_data_by_identity, identity, secrets_in
from sagaz_lab.model.saga import Saga, SagaDefinition
from sagaz_lab.model.trigger import SourceSpec, Trigger, specs_of
from sagaz_lab.runtime.registry.code_sources import class_source
from sagaz_lab.runtime.registry.reach import Known, Reach, digest


class Fingerprint(NamedTuple):
    """`digest` covers everything; `reached` has a digest per function, class and value outside the class, by name.

    `members` has one per member of the class. `unsure` maps addresses of objects that cannot be compared to their class
    names; `classes` are the user's classes that the saga holds; `known` are the texts that the next fingerprint starts
    from. `has_secrets`: the class contains credentials, which `source_text` masks.
    """

    digest: str
    source_text: str
    reached: Mapping[str, str]
    members: Mapping[str, str]
    unsure: Mapping[int, str]
    classes: Mapping[str, type]
    known: Known
    has_secrets: bool

    def changed(self, before: Fingerprint) -> list[str]:
        """The reached names that differ from before."""
        return _differing(before.reached, self.reached)

    def changed_members(self, before: Fingerprint) -> list[str]:
        return _differing(before.members, self.members)

    def outdated(self) -> dict[str, type]:
        """The notebook classes that the saga holds although a cell has since redefined them, by name."""
        found = {name: _class_now(cls) for name, cls in self.classes.items() if cls.__module__ == "__main__"}
        return {name: now for name, now in found.items() if now and _differ(now, self.classes[name])}

    def doubts(self, before: Fingerprint) -> list[str]:
        """The classes of objects that may differ from before although the digest does not."""
        return sorted({name for address, name in self.unsure.items() if address not in before.unsure})


def _class_now(cls: type) -> type | None:
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    return found if isinstance(found, type) else None


def _differ(one: type, other: type) -> bool:
    return one is not other and _alone(one) != _alone(other)


def _alone(cls: type) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Its own texts, and the digests of what it reaches."""
    reach = Reach(cls.__module__, {})
    reach.cover(cls)
    return reach.parts_of_class(cls), reach.reached()


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


def fingerprint(cls: type[Saga], definition: SagaDefinition, before: Fingerprint | None = None) -> Fingerprint:
    """Texts known from `before` are reused: what has been mutated since is state, not code."""
    reach = Reach(cls.__module__, before.known if before is not None else {})
    reach.cover(cls)
    own, options = reach.parts_of_class(cls), _options(definition, reach)
    reached = reach.reached()
    parts = [f"{name}: {text}" for name, text in own.items()]
    whole = "\n".join([*parts, *options, *(f"{name}={one}" for name, one in sorted(reached.items()))])
    unsure = [kept.anchor for kept in reach.known.values() if id(kept.anchor) in reach.unsure]
    written = class_source(cls).text
    shown = masked_code(written, secrets_of(definition))
    return Fingerprint(
        digest=digest(whole),
        source_text=shown,
        reached=reached,
        members={f"{cls.__name__}{name}": digest(text) for name, text in own.items() if name.startswith(".")},
        unsure={id(one): type(one).__qualname__ for one in unsure},
        classes=dict(reach.classes),
        known=reach.known,
        has_secrets=shown != written,
    )


def secrets_of(definition: SagaDefinition) -> set[str]:
    """The credentials in the settings of its sources."""
    specs = [spec for trigger in definition.triggers.values() for spec in specs_of(trigger)]
    return set().union(*(secrets_in(spec.settings) for spec in specs))


def _options(definition: SagaDefinition, reach: Reach) -> list[str]:
    """The options as evaluated."""
    found = [definition.name, definition.on_failure, reach.text(definition.config)]
    found += map(reach.text, definition.actions.values())
    found += map(reach.text, definition.compensations.values())
    for trigger in definition.triggers.values():
        told = (trigger.gates, trigger.config, trigger.decode, trigger.params, trigger.ranges, trigger.payload_type)
        found += [trigger.name, _sources(trigger, reach), *map(reach.text, told)]
        found += [reach.text(value) for _, value in sorted(trigger.spec.settings.items()) if callable(value)]
    return found


def _sources(trigger: Trigger, reach: Reach) -> str:
    parts = [_as_written(spec, reach) for spec in specs_of(trigger)]
    return f"{trigger.spec.kind}:{parts}" if trigger.composite else parts[0]


def _as_written(spec: SourceSpec, reach: Reach) -> str:
    """The spec without the folder of a path and without the address of data too large to compare: the same code
    elsewhere is the same revision.
    """
    if has_data_by_identity(spec.kind, spec.settings, spec.identity):
        told = reach.doubtful(spec.settings["data"])
        return f"{identity(spec.kind, {**spec.settings, 'data': None})} {told}"
    paths = {name: str(value) for name, value in spec.settings.items() if isinstance(value, Placed)}
    return identity(spec.kind, {**spec.settings, **paths}) if paths else spec.identity
